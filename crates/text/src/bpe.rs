//! From plain text to tokens by merging pairs.

use ahash::AHashMap;
use baton_types::TokenId;
use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
    models::bpe::{BPE, BpeBuilder},
};

use crate::{
    assets::{SpacePrefix, TYPE_UNKNOWN, TextAssets, TokenizerKind},
    model::TextError,
    pre::Preparation,
};

/// How SentencePiece writes a space.
pub(crate) const SPACE: &str = "▁";

type Tokenizer = TokenizerImpl<
    BPE,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

#[derive(Debug)]
pub(crate) struct Bpe {
    tokenizer: Tokenizer,
    /// Where a space is put; `None`: spaces are the pre-tokeniser's business.
    spaces: Option<SpacePrefix>,
}

fn refuse(error: tokenizers::Error) -> TextError {
    TextError::Tokenizer { why: error.to_string() }
}

impl Bpe {
    pub(crate) fn new(assets: TextAssets) -> Result<Self, TextError> {
        let sentence_piece = assets.kind == TokenizerKind::SentencePiece;
        let unknown = assets.token_types.iter().position(|&kind| kind == TYPE_UNKNOWN);
        let unknown = unknown.and_then(|index| assets.tokens.get(index)).map(str::to_owned);
        let (pre, space_prefix) = (assets.pre.clone(), assets.space_prefix);
        let mut builder = vocabulary(assets)?;
        if sentence_piece {
            builder = builder.byte_fallback(true).fuse_unk(true);
            if let Some(unknown) = unknown {
                builder = builder.unk_token(unknown);
            }
            let tokenizer = Tokenizer::new(builder.build().map_err(refuse)?);
            return Ok(Bpe { tokenizer, spaces: Some(space_prefix) });
        }
        let Preparation { normalizer, pre_tokenizer, ignore_merges } = Preparation::new(&pre)?;
        let model = builder.ignore_merges(ignore_merges).build().map_err(refuse)?;
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_normalizer(normalizer).map_err(refuse)?.with_pre_tokenizer(pre_tokenizer);
        Ok(Bpe { tokenizer, spaces: None })
    }

    /// Appends the tokens of `text`; `first`: nothing is before it.
    pub(crate) fn encode(
        &self,
        text: String,
        first: bool,
        tokens: &mut Vec<TokenId>,
    ) -> Result<(), TextError> {
        if text.is_empty() {
            return Ok(());
        }
        let text = match self.spaces {
            None => text,
            Some(prefix) => {
                let prefixed = match prefix {
                    SpacePrefix::Never => false,
                    SpacePrefix::First => first && !text.starts_with(' '),
                    SpacePrefix::EveryText => true,
                };
                let text = text.replace(' ', SPACE);
                if prefixed { format!("{SPACE}{text}") } else { text }
            }
        };
        let encoding = self.tokenizer.encode_fast(text, false).map_err(refuse)?;
        tokens.extend(encoding.get_ids().iter().map(|&id| TokenId(id)));
        Ok(())
    }

    /// Whether tokens of a text begin with a space that isn't the text's own.
    pub(crate) fn puts_spaces_first(&self) -> bool {
        matches!(self.spaces, Some(SpacePrefix::First | SpacePrefix::EveryText))
    }
}

fn vocabulary(assets: TextAssets) -> Result<BpeBuilder, TextError> {
    let tokens = assets.tokens.iter().enumerate();
    let vocab: AHashMap<String, u32> = tokens
        .filter(|(_, token)| !token.is_empty())
        .map(|(id, token)| (token.to_owned(), id as u32))
        .collect();
    // The library slices without asking: only merges within the vocabulary may reach it.
    let pair = |(index, merge): (usize, &str)| {
        merge
            .split_once(' ')
            .filter(|&(left, right)| {
                [left, right].iter().all(|&part| vocab.contains_key(part))
                    && vocab.contains_key(&format!("{left}{right}"))
            })
            .map(|(left, right)| (left.to_owned(), right.to_owned()))
            .ok_or_else(|| TextError::Merge { index, given: merge.to_owned() })
    };
    let merges = assets.merges.iter().enumerate().map(pair).collect::<Result<Vec<_>, _>>()?;
    Ok(BPE::builder().vocab_and_merges(vocab, merges))
}
