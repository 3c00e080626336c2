//! `ttft=0.25,tpot=0.1`

/// What users expect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Targets {
    pub(crate) ttft_ms: f64,
    pub(crate) tpot_ms: f64,
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum TargetsError {
    #[error("{0:?} isn't NAME=SECONDS; give both targets, as in ttft=0.25,tpot=0.1")]
    Syntax(String),
    #[error("{0:?} is no target; there are ttft and tpot")]
    Unknown(String),
    #[error("{name} is {given:?}; it must be a number of seconds above 0")]
    Value { name: String, given: String },
    #[error("{0} is given twice")]
    Twice(&'static str),
    #[error("{0} is missing; give both targets, as in ttft=0.25,tpot=0.1")]
    Missing(&'static str),
}

pub(crate) fn parse(text: &str) -> Result<Targets, TargetsError> {
    let (mut ttft, mut tpot) = (None, None);
    for part in text.split(',') {
        let syntax = || TargetsError::Syntax(part.to_owned());
        let (name, given) = part.split_once('=').ok_or_else(syntax)?;
        let (name, target) = match name.trim() {
            "ttft" => ("ttft", &mut ttft),
            "tpot" => ("tpot", &mut tpot),
            other => return Err(TargetsError::Unknown(other.to_owned())),
        };
        let seconds = given.trim().parse().ok().filter(|s: &f64| *s > 0.0 && s.is_finite());
        let value = || TargetsError::Value { name: name.to_owned(), given: given.to_owned() };
        if target.replace(1e3 * seconds.ok_or_else(value)?).is_some() {
            return Err(TargetsError::Twice(name));
        }
    }
    let ttft_ms = ttft.ok_or(TargetsError::Missing("ttft"))?;
    let tpot_ms = tpot.ok_or(TargetsError::Missing("tpot"))?;
    Ok(Targets { ttft_ms, tpot_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_targets_in_any_order() {
        let both = Targets { ttft_ms: 250.0, tpot_ms: 100.0 };
        assert_eq!(parse("ttft=0.25,tpot=0.1"), Ok(both));
        assert_eq!(parse("tpot=0.1, ttft=0.25"), Ok(both));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (given, told) in [
            ("ttft=0.25", "tpot is missing"),
            ("tpot=0.1", "ttft is missing"),
            ("", "isn't NAME=SECONDS"),
            ("ttft=0.25,tbt=1", "\"tbt\" is no target"),
            ("ttft=-1,tpot=0.1", "ttft is \"-1\""),
            ("ttft=inf,tpot=0.1", "ttft is \"inf\""),
            ("ttft=1,ttft=2,tpot=1", "ttft is given twice"),
        ] {
            let error = parse(given).expect_err(given).to_string();
            assert!(error.contains(told), "{given}: {error}");
        }
    }
}
