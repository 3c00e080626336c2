use std::{fmt, str::FromStr, time::Duration};

use rand_distr::{Distribution, Exp1, Gamma};
use serde::{Deserialize, Serialize};

use crate::{
    FormError, WorkloadError,
    duration::show_duration,
    form::{Form, unknown},
    random::Draws,
};

/// When requests come. Rates are requests a second.
///
/// On a command line: `poisson:rate=4`, `gamma:rate=4,cv=2`, `constant:rate=4`, `ramp:from=1,to=10,over=60s`,
/// `surge:rate=2,peak=8,from=10s,to=20s`. Times are to the nanosecond there.
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

    /// Refuses rates and times nothing can be drawn at.
    pub fn validate(&self) -> Result<(), WorkloadError> {
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

    /// How many are to be expected by `at`: the integral of the rate.
    pub fn expected_by(&self, at: Duration) -> f64 {
        let at = at.as_secs_f64();
        match *self {
            Arrivals::Poisson { rate }
            | Arrivals::Gamma { rate, .. }
            | Arrivals::Constant { rate } => rate * at,
            Arrivals::Ramp { from, to, over_s } => {
                let (during, after) = (at.min(over_s), (at - over_s).max(0.0));
                during * (from + (to - from) * during / over_s / 2.0) + to * after
            }
            Arrivals::Surge { rate, peak, from_s, to_s } => {
                let high = (at.min(to_s) - from_s).max(0.0);
                rate * (at - high) + peak * high
            }
        }
    }

    /// The time from an arrival at `now`, or from the beginning at zero, to the next. It follows from what is
    /// drawn alone; a time no [`Duration`] holds becomes a very long one.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use baton_workload::{Arrivals, random::{Purpose, draws}};
    /// let (arrivals, mut draws) = (Arrivals::Poisson { rate: 4.0 }, draws(7, Purpose::Arrivals));
    /// let mut now = Duration::ZERO;
    /// let mut next = || {
    ///     now += arrivals.gap(now, &mut draws);
    ///     now
    /// };
    /// assert!(next() < next());
    /// ```
    pub fn gap(&self, now: Duration, rng: &mut Draws) -> Duration {
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

const POISSON: &str = "poisson:rate=4";
const GAMMA: &str = "gamma:rate=4,cv=2";
const CONSTANT: &str = "constant:rate=4";
const RAMP: &str = "ramp:from=1,to=10,over=60s";
const SURGE: &str = "surge:rate=2,peak=8,from=10s,to=20s";

impl FromStr for Arrivals {
    type Err = FormError;

    fn from_str(given: &str) -> Result<Self, FormError> {
        parse(given, None)
    }
}

impl Arrivals {
    /// Of `poisson`, `gamma:cv=2` or `constant`, and a rate that was given elsewhere.
    pub fn shaped(given: &str, rate: f64) -> Result<Self, FormError> {
        parse(given, Some(rate))
    }
}

fn parse(given: &str, rate: Option<f64>) -> Result<Arrivals, FormError> {
    let (name, rest) =
        given.split_once(':').map_or((given, None), |(name, rest)| (name, Some(rest)));
    let form = |expected| Form::new(given, rest, expected);
    let own = |form: &mut Form<'_>| match rate {
        None => form.number("rate"),
        Some(_) if form.has("rate") => Err(FormError::Rates { given: given.to_owned() }),
        Some(rate) => Ok(rate),
    };
    let (arrivals, form) = match name {
        "poisson" => {
            let mut form = form(POISSON)?;
            (Arrivals::Poisson { rate: own(&mut form)? }, form)
        }
        "gamma" => {
            let mut form = form(GAMMA)?;
            (Arrivals::Gamma { rate: own(&mut form)?, cv: form.number("cv")? }, form)
        }
        "constant" => {
            let mut form = form(CONSTANT)?;
            (Arrivals::Constant { rate: own(&mut form)? }, form)
        }
        "ramp" | "surge" if rate.is_some() => {
            return Err(FormError::Rates { given: given.to_owned() });
        }
        "ramp" => {
            let mut form = form(RAMP)?;
            let (from, to) = (form.number("from")?, form.number("to")?);
            (Arrivals::Ramp { from, to, over_s: form.duration("over")? }, form)
        }
        "surge" => {
            let mut form = form(SURGE)?;
            let (rate, peak) = (form.number("rate")?, form.number("peak")?);
            let (from_s, to_s) = (form.duration("from")?, form.duration("to")?);
            (Arrivals::Surge { rate, peak, from_s, to_s }, form)
        }
        _ => return Err(unknown(given, &[POISSON, GAMMA, CONSTANT, RAMP, SURGE])),
    };
    form.end()?;
    arrivals.validate()?;
    Ok(arrivals)
}

/// As it is parsed.
impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time =
            |seconds| show_duration(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        match *self {
            Arrivals::Poisson { rate } => write!(f, "poisson:rate={rate}"),
            Arrivals::Gamma { rate, cv } => write!(f, "gamma:rate={rate},cv={cv}"),
            Arrivals::Constant { rate } => write!(f, "constant:rate={rate}"),
            Arrivals::Ramp { from, to, over_s } => {
                write!(f, "ramp:from={from},to={to},over={}", time(over_s))
            }
            Arrivals::Surge { rate, peak, from_s, to_s } => {
                let (from, to) = (time(from_s), time(to_s));
                write!(f, "surge:rate={rate},peak={peak},from={from},to={to}")
            }
        }
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

#[cfg(test)]
mod tests;
