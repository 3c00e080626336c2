use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What steps cost on one node, in microseconds.
///
/// A prefill step takes `a0 + a1·Σ new + a2·Σ new·(new/2 + cached)`, a decode step
/// `b0 + b1·batch + b2·Σ context`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatencyModel {
    /// Per step, per new token, per pair of tokens that attend.
    pub prefill: [f64; 3],
    /// Per step, per sequence, per token in the cache.
    pub decode: [f64; 3],
    /// The most tokens a prefill step computes.
    pub chunk_tokens: u32,
}

/// About a 1B model on a small GPU.
impl Default for LatencyModel {
    fn default() -> Self {
        LatencyModel {
            prefill: [4000.0, 20.0, 0.005],
            decode: [5000.0, 60.0, 0.1],
            chunk_tokens: 512,
        }
    }
}

impl LatencyModel {
    /// Time to compute `new` tokens after `cached` ones, in chunks, with nobody else there.
    pub fn prefill(&self, new: u64, cached: u64) -> Duration {
        let [a0, a1, a2] = self.prefill;
        let steps = new.div_ceil(self.chunk_tokens.max(1).into()) as f64;
        let (new, cached) = (new as f64, cached as f64);
        micros(a0 * steps + a1 * new + a2 * new * (new / 2.0 + cached))
    }

    /// Time of one decode step.
    pub fn decode(&self, batch: u64, context: u64) -> Duration {
        let [b0, b1, b2] = self.decode;
        micros(b0 + b1 * batch as f64 + b2 * context as f64)
    }

    /// What one more sequence of `context` tokens adds to each decode step.
    pub fn decode_share(&self, context: u64) -> Duration {
        let [_, b1, b2] = self.decode;
        micros(b1 + b2 * context as f64)
    }
}

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

/// Nonsense (negative or not finite) costs nothing.
fn micros(us: f64) -> Duration {
    Duration::try_from_secs_f64(us / 1e6).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: LatencyModel =
        LatencyModel { prefill: [100.0, 10.0, 1.0], decode: [50.0, 5.0, 0.5], chunk_tokens: 4 };

    #[test]
    fn steps_cost_what_the_formulas_say() {
        assert_eq!(MODEL.prefill(6, 10), Duration::from_micros(200 + 60 + 6 * 13));
        assert_eq!(MODEL.decode(2, 20), Duration::from_micros(70));
        assert_eq!(MODEL.decode_share(20), Duration::from_micros(15));
        assert_eq!(MODEL.prefill(0, 10), Duration::ZERO);
    }

    #[test]
    fn a_transfer_hides_behind_its_prefill_but_for_the_last_layer() {
        let link = Link { rtt_us: 10.0, bytes_per_second: 1e6 };
        let exposed = |prefill| link.exposed(1000, 10, Duration::from_micros(prefill));
        assert_eq!(exposed(0), Duration::from_micros(1010));
        assert_eq!(exposed(500), Duration::from_micros(10 + 550));
        assert_eq!(exposed(100_000), Duration::from_micros(110));
    }
}
