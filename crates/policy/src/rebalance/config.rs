use std::time::Duration;

use serde::{Deserialize, Serialize};

/// When running requests are moved to other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RebalanceConfig {
    /// False: nobody moves, but from nodes that are to be empty.
    pub enabled: bool,
    /// How often the cluster is looked at.
    pub every: Duration,
    /// How long a request that has moved, or couldn't, stays where it is.
    pub cool_down: Duration,
    /// Requests that leave a node at the same time, or come to one; to empty a node four times as many.
    pub at_once: u32,
    /// Objectives, more by so many, that must be met after a move.
    pub objectives: f64,
    /// By what share of both nodes' steps requests must be faster after a move.
    pub faster: f64,
    /// A pool is too full if it has less room than its sequences are reckoned to need within `ahead`,
    pub ahead: Duration,
    /// in the mean and so many standard deviations.
    pub deviations: f64,
    /// Of a link, what the pages of a request that moves get,
    pub link_share: f64,
    /// and what copying them takes of its node's steps.
    pub overhead: f64,
}

impl Default for RebalanceConfig {
    fn default() -> Self {
        RebalanceConfig {
            enabled: true,
            every: Duration::from_millis(50),
            cool_down: Duration::from_secs(2),
            at_once: 2,
            objectives: 0.1,
            faster: 0.02,
            ahead: Duration::from_secs(2),
            deviations: 1.0,
            link_share: 0.03,
            overhead: 0.02,
        }
    }
}

/// A value that makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{name} is {given}; it must be {must}")]
pub struct RebalanceError {
    /// The key.
    pub name: &'static str,
    pub given: f64,
    pub must: &'static str,
}

impl RebalanceConfig {
    /// Refuses what makes no sense, by name.
    pub fn validate(&self) -> Result<(), RebalanceError> {
        let error = |name, given, must| Err(RebalanceError { name, given, must });
        if self.every.is_zero() {
            return error("rebalance.every", 0.0, "above 0");
        }
        if self.at_once == 0 {
            return error("rebalance.at_once", 0.0, "at least 1");
        }
        for (name, given) in [
            ("rebalance.objectives", self.objectives),
            ("rebalance.faster", self.faster),
            ("rebalance.deviations", self.deviations),
            ("rebalance.overhead", self.overhead),
        ] {
            if !(given >= 0.0 && given.is_finite()) {
                return error(name, given, "a number, at least 0");
            }
        }
        if !(self.link_share > 0.0 && self.link_share <= 1.0) {
            return error("rebalance.link_share", self.link_share, "above 0 and at most 1");
        }
        Ok(())
    }
}
