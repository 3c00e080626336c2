use std::{fmt, time::Duration};

/// Each unit in nanoseconds, the largest first.
const UNITS: [(&str, u128); 5] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
];

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("{given:?} is no duration; expected a number and its unit (us, ms, s, m, h): 1.5s")]
    Syntax { given: String },
    #[error("{given:?} is finer than a nanosecond or longer than 500 billion years")]
    Range { given: String },
}

/// A decimal number with its unit: `250us`, `1.5s`, `2m`. Exact to the nanosecond.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let given = || text.to_owned();
    let syntax = || DurationError::Syntax { given: given() };
    let range = || DurationError::Range { given: given() };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(syntax)?;
    let (number, unit) = text.split_at(end);
    let (_, nanos) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(syntax)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(syntax());
    }
    let fraction = fraction.trim_end_matches('0');
    let scale = 10_u128.checked_pow(fraction.len() as u32).ok_or_else(range)?;
    let parse = |text: &str| if text.is_empty() { Ok(0) } else { text.parse::<u128>() };
    let whole = parse(whole).map_err(|_too_long| range())?;
    let fraction = parse(fraction).map_err(|_too_long| range())?;
    let fine = fraction.checked_mul(nanos).filter(|fine| fine % scale == 0).ok_or_else(range)?;
    let all = whole.checked_mul(nanos).and_then(|all| all.checked_add(fine / scale));
    let all = all.ok_or_else(range)?;
    let seconds = u64::try_from(all / 1_000_000_000).map_err(|_too_long| range())?;
    Ok(Duration::new(seconds, (all % 1_000_000_000) as u32))
}

/// As [`parse_duration`] reads it, in the largest unit of which it is a whole number.
pub fn show_duration(duration: Duration) -> impl fmt::Display {
    let nanos = duration.as_nanos();
    let whole = UNITS.into_iter().find(|(_, unit)| nanos.is_multiple_of(*unit));
    match whole {
        _ if nanos == 0 => "0s".to_owned(),
        Some((name, unit)) => format!("{}{name}", nanos / unit),
        None => {
            let text = format!("{}.{:03}", nanos / 1000, nanos % 1000);
            format!("{}us", text.trim_end_matches('0'))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_and_its_unit() {
        for (text, nanos, shown) in [
            ("60s", 60_000_000_000, "1m"),
            ("90s", 90_000_000_000, "90s"),
            ("500ms", 500_000_000, "500ms"),
            ("1.50s", 1_500_000_000, "1500ms"),
            ("2m", 120_000_000_000, "2m"),
            ("0.5h", 1_800_000_000_000, "30m"),
            ("0.001us", 1, "0.001us"),
            ("1.25us", 1250, "1.25us"),
            ("0ms", 0, "0s"),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_nanos(nanos), "{text}");
            assert_eq!(show_duration(duration).to_string(), shown);
        }
    }

    #[test]
    fn what_is_none_is_told() {
        for text in ["", "5", "s", ".5s", "5.s", "1.2.3s", "5 s", "5d", "-5s", "1e3s", "5S", "٣s"]
        {
            let error = parse_duration(text).unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?} is no duration")), "{error}");
        }
        for text in ["0.0001us", "99999999999999999999s", "1.0000000000001h"] {
            let error = parse_duration(text).unwrap_err().to_string();
            assert!(error.contains("finer than a nanosecond"), "{error}");
        }
        let endless = format!("0.{}s", "3".repeat(60));
        assert!(matches!(parse_duration(&endless), Err(DurationError::Range { .. })));
    }

    proptest! {
        #[test]
        fn every_duration_comes_back(seconds: u64, nanos in 0_u32..1_000_000_000) {
            let duration = Duration::new(seconds, nanos);
            prop_assert_eq!(parse_duration(&show_duration(duration).to_string()), Ok(duration));
        }
    }
}
