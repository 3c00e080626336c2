use baton_node::config::{ConfigError, Span};
use baton_policy::advice;
use serde::{Deserialize, Serialize};

/// When nodes change roles by themselves; see `docs/advice.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RolesConfig {
    /// False: only when somebody says so.
    pub enabled: bool,
    /// How long a role must have lacked nodes that the other has to spare,
    pub after: Span,
    /// and how long after a change nobody changes back.
    pub cool_down: Span,
    /// By what share of its load a role must have more nodes than it needs after giving one away.
    pub threshold: f64,
}

impl Default for RolesConfig {
    fn default() -> Self {
        let advice::RolesConfig { after, cool_down, threshold } = advice::RolesConfig::default();
        RolesConfig { enabled: false, after: Span(after), cool_down: Span(cool_down), threshold }
    }
}

impl RolesConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.threshold >= 0.0 && self.threshold.is_finite() {
            return Ok(());
        }
        Err(ConfigError::invalid("roles.threshold", self.threshold, "must be 0 or more"))
    }

    /// What the policy is told, if nodes are to change by themselves.
    pub(crate) fn policy(&self) -> Option<advice::RolesConfig> {
        let RolesConfig { enabled, after, cool_down, threshold } = *self;
        let config = advice::RolesConfig { after: after.0, cool_down: cool_down.0, threshold };
        enabled.then_some(config)
    }
}
