use std::time::Duration;

use baton_types::Slo;
use serde::{Deserialize, Serialize};

/// How advice is made.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdviceConfig {
    pub formula: Formula,
    /// The share of requests that are to meet both objectives.
    pub attainment: f64,
    /// Of requests that name none, for the first token
    pub ttft: Duration,
    /// and for each of the others.
    pub tpot: Duration,
    /// Over how long the load is measured. Surges beyond chance count sooner.
    pub window: Duration,
    /// How often the load is looked at.
    pub every: Duration,
    /// The cool-down after a change before the recommendation may rise,
    pub up_after: Duration,
    /// and how long fewer nodes must have been enough before it falls.
    pub down_after: Duration,
    /// They must have been enough for a load that is larger by this share.
    pub threshold: f64,
}

/// By what the nodes that are wanted are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Formula {
    /// The smallest pools of which it is predicted that they meet the objectives together.
    #[default]
    Predicted,
    /// ⌈rate / goodput of one node⌉ for each phase (DistServe, OSDI'24, §4).
    Distserve,
    /// ⌈tokens a second / throughput of one node⌉, with correction factors (Dynamo's planner).
    Dynamo,
}

impl Formula {
    pub const ALL: [Formula; 3] = [Formula::Predicted, Formula::Distserve, Formula::Dynamo];

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Formula::Predicted => "predicted",
            Formula::Distserve => "distserve",
            Formula::Dynamo => "dynamo",
        }
    }
}

/// A value that makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{name} is {given}; it must be {must}")]
pub struct AdviceError {
    /// The key.
    pub name: &'static str,
    pub given: String,
    pub must: &'static str,
}

impl AdviceConfig {
    /// Refuses what makes no sense, by name.
    pub fn validate(&self) -> Result<(), AdviceError> {
        let error = |name, given: &dyn std::fmt::Debug, must| {
            Err(AdviceError { name, given: format!("{given:?}"), must })
        };
        let (short, long) = (Duration::from_millis(100), Duration::from_secs(24 * 3600));
        for (name, given) in [
            ("advice.window", self.window),
            ("advice.every", self.every),
            ("advice.down_after", self.down_after),
        ] {
            if !(short..=long).contains(&given) {
                return error(name, &given, "from 100ms to 24h");
            }
        }
        for (name, given) in [("advice.ttft", self.ttft), ("advice.tpot", self.tpot)] {
            if given.is_zero() {
                return error(name, &given, "above 0");
            }
        }
        if !(0.01..1.0).contains(&self.attainment) {
            return error("advice.attainment", &self.attainment, "from 0.01 to below 1");
        }
        if !(0.0..=1.0).contains(&self.threshold) {
            return error("advice.threshold", &self.threshold, "a share from 0 to 1");
        }
        // So that a recommendation never falls sooner than it rises.
        if self.up_after > self.down_after {
            return error("advice.up_after", &self.up_after, "down_after at most");
        }
        Ok(())
    }

    /// A request's objectives, or those of requests that name none.
    pub(super) fn objectives(&self, slo: Slo) -> (Duration, Duration) {
        (slo.ttft.unwrap_or(self.ttft), slo.tpot.unwrap_or(self.tpot))
    }
}

impl Default for AdviceConfig {
    fn default() -> Self {
        AdviceConfig {
            formula: Formula::default(),
            attainment: 0.9,
            ttft: Duration::from_secs(1),
            tpot: Duration::from_millis(100),
            window: Duration::from_secs(30),
            every: Duration::from_secs(2),
            up_after: Duration::from_secs(5),
            down_after: Duration::from_secs(120),
            threshold: 0.1,
        }
    }
}
