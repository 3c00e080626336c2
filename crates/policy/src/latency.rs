use std::time::Duration;

use baton_types::{LatencyProfile, StepShape};
use serde::{Deserialize, Serialize};

/// What steps cost on one node.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatencyModel {
    pub profile: LatencyProfile,
    /// The most tokens a prefill step computes.
    pub chunk_tokens: u32,
}

impl Default for LatencyModel {
    fn default() -> Self {
        LatencyModel { profile: LatencyProfile::default(), chunk_tokens: 512 }
    }
}

impl LatencyModel {
    /// In how many steps `new` tokens are computed.
    pub fn steps(&self, new: u64) -> u64 {
        new.div_ceil(self.chunk_tokens.max(1).into())
    }

    /// Time to compute `new` tokens after `cached` ones, in chunks, with nobody else there.
    pub fn prefill(&self, new: u64, cached: u64) -> Duration {
        let LatencyProfile { prefill_us, prefill_token_us, prefill_attention_us, .. } =
            self.profile;
        let steps = self.steps(new) as f64;
        let (new, cached) = (new as f64, cached as f64);
        let attention = new * (new / 2.0 + cached);
        micros(prefill_us * steps + prefill_token_us * new + prefill_attention_us * attention)
    }

    /// Time of one decode step.
    pub fn decode(&self, batch: u64, context: u64) -> Duration {
        let decode_batch = u32::try_from(batch).unwrap_or(u32::MAX);
        let shape = StepShape { decode_batch, decode_context: context, ..StepShape::default() };
        micros(self.profile.decode_part(&shape))
    }

    /// What one more sequence of `context` tokens adds to each decode step.
    pub fn decode_share(&self, context: u64) -> Duration {
        let LatencyProfile { decode_sequence_us, decode_context_us, .. } = self.profile;
        micros(decode_sequence_us + decode_context_us * context as f64)
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
    use baton_types::Mixing;

    use super::*;

    const MODEL: LatencyModel = LatencyModel {
        profile: LatencyProfile {
            prefill_us: 100.0,
            prefill_token_us: 10.0,
            prefill_attention_us: 1.0,
            decode_us: 50.0,
            decode_sequence_us: 5.0,
            decode_context_us: 0.5,
            mixing: Mixing::Sum,
        },
        chunk_tokens: 4,
    };

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
