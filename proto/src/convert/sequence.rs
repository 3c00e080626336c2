//! What the services `Prefill` and `Decode` speak of.

use std::time::Duration;

use baton_types::{
    Capability, ChoiceIndex, Epoch, FinishReason, Generation, Grammar, NodeId, RequestId, RouterId,
    SamplingSpec, SequenceKey, SequenceSpec, StopTokens, TokenId, TokenLogprobs,
};

use super::{
    ConvertError, MAX_STOP_TOKENS, MAX_TOKENS, at_most, bits, capability, micros, present, short,
    to_bytes,
};
use crate::{node::v1 as node, v1};

/// A token a node sampled.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// Index in the client's stream.
    pub index: u32,
    pub token: TokenId,
    pub logits_digest: u64,
    /// If they were wanted.
    pub logprobs: Option<Box<TokenLogprobs>>,
}

/// Where a sequence's pages are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub node: NodeId,
    pub generation: Generation,
    /// `host:port` of its data plane.
    pub address: String,
    pub capability: Capability,
}

impl From<Epoch> for node::Epoch {
    fn from(epoch: Epoch) -> Self {
        node::Epoch { counter: epoch.counter, router: epoch.router.0 }
    }
}

impl From<node::Epoch> for Epoch {
    fn from(epoch: node::Epoch) -> Self {
        Epoch { counter: epoch.counter, router: RouterId(epoch.router) }
    }
}

impl From<node::DecodeRunResponse> for node::AdoptResponse {
    fn from(said: node::DecodeRunResponse) -> Self {
        node::AdoptResponse { event: Some(node::adopt_response::Event::Run(said)) }
    }
}

impl From<SequenceKey> for node::SequenceKey {
    fn from(key: SequenceKey) -> Self {
        node::SequenceKey { request_id: to_bytes(key.request.0), choice: key.choice.0.into() }
    }
}

impl TryFrom<node::SequenceKey> for SequenceKey {
    type Error = ConvertError;

    fn try_from(key: node::SequenceKey) -> Result<Self, ConvertError> {
        let (field, max) = ("key.choice", u16::MAX);
        let choice = u16::try_from(key.choice).map_err(|_| ConvertError::TooLarge {
            field,
            given: key.choice.into(),
            max: max.into(),
        })?;
        let request = RequestId(bits("key.request_id", &key.request_id)?);
        Ok(SequenceKey { request, choice: ChoiceIndex(choice) })
    }
}

impl From<SequenceSpec> for node::SequenceSpec {
    fn from(spec: SequenceSpec) -> Self {
        node::SequenceSpec {
            key: Some(spec.key.into()),
            epoch: Some(spec.epoch.into()),
            tokens: spec.tokens.into_iter().map(|token| token.0).collect(),
            prompt_len: spec.prompt_len,
            max_tokens: spec.max_tokens,
            sampling: Some(spec.sampling.into()),
            stop_tokens: spec.stop_tokens.0.into_iter().map(|token| token.0).collect(),
            cache_salt: spec.cache_salt,
            deadline_us: spec.deadline.map(micros),
            first_token_within_us: spec.first_token_within.map(micros),
        }
    }
}

impl TryFrom<node::SequenceSpec> for SequenceSpec {
    type Error = ConvertError;

    fn try_from(spec: node::SequenceSpec) -> Result<Self, ConvertError> {
        at_most("tokens", spec.tokens.len(), MAX_TOKENS)?;
        at_most("stop_tokens", spec.stop_tokens.len(), MAX_STOP_TOKENS)?;
        Ok(SequenceSpec {
            key: present("key", spec.key)?.try_into()?,
            epoch: present("epoch", spec.epoch)?.into(),
            tokens: spec.tokens.into_iter().map(TokenId).collect(),
            prompt_len: spec.prompt_len,
            max_tokens: spec.max_tokens,
            sampling: present("sampling", spec.sampling)?.try_into()?,
            stop_tokens: StopTokens(spec.stop_tokens.into_iter().map(TokenId).collect()),
            cache_salt: spec.cache_salt,
            deadline: spec.deadline_us.map(Duration::from_micros),
            first_token_within: spec.first_token_within_us.map(Duration::from_micros),
        })
    }
}

impl From<Grammar> for node::Grammar {
    fn from(grammar: Grammar) -> Self {
        use node::grammar::Source;
        let source = match grammar {
            Grammar::JsonSchema(source) => Source::JsonSchema(source.to_string()),
            Grammar::Regex(source) => Source::Regex(source.to_string()),
            Grammar::Lark(source) => Source::Lark(source.to_string()),
            Grammar::AnyOf(grammars) => Source::AnyOf(node::Grammars {
                grammars: grammars.iter().cloned().map(node::Grammar::from).collect(),
            }),
        };
        node::Grammar { source: Some(source) }
    }
}

impl TryFrom<node::Grammar> for Grammar {
    type Error = ConvertError;

    fn try_from(grammar: node::Grammar) -> Result<Self, ConvertError> {
        use node::grammar::Source;
        Ok(match present("sampling.grammar.source", grammar.source)? {
            Source::JsonSchema(source) => Grammar::JsonSchema(source.into()),
            Source::Regex(source) => Grammar::Regex(source.into()),
            Source::Lark(source) => Grammar::Lark(source.into()),
            Source::AnyOf(any) => Grammar::AnyOf(alternatives(any.grammars)?.into()),
        })
    }
}

/// From one to the most a grammar has, none of which has any itself.
fn alternatives(grammars: Vec<node::Grammar>) -> Result<Vec<Grammar>, ConvertError> {
    const FIELD: &str = "sampling.grammar.any_of";
    at_most(FIELD, grammars.len(), Grammar::MAX_ALTERNATIVES)?;
    if grammars.is_empty() {
        return Err(ConvertError::Missing { field: FIELD });
    }
    let is_nested =
        |grammar: &node::Grammar| matches!(grammar.source, Some(node::grammar::Source::AnyOf(_)));
    if grammars.iter().any(is_nested) {
        let why = "alternatives have none of their own".to_owned();
        return Err(ConvertError::Unusable { field: FIELD, why });
    }
    grammars.into_iter().map(Grammar::try_from).collect()
}

impl From<Sampled> for node::Token {
    fn from(sampled: Sampled) -> Self {
        let Sampled { index, token, logits_digest, logprobs } = sampled;
        let logprobs = logprobs.map(|told| (*told).into());
        node::Token { index, id: token.0, logits_digest, logprobs }
    }
}

impl From<node::Token> for Sampled {
    fn from(token: node::Token) -> Self {
        let node::Token { index, id, logits_digest, logprobs } = token;
        let logprobs = logprobs.map(|told| Box::new(told.into()));
        Sampled { index, token: TokenId(id), logits_digest, logprobs }
    }
}

impl From<SamplingSpec> for node::Sampling {
    fn from(spec: SamplingSpec) -> Self {
        let bias = |(id, bias): (TokenId, f32)| node::LogitBias { id: id.0, bias };
        node::Sampling {
            temperature: spec.temperature,
            seed: spec.seed,
            top_k: spec.top_k,
            top_p: spec.top_p,
            min_p: spec.min_p,
            typical_p: spec.typical_p,
            repetition_penalty: spec.repetition_penalty,
            frequency_penalty: spec.frequency_penalty,
            presence_penalty: spec.presence_penalty,
            logit_bias: spec.logit_bias.into_iter().map(bias).collect(),
            min_tokens: spec.min_tokens,
            logprobs: spec.logprobs,
            grammar: spec.grammar.map(node::Grammar::from),
            prompt_logprobs: spec.prompt_logprobs,
        }
    }
}

impl TryFrom<node::Sampling> for SamplingSpec {
    type Error = ConvertError;

    fn try_from(wire: node::Sampling) -> Result<Self, ConvertError> {
        at_most("sampling.logit_bias", wire.logit_bias.len(), SamplingSpec::MAX_BIASES)?;
        let bias = |node::LogitBias { id, bias }| (TokenId(id), bias);
        Ok(SamplingSpec {
            temperature: wire.temperature,
            seed: wire.seed,
            top_k: wire.top_k,
            top_p: wire.top_p,
            min_p: wire.min_p,
            typical_p: wire.typical_p,
            repetition_penalty: wire.repetition_penalty,
            frequency_penalty: wire.frequency_penalty,
            presence_penalty: wire.presence_penalty,
            logit_bias: wire.logit_bias.into_iter().map(bias).collect(),
            min_tokens: wire.min_tokens,
            logprobs: wire.logprobs,
            grammar: wire.grammar.map(Grammar::try_from).transpose()?,
            prompt_logprobs: wire.prompt_logprobs,
        })
    }
}

impl From<TokenLogprobs> for node::TokenLogprobs {
    fn from(told: TokenLogprobs) -> Self {
        let top = |(id, logprob): (TokenId, f32)| node::TokenLogprob { id: id.0, logprob };
        node::TokenLogprobs { logprob: told.logprob, top: told.top.into_iter().map(top).collect() }
    }
}

impl From<node::TokenLogprobs> for TokenLogprobs {
    fn from(told: node::TokenLogprobs) -> Self {
        let top = |node::TokenLogprob { id, logprob }| (TokenId(id), logprob);
        TokenLogprobs { logprob: told.logprob, top: told.top.into_iter().map(top).collect() }
    }
}

impl From<Source> for node::Source {
    fn from(source: Source) -> Self {
        node::Source {
            node: source.node.to_string(),
            generation: source.generation.0,
            address: source.address,
            capability: to_bytes(source.capability.0),
        }
    }
}

impl TryFrom<node::Source> for Source {
    type Error = ConvertError;

    fn try_from(source: node::Source) -> Result<Self, ConvertError> {
        Ok(Source {
            node: NodeId(short("source.node", source.node)?.into()),
            generation: Generation(source.generation),
            address: short("source.address", source.address)?,
            capability: capability(&source.capability)?,
        })
    }
}

impl From<FinishReason> for node::FinishReason {
    fn from(reason: FinishReason) -> Self {
        match reason {
            FinishReason::Stop => node::FinishReason::Stop,
            FinishReason::Length => node::FinishReason::Length,
        }
    }
}

impl TryFrom<node::FinishReason> for FinishReason {
    type Error = ConvertError;

    fn try_from(reason: node::FinishReason) -> Result<Self, ConvertError> {
        match reason {
            node::FinishReason::Stop => Ok(FinishReason::Stop),
            node::FinishReason::Length => Ok(FinishReason::Length),
            node::FinishReason::Unspecified => {
                Err(ConvertError::Unknown { field: "finish_reason", given: reason.into() })
            }
        }
    }
}

impl From<FinishReason> for v1::FinishReason {
    fn from(reason: FinishReason) -> Self {
        match reason {
            FinishReason::Stop => v1::FinishReason::Stop,
            FinishReason::Length => v1::FinishReason::Length,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> SequenceSpec {
        SequenceSpec {
            key: SequenceKey { request: RequestId(7 << 100), choice: ChoiceIndex(3) },
            epoch: Epoch { counter: 9, router: RouterId(u64::MAX) },
            tokens: vec![TokenId(1), TokenId(2)],
            prompt_len: 1,
            max_tokens: 40,
            sampling: SamplingSpec {
                temperature: 0.5,
                seed: 11,
                top_k: 3,
                top_p: 0.75,
                min_p: 0.125,
                typical_p: 0.5,
                repetition_penalty: 1.5,
                frequency_penalty: -0.5,
                presence_penalty: 0.25,
                logit_bias: vec![(TokenId(5), -8.0)],
                min_tokens: 2,
                logprobs: Some(4),
                grammar: Some(Grammar::Regex("a|b".into())),
                prompt_logprobs: Some(2),
            },
            stop_tokens: StopTokens(vec![TokenId(2)]),
            cache_salt: 5,
            deadline: Some(Duration::from_millis(3)),
            first_token_within: Some(Duration::from_millis(2)),
        }
    }

    #[test]
    fn sequences_round_trip() {
        assert_eq!(SequenceSpec::try_from(node::SequenceSpec::from(spec())), Ok(spec()));
    }

    #[test]
    fn alternatives_round_trip_and_have_none_of_their_own() {
        let any_of = |grammars: Vec<Grammar>| Grammar::AnyOf(grammars.into());
        let back = |grammar: &Grammar| Grammar::try_from(node::Grammar::from(grammar.clone()));
        let regex = Grammar::Regex("a|b".into());
        let two = any_of(vec![Grammar::Lark("start: \"x\"".into()), regex.clone()]);
        assert_eq!(back(&two), Ok(two.clone()));
        let field = "sampling.grammar.any_of";
        assert_eq!(back(&any_of(Vec::new())), Err(ConvertError::Missing { field }));
        let five = back(&any_of(vec![regex.clone(); 5]));
        assert_eq!(five, Err(ConvertError::TooMany { field, given: 5, max: 4 }));
        let nested = back(&any_of(vec![regex, two]));
        assert!(matches!(nested, Err(ConvertError::Unusable { .. })), "{nested:?}");
    }

    #[test]
    fn broken_sequences_are_refused_by_field() {
        let broken = |mend: fn(&mut node::SequenceSpec)| {
            let mut wire = node::SequenceSpec::from(spec());
            mend(&mut wire);
            SequenceSpec::try_from(wire).expect_err("broken")
        };
        assert_eq!(broken(|wire| wire.epoch = None), ConvertError::Missing { field: "epoch" });
        assert_eq!(
            broken(|wire| wire.stop_tokens = vec![0; 300]),
            ConvertError::TooMany { field: "stop_tokens", given: 300, max: 256 }
        );
        let short = broken(|wire| {
            wire.key = Some(node::SequenceKey { request_id: vec![0; 3], choice: 0 });
        });
        let expected = ConvertError::Length { field: "key.request_id", given: 3, expected: 16 };
        assert_eq!(short, expected);
    }

    #[test]
    fn sources_and_tokens_round_trip() {
        let source = Source {
            node: "p".into(),
            generation: Generation(4),
            address: "127.0.0.1:9".to_owned(),
            capability: Capability(1 << 127),
        };
        assert_eq!(Source::try_from(node::Source::from(source.clone())), Ok(source.clone()));
        let long = node::Source { address: "x".repeat(513), ..node::Source::from(source.clone()) };
        let expected = ConvertError::TooLong { field: "source.address", given: 513, max: 512 };
        assert_eq!(Source::try_from(long), Err(expected));
        let bare = node::Source { capability: Vec::new(), ..node::Source::from(source) };
        assert!(matches!(Source::try_from(bare), Err(ConvertError::Length { given: 0, .. })));
        let told = TokenLogprobs { logprob: -0.5, top: vec![(TokenId(9), -0.5)] };
        let logprobs = Some(Box::new(told));
        let sampled = Sampled { index: 3, token: TokenId(9), logits_digest: u64::MAX, logprobs };
        assert_eq!(Sampled::from(node::Token::from(sampled.clone())), sampled);
    }
}
