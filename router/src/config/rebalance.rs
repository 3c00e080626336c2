use baton_node::config::{ConfigError, Span};
use baton_policy::rebalance;
use serde::{Deserialize, Serialize};

/// When running requests are moved to other nodes; see `docs/migration.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RebalanceConfig {
    /// False: nobody moves, but from nodes that are to be empty.
    pub enabled: bool,
    /// How often the cluster is looked at.
    pub every: Span,
    /// How long a request that has moved, or couldn't, stays where it is.
    pub cool_down: Span,
    /// Requests that leave a node at the same time, or come to one.
    pub at_once: u32,
    /// Objectives, more by so many, that must be met after a move.
    pub objectives: f64,
    /// By what share of both nodes' steps requests must be faster after a move.
    pub faster: f64,
    /// A pool is too full if it has less room than its sequences are reckoned to need within this time.
    pub ahead: Span,
    /// Of a link, what the pages of a request that moves are reckoned to get.
    pub link_share: f64,
}

impl Default for RebalanceConfig {
    fn default() -> Self {
        let rebalance::RebalanceConfig {
            enabled,
            every,
            cool_down,
            at_once,
            objectives,
            faster,
            ahead,
            link_share,
            ..
        } = rebalance::RebalanceConfig::default();
        RebalanceConfig {
            enabled,
            every: Span(every),
            cool_down: Span(cool_down),
            at_once,
            objectives,
            faster,
            ahead: Span(ahead),
            link_share,
        }
    }
}

impl RebalanceConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        self.policy().validate().map_err(|error| {
            let why = format!("must be {}", error.must);
            ConfigError::invalid(error.name, error.given, why)
        })
    }

    /// What the policy is told.
    pub(crate) fn policy(&self) -> rebalance::RebalanceConfig {
        let RebalanceConfig { enabled, at_once, objectives, faster, link_share, .. } = *self;
        rebalance::RebalanceConfig {
            enabled,
            every: self.every.0,
            cool_down: self.cool_down.0,
            at_once,
            objectives,
            faster,
            ahead: self.ahead.0,
            link_share,
            ..rebalance::RebalanceConfig::default()
        }
    }
}
