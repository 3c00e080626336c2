use baton_text::{SpacePrefix, TextAssets, TokenizerKind};
use baton_types::TokenId;

use super::{ConvertError, MAX_STOP_TOKENS, MAX_TOKENS, at_most};
use crate::node::v1 as node;

impl From<TextAssets> for node::TextAssets {
    fn from(assets: TextAssets) -> Self {
        let kind = match assets.kind {
            TokenizerKind::ByteBpe => node::TokenizerKind::ByteBpe,
            TokenizerKind::SentencePiece => node::TokenizerKind::SentencePiece,
            TokenizerKind::Bytes => node::TokenizerKind::Bytes,
        };
        let space_prefix = match assets.space_prefix {
            SpacePrefix::Never => node::SpacePrefix::Unspecified,
            SpacePrefix::First => node::SpacePrefix::First,
            SpacePrefix::EveryText => node::SpacePrefix::EveryText,
        };
        node::TextAssets {
            kind: kind.into(),
            tokens: assets.tokens.to_strings(),
            token_types: assets.token_types,
            merges: assets.merges.to_strings(),
            pre: assets.pre,
            chat_template: assets.chat_template,
            bos: assets.bos.map(|token| token.0),
            add_bos: assets.add_bos,
            eos: assets.eos.into_iter().map(|token| token.0).collect(),
            space_prefix: space_prefix.into(),
        }
    }
}

impl TryFrom<node::TextAssets> for TextAssets {
    type Error = ConvertError;

    fn try_from(assets: node::TextAssets) -> Result<Self, ConvertError> {
        at_most("text.tokens", assets.tokens.len(), MAX_TOKENS)?;
        at_most("text.merges", assets.merges.len(), 4 * MAX_TOKENS)?;
        at_most("text.eos", assets.eos.len(), MAX_STOP_TOKENS)?;
        let kind = match assets.kind() {
            node::TokenizerKind::ByteBpe => TokenizerKind::ByteBpe,
            node::TokenizerKind::SentencePiece => TokenizerKind::SentencePiece,
            node::TokenizerKind::Bytes => TokenizerKind::Bytes,
            node::TokenizerKind::Unspecified => {
                return Err(ConvertError::Unknown { field: "text.kind", given: assets.kind });
            }
        };
        let space_prefix = match assets.space_prefix() {
            node::SpacePrefix::Unspecified => SpacePrefix::Never,
            node::SpacePrefix::First => SpacePrefix::First,
            node::SpacePrefix::EveryText => SpacePrefix::EveryText,
        };
        Ok(TextAssets {
            kind,
            space_prefix,
            tokens: assets.tokens.into_iter().collect(),
            token_types: assets.token_types,
            merges: assets.merges.into_iter().collect(),
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

    #[test]
    fn text_assets_round_trip() {
        let spaces = [SpacePrefix::Never, SpacePrefix::First, SpacePrefix::EveryText];
        let kinds = [TokenizerKind::ByteBpe, TokenizerKind::SentencePiece, TokenizerKind::Bytes];
        for (kind, space_prefix) in kinds.into_iter().zip(spaces) {
            let assets = TextAssets { kind, space_prefix, ..TextAssets::bytes() };
            assert_eq!(TextAssets::try_from(node::TextAssets::from(assets.clone())), Ok(assets));
        }
    }
}
