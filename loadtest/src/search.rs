//! How much a target can take: the highest arrival rate at which enough requests meet their objectives (DistServe's
//! goodput, OSDI'24 §2). Pure: it says what to run next, and is told what came of it.
//!
//! A rate is *enough* or *too much* when the mean attainment of its runs lies on one side of what is wanted with a
//! confidence of 95 % (Student's t over runs, each with another seed); until then it is run again, up to a bound,
//! and after that its mean decides, which the statement says. So the search begins by doubling or halving, goes on by
//! bisection, and ends by running both ends in turn until each is sure, so that a machine that has slowed down meanwhile
//! is noticed.

use baton_workload::Estimate;
use serde::{Deserialize, Serialize};

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SearchConfig {
    /// The share of requests that must meet their objectives.
    pub wanted: f64,
    /// Where to begin, requests a second.
    pub first: f64,
    /// It ends when the ends are as near as this share of the upper one.
    pub precision: f64,
    /// Runs at each rate: at least, and at most.
    pub fewest: u32,
    pub most: u32,
    /// The most runs in all.
    pub budget: u32,
}

impl Default for SearchConfig {
    fn default() -> Self {
        SearchConfig { wanted: 0.9, first: 1.0, precision: 0.05, fewest: 2, most: 5, budget: 60 }
    }
}

/// A run to be made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Probe {
    pub rate: f64,
    /// Of the schedule: which run at this rate it is.
    pub nth: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Search {
    config: SearchConfig,
    rates: Vec<Tried>,
    runs: u32,
}

/// What is known of a rate.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tried {
    pub rate: f64,
    pub attainments: Vec<f64>,
}

/// How a rate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    Enough,
    TooMuch,
    /// By its mean, though its interval doesn't say so.
    BarelyEnough,
    BarelyTooMuch,
    /// It must be run again.
    Open,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    /// The highest rate that was enough,
    pub low: Option<f64>,
    /// and the lowest that was too much.
    pub high: Option<f64>,
    /// Both are so with a confidence of 95 %.
    pub is_sure: bool,
    pub runs: u32,
    /// Lowest first.
    pub tried: Vec<Tried>,
}

/// Beyond this times the first rate, or below its inverse, there is nothing to be found.
const WIDEST: f64 = 131_072.0;

impl Search {
    pub(crate) fn new(config: SearchConfig) -> Self {
        Search { config, rates: Vec::new(), runs: 0 }
    }

    /// What to run next; nothing when it is done.
    pub(crate) fn next(&self) -> Option<Probe> {
        if self.runs >= self.config.budget {
            return None;
        }
        if let Some(open) = self.rates.iter().find(|tried| self.stands(tried) == Stands::Open) {
            return Some(open.again());
        }
        let (low, high) = self.ends();
        let SearchConfig { first, precision, .. } = self.config;
        let rate = match (low, high) {
            (None, None) => first,
            (Some(low), None) => low.rate * 2.0,
            (None, Some(high)) => high.rate / 2.0,
            (Some(low), Some(high)) if high.rate - low.rate > precision * high.rate => {
                (low.rate * high.rate).sqrt()
            }
            (Some(low), Some(high)) => return self.confirm(low, high),
        };
        ((first / WIDEST)..=(first * WIDEST)).contains(&rate).then_some(Probe { rate, nth: 0 })
    }

    /// What came of a run.
    pub(crate) fn told(&mut self, probe: Probe, attainment: f64) {
        self.runs += 1;
        match self.rates.iter_mut().find(|tried| tried.rate == probe.rate) {
            Some(tried) => tried.attainments.push(attainment),
            None => {
                self.rates.push(Tried { rate: probe.rate, attainments: vec![attainment] });
                self.rates.sort_by(|a, b| a.rate.total_cmp(&b.rate));
            }
        }
    }

    pub(crate) fn found(&self) -> Found {
        let (low, high) = self.ends();
        let is_sure = |end: Option<&Tried>| {
            end.is_some_and(|end| matches!(self.stands(end), Stands::Enough | Stands::TooMuch))
        };
        Found {
            low: low.map(|tried| tried.rate),
            high: high.map(|tried| tried.rate),
            is_sure: is_sure(low) && is_sure(high),
            runs: self.runs,
            tried: self.rates.clone(),
        }
    }

    /// The ends in turn, until both are sure.
    fn confirm(&self, low: &Tried, high: &Tried) -> Option<Probe> {
        let SearchConfig { most, .. } = self.config;
        let unsure = [(low, Stands::BarelyEnough), (high, Stands::BarelyTooMuch)];
        let open = unsure
            .into_iter()
            .filter(|(tried, barely)| self.stands(tried) == *barely && tried.runs() < most)
            .min_by_key(|(tried, _)| tried.runs());
        open.map(|(tried, _)| tried.again())
    }

    /// The highest rate below which nothing is too much, and the next one that is.
    fn ends(&self) -> (Option<&Tried>, Option<&Tried>) {
        let is_too_much =
            |tried: &&Tried| matches!(self.stands(tried), Stands::TooMuch | Stands::BarelyTooMuch);
        let high = self.rates.iter().find(is_too_much);
        let below = |tried: &&Tried| high.is_none_or(|high| tried.rate < high.rate);
        (self.rates.iter().rfind(below), high)
    }

    fn stands(&self, tried: &Tried) -> Stands {
        let SearchConfig { wanted, fewest, most, .. } = self.config;
        let mean = tried.estimate().mean;
        let is_enough = mean >= wanted;
        // Far off, one run says it: no spread that was ever seen bridges this.
        let is_far =
            if is_enough { mean >= 1.0 - (1.0 - wanted) * 0.1 } else { mean < wanted - 0.25 };
        if tried.runs() < fewest && !is_far {
            return Stands::Open;
        }
        let is_sure = is_far || tried.is_apart(wanted);
        match (is_enough, is_sure) {
            (true, true) => Stands::Enough,
            (false, true) => Stands::TooMuch,
            _ if tried.runs() < most => Stands::Open,
            (true, false) => Stands::BarelyEnough,
            (false, false) => Stands::BarelyTooMuch,
        }
    }
}

impl Tried {
    fn runs(&self) -> u32 {
        self.attainments.len() as u32
    }

    fn again(&self) -> Probe {
        Probe { rate: self.rate, nth: self.runs() }
    }

    /// Of its runs.
    pub(crate) fn estimate(&self) -> Estimate {
        Estimate::of(&self.attainments)
    }

    /// Whether the runs' interval lies on one side of what is wanted.
    fn is_apart(&self, wanted: f64) -> bool {
        let Estimate { mean, half_width } = self.estimate();
        (mean - wanted).abs() > half_width
    }

    /// With its interval, if that says on which side of what is wanted it is.
    fn show(&self, wanted: f64) -> String {
        let Estimate { mean, half_width } = self.estimate();
        let spread = match self.is_apart(wanted) {
            true => format!(" ± {:.1}", 100.0 * half_width),
            false => String::new(),
        };
        let runs = if self.runs() == 1 { "run" } else { "runs" };
        format!("{:.1}{spread} % in {} {runs}", 100.0 * mean, self.runs())
    }
}

impl Found {
    /// In words.
    pub(crate) fn statement(&self, config: &SearchConfig) -> String {
        let wanted = 100.0 * config.wanted;
        let find = |rate: f64| self.tried.iter().find(|tried| tried.rate == rate);
        let of = |rate: f64| find(rate).map_or_else(String::new, |tried| tried.show(config.wanted));
        match (self.low, self.high) {
            (Some(low), Some(high)) => {
                let by_far = |rate| find(rate).is_some_and(|tried| !tried.is_apart(config.wanted));
                let sure = match self.is_sure {
                    true if by_far(low) || by_far(high) => "which is too far from it to be chance",
                    true => "with 95 % confidence at both ends",
                    false => {
                        "though the runs spread too much to be sure; give it longer or more runs"
                    }
                };
                format!(
                    "{wanted:.0} % of requests meet their objectives up to between {low:.3} requests/s ({}) and {high:.3} ({}), {sure}",
                    of(low),
                    of(high)
                )
            }
            (Some(low), None) => format!(
                "at {low:.3} requests/s {} meet their objectives: its limit wasn't reached; offer more, or run for longer",
                of(low)
            ),
            (None, Some(high)) => format!(
                "even at {high:.4} requests/s only {} meet their objectives, {wanted:.0} % were wanted: no rate is low enough",
                of(high)
            ),
            (None, None) => "nothing was tried".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs it against a target that meets less the more it gets.
    fn run(config: SearchConfig, capacity: f64, noise: impl Fn(u32) -> f64) -> Found {
        let mut search = Search::new(config);
        let mut runs = 0;
        while let Some(probe) = search.next() {
            let over = probe.rate / capacity;
            // Exactly what is wanted at the capacity, and steep around it, as queues are.
            let met = 1.0 / (1.0 + over.powi(12) * (1.0 - config.wanted) / config.wanted);
            search.told(probe, (met + noise(runs)).clamp(0.0, 1.0));
            runs += 1;
            assert!(runs <= config.budget);
        }
        search.found()
    }

    proptest! {
        #[test]
        fn it_finds_what_there_is(capacity in 0.01_f64..1000.0, first in 0.1_f64..100.0) {
            let config = SearchConfig { first, ..SearchConfig::default() };
            let found = run(config, capacity, |_| 0.0);
            let (low, high) = (found.low.unwrap(), found.high.unwrap());
            prop_assert!(low <= capacity * 1.0001 && capacity <= high * 1.0001, "{low} {capacity} {high}");
            prop_assert!(high - low <= config.precision * high * 1.0001);
            prop_assert!(found.is_sure, "{found:?}");
        }

        #[test]
        fn noise_widens_what_it_says_and_never_keeps_it_busy(seed in 0_u64..1000) {
            let noise = |run: u32| {
                let drawn = baton_workload::random::mix(seed << 32 | u64::from(run));
                0.04 * ((drawn >> 11) as f64 / (1_u64 << 53) as f64 - 0.5)
            };
            let found = run(SearchConfig { first: 3.0, ..SearchConfig::default() }, 10.0, noise);
            let (low, high) = (found.low.unwrap(), found.high.unwrap());
            // At 8 % off the attainment is off by 7 points, which such noise can't bridge.
            prop_assert!(low > 9.0 && high < 11.0 , "{found:?}");
            prop_assert!(found.statement(&SearchConfig::default()).contains("requests/s"));
        }
    }

    /// An interval that reaches beyond all that can be is none to be told.
    #[test]
    fn what_is_far_off_needs_no_interval() {
        let found = Found {
            low: Some(10.0),
            high: Some(12.0),
            is_sure: true,
            runs: 3,
            tried: vec![
                Tried { rate: 10.0, attainments: vec![1.0] },
                Tried { rate: 12.0, attainments: vec![0.8, 0.4] },
            ],
        };
        let said = found.statement(&SearchConfig::default());
        assert!(
            said.contains("(100.0 % in 1 run)") && said.contains("(60.0 % in 2 runs)"),
            "{said}"
        );
        assert!(said.ends_with("too far from it to be chance"), "{said}");
    }

    #[test]
    fn there_may_be_nothing_to_find() {
        let config = SearchConfig::default();
        let found = run(config, 1e12, |_| 0.0);
        assert!(found.low.is_some() && found.high.is_none());
        assert!(found.statement(&config).contains("wasn't reached"));
        let found = run(config, 1e-12, |_| 0.0);
        assert!(found.low.is_none() && found.high.is_some());
        assert!(found.statement(&config).contains("no rate is low enough"));
    }
}
