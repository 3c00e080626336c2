use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::StepShape;

/// What a step costs, in microseconds:
/// `a0 + a1·Σ new + a2·Σ new·(new/2 + cached)` if it has prefill, and
/// `b0 + b1·batch + b2·Σ context` if it decodes; both if it does both.
///
/// The default is about a 1B model on a small GPU.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatencyProfile {
    /// `a0`.
    pub prefill_us: f64,
    /// `a1`, per token.
    pub prefill_token_us: f64,
    /// `a2`, per pair of tokens that attend.
    pub prefill_attention_us: f64,
    /// `b0`.
    pub decode_us: f64,
    /// `b1`, per sequence.
    pub decode_sequence_us: f64,
    /// `b2`, per token in the cache.
    pub decode_context_us: f64,
}

impl Default for LatencyProfile {
    fn default() -> Self {
        LatencyProfile {
            prefill_us: 4000.0,
            prefill_token_us: 20.0,
            prefill_attention_us: 0.005,
            decode_us: 5000.0,
            decode_sequence_us: 60.0,
            decode_context_us: 0.1,
        }
    }
}

impl LatencyProfile {
    /// A step that costs nothing.
    pub const FREE: LatencyProfile = LatencyProfile {
        prefill_us: 0.0,
        prefill_token_us: 0.0,
        prefill_attention_us: 0.0,
        decode_us: 0.0,
        decode_sequence_us: 0.0,
        decode_context_us: 0.0,
    };

    /// The duration of a step of this shape. Nonsense (negative or infinite) is zero.
    pub fn step(&self, shape: &StepShape) -> Duration {
        let mut us = 0.0;
        if shape.prefill_tokens > 0 {
            us += self.prefill_us
                + self.prefill_token_us * f64::from(shape.prefill_tokens)
                + self.prefill_attention_us * shape.prefill_attention;
        }
        if shape.decode_batch > 0 {
            us += self.decode_us
                + self.decode_sequence_us * f64::from(shape.decode_batch)
                + self.decode_context_us * shape.decode_context as f64;
        }
        Duration::try_from_secs_f64(us / 1e6).unwrap_or_default()
    }
}

/// Lets time pass: by sleeping, or by moving a virtual clock.
pub trait Pace: Send {
    fn spend(&mut self, time: Duration);
}

/// Lets no time pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unpaced;

impl Pace for Unpaced {
    fn spend(&mut self, _time: Duration) {}
}

impl<P: Pace + ?Sized> Pace for Box<P> {
    fn spend(&mut self, time: Duration) {
        (**self).spend(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixed_step_costs_both_its_parts() {
        let profile = LatencyProfile {
            prefill_us: 1000.0,
            prefill_token_us: 10.0,
            prefill_attention_us: 1.0,
            decode_us: 100.0,
            decode_sequence_us: 5.0,
            decode_context_us: 0.5,
        };
        let prefill =
            StepShape { prefill_tokens: 4, prefill_attention: 40.0, ..StepShape::default() };
        let decode = StepShape { decode_batch: 2, decode_context: 20, ..StepShape::default() };
        let both = StepShape { decode_batch: 2, decode_context: 20, ..prefill };
        for (shape, us) in [(prefill, 1080), (decode, 120), (both, 1200), (StepShape::default(), 0)]
        {
            assert_eq!(profile.step(&shape), Duration::from_micros(us), "{shape:?}");
        }
        let nonsense = LatencyProfile { prefill_us: -1e9, ..profile };
        assert_eq!(nonsense.step(&prefill), Duration::ZERO);
    }
}
