//! What is in time, and what a run must reach.

use std::{fmt, str::FromStr, time::Duration};

use baton_workload::parse_duration;

use crate::outcome::Outcome;

/// What each request is to be served in. What isn't named is always met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Objectives {
    /// From when it was due to its first token.
    pub ttft: Option<Duration>,
    /// The mean from one token to the next.
    pub tpot: Option<Duration>,
    /// From when it was due to its end.
    pub e2e: Option<Duration>,
}

/// Objectives of one class, or of all that have none of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slo {
    pub class: Option<String>,
    pub objectives: Objectives,
    /// Of all its requests together: `ttft.p99=500ms`.
    pub goals: Vec<Goal>,
}

/// A quantile that must not be above this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    pub latency: Latency,
    pub quantile: Quantile,
    pub limit: Duration,
}

/// What is timed of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Latency {
    Ttft,
    Tpot,
    /// Between two messages.
    Itl,
    E2e,
}

/// Of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantile {
    Mean,
    P50,
    P90,
    P95,
    P99,
    Max,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is no objective: {why}; write it like ttft=300ms,tpot=50ms,e2e=10s,ttft.p99=500ms, with a class like chat:ttft=300ms"
)]
pub struct SloError {
    given: String,
    why: String,
}

impl Objectives {
    /// Whether the request was answered wholly and in time. One that wasn't answered met nothing.
    pub fn met(&self, outcome: &Outcome) -> bool {
        outcome.is_completed()
            && self.met_ttft(outcome)
            && self.met_tpot(outcome)
            && self.met_e2e(outcome)
    }

    pub fn met_ttft(&self, outcome: &Outcome) -> bool {
        let within = |limit| outcome.ttft().is_some_and(|ttft| ttft <= limit);
        outcome.is_completed() && self.ttft.is_none_or(within)
    }

    /// One token alone has no time per token.
    pub fn met_tpot(&self, outcome: &Outcome) -> bool {
        let late = |limit| outcome.tpot().is_some_and(|tpot| tpot > limit);
        outcome.is_completed() && !self.tpot.is_some_and(late)
    }

    pub fn met_e2e(&self, outcome: &Outcome) -> bool {
        let within = |limit| outcome.e2e().is_some_and(|e2e| e2e <= limit);
        outcome.is_completed() && self.e2e.is_none_or(within)
    }
}

impl FromStr for Slo {
    type Err = SloError;

    fn from_str(given: &str) -> Result<Self, SloError> {
        let wrong = |why: String| SloError { given: given.to_owned(), why };
        let (class, parts) = match given.split_once(':') {
            Some(("", _)) => return Err(wrong("the class has no name".to_owned())),
            Some((class, parts)) => (Some(class.to_owned()), parts),
            None => (None, given),
        };
        let mut slo = Slo { class, objectives: Objectives::default(), goals: Vec::new() };
        for part in parts.split(',') {
            let (name, value) =
                part.split_once('=').ok_or_else(|| wrong(format!("{part:?} has no =")))?;
            let limit = parse_duration(value).map_err(|error| wrong(error.to_string()))?;
            if limit.is_zero() {
                return Err(wrong(format!("{name} is 0, which nothing meets")));
            }
            slo.add(name.trim(), limit).map_err(wrong)?;
        }
        Ok(slo)
    }
}

impl Slo {
    fn add(&mut self, name: &str, limit: Duration) -> Result<(), String> {
        let (latency, quantile) = match name.split_once('.') {
            Some((latency, quantile)) => (latency.parse::<Latency>()?, Some(quantile.parse()?)),
            None => (name.parse::<Latency>()?, None),
        };
        if let Some(quantile) = quantile {
            self.goals.push(Goal { latency, quantile, limit });
            return Ok(());
        }
        let place = match latency {
            Latency::Ttft => &mut self.objectives.ttft,
            Latency::Tpot => &mut self.objectives.tpot,
            Latency::E2e => &mut self.objectives.e2e,
            Latency::Itl => return Err("itl is of all requests together: write itl.p99".to_owned()),
        };
        match place.replace(limit) {
            None => Ok(()),
            Some(_) => Err(format!("{name} is there twice")),
        }
    }
}

impl Latency {
    pub const ALL: [Latency; 4] = [Latency::Ttft, Latency::Tpot, Latency::Itl, Latency::E2e];

    pub fn name(self) -> &'static str {
        match self {
            Latency::Ttft => "ttft",
            Latency::Tpot => "tpot",
            Latency::Itl => "itl",
            Latency::E2e => "e2e",
        }
    }
}

impl FromStr for Latency {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let found = Latency::ALL.into_iter().find(|latency| latency.name() == given);
        found.ok_or_else(|| format!("{given:?} is none of ttft, tpot, itl, e2e"))
    }
}

impl Quantile {
    pub const ALL: [Quantile; 6] =
        [Quantile::Mean, Quantile::P50, Quantile::P90, Quantile::P95, Quantile::P99, Quantile::Max];

    pub fn name(self) -> &'static str {
        match self {
            Quantile::Mean => "mean",
            Quantile::P50 => "p50",
            Quantile::P90 => "p90",
            Quantile::P95 => "p95",
            Quantile::P99 => "p99",
            Quantile::Max => "max",
        }
    }
}

impl FromStr for Quantile {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let found = Quantile::ALL.into_iter().find(|quantile| quantile.name() == given);
        found.ok_or_else(|| format!("{given:?} is none of mean, p50, p90, p95, p99, max"))
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} ≤ {:?}", self.latency.name(), self.quantile.name(), self.limit)
    }
}

impl fmt::Display for Objectives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Objectives { ttft, tpot, e2e } = self;
        let named = [("TTFT", ttft), ("TPOT", tpot), ("end to end", e2e)];
        let said: Vec<String> = named
            .into_iter()
            .filter_map(|(name, limit)| Some(format!("{name} ≤ {:?}", (*limit)?)))
            .collect();
        if said.is_empty() { write!(f, "no objective") } else { write!(f, "{}", said.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_read() {
        let slo: Slo = "chat:ttft=300ms,tpot=50ms,e2e=10s,ttft.p99=1.5s".parse().unwrap();
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(slo.class.as_deref(), Some("chat"));
        assert_eq!(slo.objectives, Objectives { ttft: ms(300), tpot: ms(50), e2e: ms(10_000) });
        let limit = Duration::from_millis(1500);
        assert_eq!(slo.goals, [Goal { latency: Latency::Ttft, quantile: Quantile::P99, limit }]);
        assert_eq!("ttft=1ms".parse::<Slo>().unwrap().class, None);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |given: &str, told: &str| {
            let error = given.parse::<Slo>().unwrap_err().to_string();
            assert!(
                error.contains(told) && error.contains(given),
                "{error:?} doesn't tell {told:?}"
            );
        };
        check("ttft", "has no =");
        check("ttft=300", "300");
        check("ttft=0ms", "which nothing meets");
        check("ttft=1ms,ttft=2ms", "twice");
        check("tfft=1ms", "none of ttft");
        check("ttft.p98=1ms", "none of mean");
        check("itl=1ms", "itl.p99");
        check(":ttft=1ms", "no name");
        check("", "has no =");
    }
}
