use baton_node::config::{ConfigError, Span};
use baton_policy::advice::{self, Formula};
use serde::{Deserialize, Serialize};

/// How many nodes are recommended, and by what; see `docs/advice.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdviceConfig {
    pub formula: Formula,
    /// The share of requests that are to meet both objectives.
    pub attainment: f64,
    /// The objectives of requests that name none.
    pub ttft: Span,
    pub tpot: Span,
    /// Over how long the load is measured.
    pub window: Span,
    /// How often it is looked at.
    pub every: Span,
    /// The cool-down after a change before the recommendation may rise,
    pub up_after: Span,
    /// and how long fewer nodes must have been enough before it falls,
    pub down_after: Span,
    /// for a load that is larger by this share.
    pub threshold: f64,
}

impl Default for AdviceConfig {
    fn default() -> Self {
        let advice::AdviceConfig {
            formula,
            attainment,
            ttft,
            tpot,
            window,
            every,
            up_after,
            down_after,
            threshold,
        } = advice::AdviceConfig::default();
        AdviceConfig {
            formula,
            attainment,
            ttft: Span(ttft),
            tpot: Span(tpot),
            window: Span(window),
            every: Span(every),
            up_after: Span(up_after),
            down_after: Span(down_after),
            threshold,
        }
    }
}

impl AdviceConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        self.policy().validate().map_err(|error| {
            let why = format!("must be {}", error.must);
            ConfigError::invalid(error.name, error.given, why)
        })
    }

    /// What the policy is told.
    pub(crate) fn policy(&self) -> advice::AdviceConfig {
        let AdviceConfig { formula, attainment, threshold, .. } = *self;
        advice::AdviceConfig {
            formula,
            attainment,
            ttft: self.ttft.0,
            tpot: self.tpot.0,
            window: self.window.0,
            every: self.every.0,
            up_after: self.up_after.0,
            down_after: self.down_after.0,
            threshold,
        }
    }
}
