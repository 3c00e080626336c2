//! Wire ↔ domain. Whatever comes from the network is checked here, once.

use std::time::Duration;

use baton_text::{TextAssets, TokenizerKind};
use baton_types::{
    BlockHash, Capability, ChoiceIndex, Epoch, FinishReason, KvDtype, KvLayout, LayoutError,
    NumericsId, RequestId, Role, RouterId, SamplingSpec, SequenceKey, SequenceSpec, StopTokens,
    TokenId,
};

use crate::{node::v1 as node, v1};

/// The most tokens a sequence may bring,
const MAX_TOKENS: usize = 1 << 20;
/// and the most stop tokens.
const MAX_STOP_TOKENS: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{field} has {given} bytes, expected {expected}")]
    Length { field: &'static str, given: usize, expected: usize },
    #[error("{field} has {given} entries; at most {max} are allowed")]
    TooMany { field: &'static str, given: usize, max: usize },
    #[error("{field} is {given}, which is not known here")]
    Unknown { field: &'static str, given: i32 },
    #[error("{field} is {given}; at most {max} is allowed")]
    TooLarge { field: &'static str, given: u64, max: u64 },
    #[error("layout: {0}")]
    Layout(#[from] LayoutError),
}

fn present<T>(field: &'static str, value: Option<T>) -> Result<T, ConvertError> {
    value.ok_or(ConvertError::Missing { field })
}

fn bits(field: &'static str, bytes: &[u8]) -> Result<u128, ConvertError> {
    let array = bytes.try_into().map_err(|_| ConvertError::Length {
        field,
        given: bytes.len(),
        expected: 16,
    })?;
    Ok(u128::from_be_bytes(array))
}

fn at_most(field: &'static str, given: usize, max: usize) -> Result<(), ConvertError> {
    if given > max { Err(ConvertError::TooMany { field, given, max }) } else { Ok(()) }
}

/// 16 bytes, big endian.
pub fn numerics_id(bytes: &[u8]) -> Result<NumericsId, ConvertError> {
    bits("numerics_id", bytes).map(NumericsId)
}

/// 16 bytes, big endian.
pub fn capability(bytes: &[u8]) -> Result<Capability, ConvertError> {
    bits("capability", bytes).map(Capability)
}

/// 16 bytes, big endian.
pub fn block_hash(bytes: &[u8]) -> Result<BlockHash, ConvertError> {
    bits("block_hash", bytes).map(BlockHash)
}

/// 128 bits as the wire has them: big endian.
pub fn to_bytes(bits: u128) -> Vec<u8> {
    bits.to_be_bytes().to_vec()
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
        let SamplingSpec { temperature, seed } = spec.sampling;
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        node::SequenceSpec {
            key: Some(spec.key.into()),
            epoch: Some(spec.epoch.into()),
            tokens: spec.tokens.into_iter().map(|token| token.0).collect(),
            prompt_len: spec.prompt_len,
            max_tokens: spec.max_tokens,
            sampling: Some(node::Sampling { temperature, seed }),
            stop_tokens: spec.stop_tokens.0.into_iter().map(|token| token.0).collect(),
            cache_salt: spec.cache_salt,
            deadline_us: spec.deadline.map(micros),
        }
    }
}

/// Checks sizes and presence; whether the numbers make sense together is the receiver's to say.
impl TryFrom<node::SequenceSpec> for SequenceSpec {
    type Error = ConvertError;

    fn try_from(spec: node::SequenceSpec) -> Result<Self, ConvertError> {
        at_most("tokens", spec.tokens.len(), MAX_TOKENS)?;
        at_most("stop_tokens", spec.stop_tokens.len(), MAX_STOP_TOKENS)?;
        let node::Sampling { temperature, seed } = present("sampling", spec.sampling)?;
        Ok(SequenceSpec {
            key: present("key", spec.key)?.try_into()?,
            epoch: present("epoch", spec.epoch)?.into(),
            tokens: spec.tokens.into_iter().map(TokenId).collect(),
            prompt_len: spec.prompt_len,
            max_tokens: spec.max_tokens,
            sampling: SamplingSpec { temperature, seed },
            stop_tokens: StopTokens(spec.stop_tokens.into_iter().map(TokenId).collect()),
            cache_salt: spec.cache_salt,
            deadline: spec.deadline_us.map(Duration::from_micros),
        })
    }
}

impl From<KvLayout> for node::KvLayout {
    fn from(layout: KvLayout) -> Self {
        let dtype = match layout.dtype {
            KvDtype::F16 => node::KvDtype::F16,
            KvDtype::F32 => node::KvDtype::F32,
        };
        node::KvLayout {
            layers: layout.layers,
            kv_heads: layout.kv_heads,
            head_dim: layout.head_dim,
            block_tokens: layout.block_tokens,
            dtype: dtype.into(),
        }
    }
}

impl TryFrom<node::KvLayout> for KvLayout {
    type Error = ConvertError;

    fn try_from(layout: node::KvLayout) -> Result<Self, ConvertError> {
        let dtype = match layout.dtype() {
            node::KvDtype::F16 => KvDtype::F16,
            node::KvDtype::F32 => KvDtype::F32,
            node::KvDtype::Unspecified => {
                return Err(ConvertError::Unknown { field: "layout.dtype", given: layout.dtype });
            }
        };
        let node::KvLayout { layers, kv_heads, head_dim, block_tokens, .. } = layout;
        let layout = KvLayout { layers, kv_heads, head_dim, block_tokens, dtype };
        layout.validate()?;
        Ok(layout)
    }
}

impl From<Role> for node::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Prefill => node::Role::Prefill,
            Role::Decode => node::Role::Decode,
        }
    }
}

impl TryFrom<node::Role> for Role {
    type Error = ConvertError;

    fn try_from(role: node::Role) -> Result<Self, ConvertError> {
        match role {
            node::Role::Prefill => Ok(Role::Prefill),
            node::Role::Decode => Ok(Role::Decode),
            node::Role::Unspecified => {
                Err(ConvertError::Unknown { field: "role", given: role.into() })
            }
        }
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

impl From<TextAssets> for node::TextAssets {
    fn from(assets: TextAssets) -> Self {
        let kind = match assets.kind {
            TokenizerKind::ByteBpe => node::TokenizerKind::ByteBpe,
            TokenizerKind::Bytes => node::TokenizerKind::Bytes,
        };
        node::TextAssets {
            kind: kind.into(),
            tokens: assets.tokens,
            token_types: assets.token_types,
            merges: assets.merges,
            pre: assets.pre,
            chat_template: assets.chat_template,
            bos: assets.bos.map(|token| token.0),
            add_bos: assets.add_bos,
            eos: assets.eos.into_iter().map(|token| token.0).collect(),
        }
    }
}

impl TryFrom<node::TextAssets> for TextAssets {
    type Error = ConvertError;

    fn try_from(assets: node::TextAssets) -> Result<Self, ConvertError> {
        at_most("text.tokens", assets.tokens.len(), MAX_TOKENS)?;
        at_most("text.merges", assets.merges.len(), 2 * MAX_TOKENS)?;
        at_most("text.eos", assets.eos.len(), MAX_STOP_TOKENS)?;
        let kind = match assets.kind() {
            node::TokenizerKind::ByteBpe => TokenizerKind::ByteBpe,
            node::TokenizerKind::Bytes => TokenizerKind::Bytes,
            node::TokenizerKind::Unspecified => {
                return Err(ConvertError::Unknown { field: "text.kind", given: assets.kind });
            }
        };
        Ok(TextAssets {
            kind,
            tokens: assets.tokens,
            token_types: assets.token_types,
            merges: assets.merges,
            pre: assets.pre,
            chat_template: assets.chat_template,
            bos: assets.bos.map(TokenId),
            add_bos: assets.add_bos,
            eos: assets.eos.into_iter().map(TokenId).collect(),
        })
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
            sampling: SamplingSpec { temperature: 0.5, seed: 11 },
            stop_tokens: StopTokens(vec![TokenId(2)]),
            cache_salt: 5,
            deadline: Some(Duration::from_millis(3)),
        }
    }

    #[test]
    fn sequences_round_trip() {
        assert_eq!(SequenceSpec::try_from(node::SequenceSpec::from(spec())), Ok(spec()));
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
    fn layouts_are_validated() {
        let wire = node::KvLayout {
            layers: 1,
            kv_heads: 1,
            head_dim: 64,
            block_tokens: 7,
            dtype: node::KvDtype::F16.into(),
        };
        assert!(matches!(KvLayout::try_from(wire), Err(ConvertError::Layout(_))));
        let wire = node::KvLayout { dtype: 9, block_tokens: 16, ..wire };
        assert!(matches!(KvLayout::try_from(wire), Err(ConvertError::Unknown { .. })));
    }

    #[test]
    fn text_assets_round_trip() {
        let assets = TextAssets::bytes();
        assert_eq!(TextAssets::try_from(node::TextAssets::from(assets.clone())), Ok(assets));
    }
}
