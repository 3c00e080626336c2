use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::micros;

/// What moves pages from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    pub rtt_us: f64,
    pub bytes_per_second: f64,
}

/// Ten gigabits.
impl Default for Link {
    fn default() -> Self {
        Link { rtt_us: 200.0, bytes_per_second: 1.25e9 }
    }
}

impl Link {
    /// What of moving `bytes` in `layers` equal parts is left when a prefill of `prefill` ends: a
    /// layer's pages go while the later layers are computed, the last layer's can't.
    pub fn exposed(&self, bytes: u64, layers: u32, prefill: Duration) -> Duration {
        let whole = bytes as f64 / self.bytes_per_second * 1e6;
        let last = whole / f64::from(layers.max(1));
        let hidden = prefill.as_secs_f64() * 1e6 * (1.0 - 1.0 / f64::from(layers.max(1)));
        micros(self.rtt_us + (whole - hidden).max(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_hides_behind_its_prefill_but_for_the_last_layer() {
        let link = Link { rtt_us: 10.0, bytes_per_second: 1e6 };
        let exposed = |prefill| link.exposed(1000, 10, Duration::from_micros(prefill));
        assert_eq!(exposed(0), Duration::from_micros(1010));
        assert_eq!(exposed(500), Duration::from_micros(10 + 550));
        assert_eq!(exposed(100_000), Duration::from_micros(110));
    }
}
