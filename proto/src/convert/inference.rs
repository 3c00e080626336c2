//! What clients speak of.

use baton_types::{Grammar, SamplingSpec, TokenId, TokenLogprobs};

use super::{ConvertError, MAX_TOKENS, at_most};
use crate::v1;

/// How to draw, with what the client left open as the model has it, and `drawn` as the seed. The
/// values are as the client gave them; see [`SamplingSpec::validate`].
pub fn sampling(sampling: &v1::Sampling, drawn: u64) -> SamplingSpec {
    let plain = SamplingSpec::default();
    let mut logit_bias: Vec<_> =
        sampling.logit_bias.iter().map(|(&id, &bias)| (TokenId(id), bias)).collect();
    logit_bias.sort_unstable_by_key(|&(id, _)| id);
    SamplingSpec {
        temperature: sampling.temperature.unwrap_or(plain.temperature),
        seed: sampling.seed.unwrap_or(drawn),
        top_k: sampling.top_k.unwrap_or(plain.top_k),
        top_p: sampling.top_p.unwrap_or(plain.top_p),
        min_p: sampling.min_p.unwrap_or(plain.min_p),
        typical_p: sampling.typical_p.unwrap_or(plain.typical_p),
        repetition_penalty: sampling.repetition_penalty.unwrap_or(plain.repetition_penalty),
        frequency_penalty: sampling.frequency_penalty.unwrap_or(plain.frequency_penalty),
        presence_penalty: sampling.presence_penalty.unwrap_or(plain.presence_penalty),
        logit_bias,
        min_tokens: sampling.min_tokens.unwrap_or(plain.min_tokens),
        logprobs: sampling.logprobs,
        prompt_logprobs: sampling.prompt_logprobs,
        grammar: sampling.grammar.as_ref().and_then(grammar),
    }
}

/// A grammar without a source is none.
fn grammar(grammar: &v1::Grammar) -> Option<Grammar> {
    use v1::grammar::Source;
    Some(match grammar.source.as_ref()? {
        Source::JsonSchema(source) => Grammar::JsonSchema(source.as_str().into()),
        Source::Regex(source) => Grammar::Regex(source.as_str().into()),
        Source::Lark(source) => Grammar::Lark(source.as_str().into()),
    })
}

/// What is told about a token's place.
pub fn logprobs(told: &TokenLogprobs) -> v1::TokenLogprobs {
    let top = |&(id, logprob): &(TokenId, f32)| v1::TokenLogprob { token_id: id.0, logprob };
    v1::TokenLogprobs { logprob: told.logprob, top: told.top.iter().map(top).collect() }
}

/// A prompt given as tokens. Whether the model has them is for its tokeniser to say.
pub fn token_ids(tokens: v1::TokenIds) -> Result<Vec<TokenId>, ConvertError> {
    at_most("token_ids", tokens.ids.len(), MAX_TOKENS)?;
    Ok(tokens.ids.into_iter().map(TokenId).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_open_is_filled_in() {
        let open = v1::Sampling::default();
        assert_eq!(sampling(&open, 7), SamplingSpec { seed: 7, ..SamplingSpec::default() });
        let given = v1::Sampling { temperature: Some(0.0), seed: Some(0), ..open };
        assert_eq!(sampling(&given, 7), SamplingSpec::GREEDY);
    }

    #[test]
    fn prompts_are_bounded() {
        assert_eq!(token_ids(v1::TokenIds { ids: vec![3] }), Ok(vec![TokenId(3)]));
        assert!(token_ids(v1::TokenIds { ids: vec![0; MAX_TOKENS + 1] }).is_err());
    }
}
