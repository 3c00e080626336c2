use std::time::Duration;

use rand_distr::{Distribution, Exp1, Gamma};
use serde::{Deserialize, Serialize};

use super::WorkloadError;
use crate::random::Draws;

/// When requests come. Rates are requests a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Arrivals {
    /// Nobody knows of the others.
    Poisson { rate: f64 },
    /// Gamma-distributed gaps; a coefficient of variation above 1 makes bursts, 1 is Poisson.
    Gamma { rate: f64, cv: f64 },
    /// Like clockwork.
    Constant { rate: f64 },
    /// Poisson, at a rate that goes from one to the other in so many seconds and stays there.
    Ramp { from: f64, to: f64, over_s: f64 },
    /// Poisson at `rate`, but at `peak` from one time to the other.
    Surge { rate: f64, peak: f64, from_s: f64, to_s: f64 },
}

impl Arrivals {
    /// The rate in the end.
    pub fn rate(&self) -> f64 {
        match *self {
            Arrivals::Poisson { rate }
            | Arrivals::Gamma { rate, .. }
            | Arrivals::Constant { rate }
            | Arrivals::Surge { rate, .. } => rate,
            Arrivals::Ramp { to, .. } => to,
        }
    }

    /// The same shape at another rate.
    #[must_use]
    pub fn at_rate(self, rate: f64) -> Self {
        match self {
            Arrivals::Poisson { .. } => Arrivals::Poisson { rate },
            Arrivals::Gamma { cv, .. } => Arrivals::Gamma { rate, cv },
            Arrivals::Constant { .. } => Arrivals::Constant { rate },
            Arrivals::Ramp { from, to, over_s } => {
                Arrivals::Ramp { from: from * rate / to, to: rate, over_s }
            }
            Arrivals::Surge { rate: before, peak, from_s, to_s } => {
                Arrivals::Surge { rate, peak: peak * rate / before, from_s, to_s }
            }
        }
    }

    pub(super) fn validate(&self) -> Result<(), WorkloadError> {
        let positive = |name, given: f64| match given > 0.0 && given.is_finite() {
            true => Ok(()),
            false => Err(WorkloadError::Value { name, given, must: "a number above 0" }),
        };
        match *self {
            Arrivals::Poisson { rate } | Arrivals::Constant { rate } => positive("rate", rate),
            Arrivals::Gamma { rate, cv } => {
                positive("rate", rate)?;
                positive("cv", cv)
            }
            Arrivals::Ramp { from, to, over_s } => {
                positive("from", from)?;
                positive("to", to)?;
                positive("over_s", over_s)
            }
            Arrivals::Surge { rate, peak, from_s, to_s } => {
                positive("rate", rate)?;
                positive("peak", peak)?;
                positive("from_s", from_s)?;
                positive("to_s", to_s)?;
                let (name, given, must) = ("to_s", to_s, "above from_s");
                if to_s > from_s { Ok(()) } else { Err(WorkloadError::Value { name, given, must }) }
            }
        }
    }

    /// The time from an arrival at `now` to the next.
    pub(super) fn gap(&self, now: Duration, rng: &mut Draws) -> Duration {
        let exponential = |rng: &mut Draws| -> f64 { Exp1.sample(rng) };
        let seconds = match *self {
            Arrivals::Poisson { rate } => exponential(rng) / rate,
            Arrivals::Constant { rate } => 1.0 / rate,
            Arrivals::Gamma { rate, cv } => {
                let shape = 1.0 / (cv * cv);
                let gamma = Gamma::new(shape, 1.0 / (shape * rate));
                gamma.map_or(1.0 / rate, |gamma| gamma.sample(rng))
            }
            Arrivals::Ramp { from, to, over_s } => {
                ramp_gap(now.as_secs_f64(), exponential(rng), from, to, over_s)
            }
            Arrivals::Surge { rate, peak, from_s, to_s } => {
                let parts = [(from_s, rate), (to_s, peak), (f64::INFINITY, rate)];
                surge_gap(now.as_secs_f64(), exponential(rng), parts)
            }
        };
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 4)
    }
}

/// Until the integral of the rate from `now` on reaches `events`, of rates that hold until a time each.
fn surge_gap(now: f64, events: f64, parts: [(f64, f64); 3]) -> f64 {
    let (mut at, mut left) = (now, events);
    for (until, rate) in parts {
        let in_part = (until - at).max(0.0) * rate;
        if left <= in_part {
            return at + left / rate - now;
        }
        (at, left) = (at.max(until), left - in_part);
    }
    f64::INFINITY
}

/// Until the integral of the rate from `now` on reaches `events`.
fn ramp_gap(now: f64, events: f64, from: f64, to: f64, over: f64) -> f64 {
    if now >= over {
        return events / to;
    }
    let (rate, slope) = (from + (to - from) * now / over, (to - from) / over);
    // rate·t + slope·t²/2 = events
    let reached = rate * (over - now) + slope * (over - now).powi(2) / 2.0;
    if events > reached {
        return over - now + (events - reached) / to;
    }
    let root = (rate * rate + 2.0 * slope * events).max(0.0).sqrt();
    2.0 * events / (rate + root)
}
