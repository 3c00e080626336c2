//! What a GGUF file says about the model's language.

use baton_text::{SpacePrefix, TextAssets, Texts, TokenizerKind, merges_of_scores};
use baton_types::TokenId;
use candle_core::quantized::gguf_file::{Content, Value};

use crate::{
    error::LoadError,
    gguf::{optional, value},
};

pub(crate) fn text_assets(content: &Content) -> Result<TextAssets, LoadError> {
    let kind = match value(content, "tokenizer.ggml.model", Value::to_string)?.as_str() {
        "gpt2" => TokenizerKind::ByteBpe,
        "llama" => TokenizerKind::SentencePiece,
        given => {
            let why = "byte-level BPE (\"gpt2\") and SentencePiece (\"llama\") are";
            return Err(LoadError::unsupported("tokenizer.ggml.model", given, why));
        }
    };
    let tokens = texts(content, "tokenizer.ggml.tokens")?;
    let token_types = list(content, "tokenizer.ggml.token_type", |value| match value {
        Value::I32(kind) => Ok(*kind as u32),
        value => value.to_u32(),
    })?;
    let merges = match kind {
        TokenizerKind::SentencePiece => {
            let scores = list(content, "tokenizer.ggml.scores", Value::to_f32)?;
            merges_of_scores(&tokens, &token_types, &scores)
        }
        _ => texts(content, "tokenizer.ggml.merges")?,
    };
    let flag = |key| optional(content, key, Value::to_bool);
    // What a file leaves out is true of SentencePiece.
    let default = kind == TokenizerKind::SentencePiece;
    let spaced = default && flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let add_bos = flag("tokenizer.ggml.add_bos_token")?.unwrap_or(default);
    let token = |key| Ok::<_, LoadError>(optional(content, key, Value::to_u32)?.map(TokenId));
    let mut eos: Vec<TokenId> = Vec::new();
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
        let token = token(key)?;
        eos.extend(token.filter(|token| !eos.contains(token)));
    }
    let text = |key| {
        let text = optional(content, key, Value::to_string)?;
        Ok::<_, LoadError>(text.cloned().unwrap_or_default())
    };
    Ok(TextAssets {
        kind,
        tokens,
        token_types,
        merges,
        pre: text("tokenizer.ggml.pre")?,
        chat_template: text("tokenizer.chat_template")?,
        bos: token("tokenizer.ggml.bos_token_id")?,
        add_bos,
        space_prefix: if spaced { SpacePrefix::EveryText } else { SpacePrefix::Never },
        eos,
    })
}

fn texts(content: &Content, key: &str) -> Result<Texts, LoadError> {
    value(content, key, |value| value.to_vec()?.iter().map(Value::to_string).collect())
}

fn list<T>(
    content: &Content,
    key: &str,
    read: impl Fn(&Value) -> candle_core::Result<T>,
) -> Result<Vec<T>, LoadError> {
    value(content, key, |value| value.to_vec()?.iter().map(&read).collect())
}
