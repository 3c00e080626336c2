//! A model's language on the wire: routers learn it from a node's hello.

use baton_proto::node::v1 as proto;
use baton_text::{TextAssets, TokenizerKind};
use baton_types::TokenId;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tokenizer kind {given} is unknown here; run nodes and router of one version")]
pub struct UnknownTokenizer {
    given: i32,
}

pub fn to_wire(assets: TextAssets) -> proto::TextAssets {
    let kind = match assets.kind {
        TokenizerKind::ByteBpe => proto::TokenizerKind::ByteBpe,
        TokenizerKind::Bytes => proto::TokenizerKind::Bytes,
    };
    proto::TextAssets {
        kind: kind.into(),
        tokens: assets.tokens,
        token_types: assets.token_types,
        merges: assets.merges,
        pre: assets.pre,
        chat_template: assets.chat_template,
        bos: assets.bos.map(|token| token.0),
        add_bos: assets.add_bos,
        eos: assets.eos.iter().map(|token| token.0).collect(),
    }
}

/// The assets as a node sent them; `baton_text::TextModel::new` checks what they say.
pub fn from_wire(assets: proto::TextAssets) -> Result<TextAssets, UnknownTokenizer> {
    let kind = match proto::TokenizerKind::try_from(assets.kind) {
        Ok(proto::TokenizerKind::ByteBpe) => TokenizerKind::ByteBpe,
        Ok(proto::TokenizerKind::Bytes) => TokenizerKind::Bytes,
        Ok(proto::TokenizerKind::Unspecified) | Err(_) => {
            return Err(UnknownTokenizer { given: assets.kind });
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
