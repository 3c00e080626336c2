use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a client calls in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Slo {
    /// Time to the first token.
    pub ttft: Option<Duration>,
    /// Time per output token after the first: `(last − first)/(n − 1)`.
    pub tpot: Option<Duration>,
}

impl Slo {
    /// Whether there is nothing to miss.
    pub fn is_none(&self) -> bool {
        self.ttft.is_none() && self.tpot.is_none()
    }
}
