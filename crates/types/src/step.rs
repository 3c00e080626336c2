use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A step in the terms of the latency model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepShape {
    /// Σ new over the prefill chunks.
    pub prefill_tokens: u32,
    /// Σ new·(new/2 + cached) over the prefill chunks.
    pub prefill_attention: f64,
    /// Sequences that decode one token.
    pub decode_batch: u32,
    /// Σ tokens in the cache over the decoding sequences.
    pub decode_context: u64,
}

impl StepShape {
    /// Adds a prefill chunk of `new` tokens after `cached` ones.
    pub fn add_prefill(&mut self, new: usize, cached: usize) {
        self.prefill_tokens += new as u32;
        self.prefill_attention += new as f64 * (new as f64 / 2.0 + cached as f64);
    }

    /// Adds one token after `cached` ones.
    pub fn add_decode(&mut self, cached: usize) {
        self.decode_batch += 1;
        self.decode_context += cached as u64;
    }
}

/// What one step consisted of and cost: one observation for the latency model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    pub shape: StepShape,
    pub duration: Duration,
}

/// What a step costs, in microseconds:
/// `a0 + a1·Σ new + a2·Σ new·(new/2 + cached)` if it has prefill, and
/// `b0 + b1·batch + b2·Σ context` if it decodes; both together as [`Mixing`] says if it does both.
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
    pub mixing: Mixing,
}

/// What a step costs that prefills and decodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mixing {
    /// Both parts, one after the other.
    #[default]
    Sum,
    /// The longer of them: the device does one while it waits for the other's memory.
    Max,
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
            mixing: Mixing::Sum,
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
        mixing: Mixing::Sum,
    };

    /// What the coefficients are called, in their order; their keys add the unit, `_us`.
    pub const COEFFICIENTS: [&'static str; 6] = [
        "prefill",
        "prefill_token",
        "prefill_attention",
        "decode",
        "decode_sequence",
        "decode_context",
    ];

    /// Prefill's coefficients, then decode's, as [`COEFFICIENTS`](Self::COEFFICIENTS) names them.
    pub fn coefficients(&self) -> [f64; 6] {
        [
            self.prefill_us,
            self.prefill_token_us,
            self.prefill_attention_us,
            self.decode_us,
            self.decode_sequence_us,
            self.decode_context_us,
        ]
    }

    /// Each coefficient changed.
    pub fn map(&self, change: impl FnMut(f64) -> f64) -> Self {
        LatencyProfile::from_coefficients(self.coefficients().map(change), self.mixing)
    }

    /// The other way round.
    pub fn from_coefficients(coefficients: [f64; 6], mixing: Mixing) -> Self {
        let [
            prefill_us,
            prefill_token_us,
            prefill_attention_us,
            decode_us,
            decode_sequence_us,
            decode_context_us,
        ] = coefficients;
        LatencyProfile {
            prefill_us,
            prefill_token_us,
            prefill_attention_us,
            decode_us,
            decode_sequence_us,
            decode_context_us,
            mixing,
        }
    }

    /// The duration of a step of this shape. Nonsense (negative or infinite) is zero.
    pub fn step(&self, shape: &StepShape) -> Duration {
        let (prefill, decode) = (self.prefill_part(shape), self.decode_part(shape));
        let us = match self.mixing {
            Mixing::Sum => prefill + decode,
            Mixing::Max => prefill.max(decode),
        };
        Duration::try_from_secs_f64(us / 1e6).unwrap_or_default()
    }

    /// Microseconds of a step's prefill; none without any.
    pub fn prefill_part(&self, shape: &StepShape) -> f64 {
        if shape.prefill_tokens == 0 {
            return 0.0;
        }
        self.prefill_us
            + self.prefill_token_us * f64::from(shape.prefill_tokens)
            + self.prefill_attention_us * shape.prefill_attention
    }

    /// Microseconds of a step's decoding; none without any.
    pub fn decode_part(&self, shape: &StepShape) -> f64 {
        if shape.decode_batch == 0 {
            return 0.0;
        }
        self.decode_us
            + self.decode_sequence_us * f64::from(shape.decode_batch)
            + self.decode_context_us * shape.decode_context as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixed_step_costs_both_its_parts_or_the_longer() {
        let profile = LatencyProfile {
            prefill_us: 1000.0,
            prefill_token_us: 10.0,
            prefill_attention_us: 1.0,
            decode_us: 100.0,
            decode_sequence_us: 5.0,
            decode_context_us: 0.5,
            mixing: Mixing::Sum,
        };
        let prefill =
            StepShape { prefill_tokens: 4, prefill_attention: 40.0, ..StepShape::default() };
        let decode = StepShape { decode_batch: 2, decode_context: 20, ..StepShape::default() };
        let both = StepShape { decode_batch: 2, decode_context: 20, ..prefill };
        for (shape, us) in [(prefill, 1080), (decode, 120), (both, 1200), (StepShape::default(), 0)]
        {
            assert_eq!(profile.step(&shape), Duration::from_micros(us), "{shape:?}");
        }
        let overlapping = LatencyProfile { mixing: Mixing::Max, ..profile };
        assert_eq!(overlapping.step(&both), Duration::from_micros(1080));
        let same = LatencyProfile::from_coefficients(profile.coefficients(), profile.mixing);
        assert_eq!(same, profile);
        let nonsense = LatencyProfile { prefill_us: -1e9, ..profile };
        assert_eq!(nonsense.step(&prefill), Duration::ZERO);
    }
}
