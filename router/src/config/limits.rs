use baton_node::config::{ByteSize, ConfigError};
use serde::{Deserialize, Serialize};

/// How much is taken on at one time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Requests inside, queued ones included. Each prompt counts of one that has several.
    pub max_in_flight: u32,
    /// Requests for one model that wait for a place.
    pub max_queued: u32,
    /// Largest body of an HTTP request, and largest gRPC request.
    pub max_body: ByteSize,
    /// How often in a row one request is tried again after nodes refused or failed.
    pub max_retries: u32,
    /// Retries of all requests together, but for the first of each in a row: what they may have a second,
    pub retries_per_second: u32,
    /// and for each request that comes. Who comes when there is none left waits.
    pub retries_per_request: f64,
    /// A request is refused once so many nodes have died while they worked on it: they may have died of it.
    pub max_lost_nodes: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig {
            max_in_flight: 4096,
            max_queued: 1024,
            max_body: ByteSize(8 << 20),
            max_retries: 5,
            retries_per_second: 10,
            retries_per_request: 0.2,
            max_lost_nodes: 2,
        }
    }
}

impl LimitsConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        for (key, value) in [
            ("limits.max_in_flight", u64::from(self.max_in_flight)),
            ("limits.max_body", self.max_body.0),
            ("limits.max_lost_nodes", self.max_lost_nodes.into()),
            ("limits.retries_per_second", self.retries_per_second.into()),
        ] {
            if value == 0 {
                return Err(ConfigError::invalid(key, 0, "must be at least 1"));
            }
        }
        let share = self.retries_per_request;
        if !(0.0..=1.0).contains(&share) {
            let why = "must be a share from 0 to 1";
            return Err(ConfigError::invalid("limits.retries_per_request", share, why));
        }
        Ok(())
    }
}
