//! How the next token is drawn, and what is told about it.

use serde::{Deserialize, Serialize};

use crate::{Grammar, TokenId};

/// How the next token is drawn. Validated where it enters; engines take it as it is.
///
/// Applied in this order: bias, penalties, the ban on stop tokens, the grammar; then, unless
/// greedy, temperature, top-k, typical-p, top-p and min-p, each on the distribution the one before left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SamplingSpec {
    /// 0 is greedy; otherwise logits are divided by it.
    pub temperature: f32,
    /// With `(seed, choice, token index, draw)` the generator's whole state: a replay repeats it.
    /// A request without a seed is given one by the router.
    pub seed: u64,
    /// Only the likeliest so many; 0 is all.
    pub top_k: u32,
    /// The likeliest tokens that together reach this probability (Holtzman et al., 2020).
    pub top_p: f32,
    /// Tokens at least this share as likely as the likeliest (Nguyen et al., 2024).
    pub min_p: f32,
    /// The tokens closest to the distribution's entropy that together reach this probability
    /// (Meister et al., 2023).
    pub typical_p: f32,
    /// Divides positive and multiplies negative logits of tokens in the prompt or the output
    /// (Keskar et al., 2019).
    pub repetition_penalty: f32,
    /// Taken off a token's logit for each time it was emitted,
    pub frequency_penalty: f32,
    /// and once if it was at all.
    pub presence_penalty: f32,
    /// Added to the logits of single tokens.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// No stop token is drawn before so many tokens.
    pub min_tokens: u32,
    /// Set when log-probabilities are wanted: of the drawn token, and of so many of the likeliest.
    pub logprobs: Option<u32>,
    /// Set when log-probabilities of the prompt's tokens are wanted: of each but the first, and of
    /// so many of the likeliest at its place. Such a prompt is computed whole, cached or not.
    pub prompt_logprobs: Option<u32>,
    /// What the output must match. Where it leaves only stop tokens, `min_tokens` yields.
    pub grammar: Option<Grammar>,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplingError {
    #[error("{name} is {given}; it must be a number from {min} to {max}")]
    Range { name: &'static str, given: f32, min: f32, max: f32 },
    #[error("{name} is {given}; it must be a number above 0 and up to {max}")]
    Positive { name: &'static str, given: f32, max: f32 },
    #[error("logit_bias of token {} is {given}; it must be a number from -100 to 100", token.0)]
    Bias { token: TokenId, given: f32 },
    #[error("logit_bias has {given} entries; at most {max} are allowed")]
    Biases { given: usize, max: usize },
    #[error("logprobs of {given} tokens are wanted; at most {max} are told")]
    Logprobs { given: u32, max: u32 },
}

impl SamplingError {
    /// The parameter it is about.
    pub fn param(&self) -> &'static str {
        match self {
            SamplingError::Range { name, .. } | SamplingError::Positive { name, .. } => name,
            SamplingError::Bias { .. } | SamplingError::Biases { .. } => "logit_bias",
            SamplingError::Logprobs { .. } => "logprobs",
        }
    }
}

impl Default for SamplingSpec {
    /// As the model has it: temperature 1, nothing left out, nothing preferred.
    fn default() -> Self {
        SamplingSpec { temperature: 1.0, ..SamplingSpec::GREEDY }
    }
}

impl SamplingSpec {
    pub const GREEDY: SamplingSpec = SamplingSpec {
        temperature: 0.0,
        seed: 0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        typical_p: 1.0,
        repetition_penalty: 1.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        logit_bias: Vec::new(),
        min_tokens: 0,
        logprobs: None,
        prompt_logprobs: None,
        grammar: None,
    };

    /// Nothing but a temperature and a seed.
    pub const fn seeded(temperature: f32, seed: u64) -> Self {
        let mut spec = SamplingSpec::GREEDY;
        (spec.temperature, spec.seed) = (temperature, seed);
        spec
    }

    /// The most tokens whose log-probabilities are told beside the drawn one's.
    pub const MAX_LOGPROBS: u32 = 20;
    /// The most entries of `logit_bias`.
    pub const MAX_BIASES: usize = 1024;

    pub fn validate(&self) -> Result<(), SamplingError> {
        let range = |name, given: f32, min: f32, max: f32| match (min..=max).contains(&given) {
            true => Ok(()),
            false => Err(SamplingError::Range { name, given, min, max }),
        };
        let positive = |name, given: f32, max: f32| match given > 0.0 && given <= max {
            true => Ok(()),
            false => Err(SamplingError::Positive { name, given, max }),
        };
        range("temperature", self.temperature, 0.0, 2.0)?;
        positive("top_p", self.top_p, 1.0)?;
        range("min_p", self.min_p, 0.0, 1.0)?;
        positive("typical_p", self.typical_p, 1.0)?;
        positive("repetition_penalty", self.repetition_penalty, 10.0)?;
        range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        range("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        if self.logit_bias.len() > SamplingSpec::MAX_BIASES {
            let (given, max) = (self.logit_bias.len(), SamplingSpec::MAX_BIASES);
            return Err(SamplingError::Biases { given, max });
        }
        let wild = self.logit_bias.iter().find(|(_, bias)| !(-100.0..=100.0).contains(bias));
        if let Some(&(token, given)) = wild {
            return Err(SamplingError::Bias { token, given });
        }
        let max = SamplingSpec::MAX_LOGPROBS;
        let wanted = [self.logprobs, self.prompt_logprobs];
        match wanted.into_iter().flatten().find(|&given| given > max) {
            Some(given) => Err(SamplingError::Logprobs { given, max }),
            None => Ok(()),
        }
    }
}

/// Log-probabilities at one place, by the model's own distribution: before any bias, penalty,
/// temperature or cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprobs {
    /// Of the drawn token.
    pub logprob: f32,
    /// The likeliest first; equals by ascending id.
    pub top: Vec<(TokenId, f32)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let plain = SamplingSpec::default;
        for given in [f32::NAN, f32::INFINITY, -0.1, 2.5] {
            let refused = [
                SamplingSpec { temperature: given, ..plain() },
                SamplingSpec { top_p: given, ..plain() },
                SamplingSpec { min_p: given, ..plain() },
                SamplingSpec { typical_p: given, ..plain() },
                SamplingSpec { repetition_penalty: given * 10.0, ..plain() },
                SamplingSpec { frequency_penalty: given * 21.0, ..plain() },
                SamplingSpec { presence_penalty: given * 21.0, ..plain() },
                SamplingSpec { logit_bias: vec![(TokenId(3), given * 1001.0)], ..plain() },
            ];
            let names = [
                "temperature",
                "top_p",
                "min_p",
                "typical_p",
                "repetition_penalty",
                "frequency_penalty",
                "presence_penalty",
                "logit_bias",
            ];
            for (spec, name) in refused.into_iter().zip(names) {
                let error = spec.validate().unwrap_err();
                assert_eq!(error.param(), name, "{error}");
                assert!(error.to_string().contains(name), "{error}");
            }
        }
        let many = SamplingSpec { logit_bias: vec![(TokenId(0), 0.0); 1025], ..plain() };
        assert!(many.validate().is_err());
        assert!(SamplingSpec { logprobs: Some(21), ..plain() }.validate().is_err());
        assert_eq!(plain().validate(), Ok(()));
        assert_eq!(SamplingSpec::GREEDY.validate(), Ok(()));
    }
}
