use std::time::Duration;

use baton_types::{LatencyProfile, StepShape};
use serde::{Deserialize, Serialize};

use super::micros;

/// What steps cost on one node.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatencyModel {
    pub profile: LatencyProfile,
    /// The most tokens a step computes, of all sequences.
    pub max_batch_tokens: u32,
    /// The most tokens of one prompt that a step computes.
    pub chunk_tokens: u32,
}

impl Default for LatencyModel {
    fn default() -> Self {
        LatencyModel {
            profile: LatencyProfile::default(),
            max_batch_tokens: 512,
            chunk_tokens: 256,
        }
    }
}

impl LatencyModel {
    /// In how many steps `new` tokens are computed.
    pub fn steps(&self, new: u64) -> u64 {
        new.div_ceil(self.chunk_tokens.min(self.max_batch_tokens).max(1).into())
    }

    /// How many prompts a step computes together, if they are long.
    pub fn prompts_in_step(&self) -> u64 {
        u64::from(self.max_batch_tokens / self.chunk_tokens.clamp(1, self.max_batch_tokens.max(1)))
    }

    /// Time to compute `new` tokens after `cached` ones, in chunks, with nobody else there.
    pub fn prefill(&self, new: u64, cached: u64) -> Duration {
        let chunk = self.chunk_tokens.min(self.max_batch_tokens);
        let (new_tokens, cached) = (new as f64, cached as f64);
        self.prefill_steps(new, chunk, new_tokens * (new_tokens / 2.0 + cached))
    }

    /// Time to compute `tokens` of so many prompts of about the same length, which share steps.
    pub fn queue(&self, prompts: u64, tokens: u64) -> Duration {
        let length = tokens as f64 / prompts.max(1) as f64;
        self.prefill_steps(tokens, self.max_batch_tokens, tokens as f64 * length / 2.0)
    }

    /// Time to compute `tokens`, so many in a step, that attend to as many pairs.
    fn prefill_steps(&self, tokens: u64, in_step: u32, attention: f64) -> Duration {
        let LatencyProfile { prefill_us, prefill_token_us, prefill_attention_us, .. } =
            self.profile;
        let steps = tokens.div_ceil(in_step.max(1).into()) as f64;
        let tokens = tokens as f64;
        micros(prefill_us * steps + prefill_token_us * tokens + prefill_attention_us * attention)
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
        max_batch_tokens: 8,
        chunk_tokens: 4,
    };

    #[test]
    fn steps_cost_what_the_formulas_say() {
        assert_eq!(MODEL.prefill(6, 10), Duration::from_micros(200 + 60 + 6 * 13));
        assert_eq!(MODEL.decode(2, 20), Duration::from_micros(70));
        assert_eq!(MODEL.decode_share(20), Duration::from_micros(15));
        assert_eq!(MODEL.prefill(0, 10), Duration::ZERO);
        let narrow = LatencyModel { max_batch_tokens: 2, ..MODEL };
        assert_eq!(narrow.prefill(6, 0), Duration::from_micros(300 + 60 + 18));
        assert_eq!((MODEL.prompts_in_step(), narrow.prompts_in_step()), (2, 1));
        assert_eq!(MODEL.queue(2, 12), Duration::from_micros(200 + 120 + 36));
        assert_eq!(MODEL.queue(0, 0), Duration::ZERO);
    }
}
