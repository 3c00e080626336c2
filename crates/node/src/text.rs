//! The model's language on the wire: routers learn it from a node's hello.

use baton_proto::node::v1 as proto;
use baton_text::{TextAssets, TokenizerKind};

pub(crate) fn to_wire(assets: TextAssets) -> proto::TextAssets {
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
