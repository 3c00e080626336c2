//! What a GGUF file says about the model's language.

use baton_text::{TextAssets, TokenizerKind};
use baton_types::TokenId;
use candle_core::quantized::gguf_file::{Content, Value};

use crate::gguf::{LoadError, optional, value};

pub(crate) fn text_assets(content: &Content) -> Result<TextAssets, LoadError> {
    let kind = value(content, "tokenizer.ggml.model", Value::to_string)?;
    if kind != "gpt2" {
        let why = "byte-level BPE (\"gpt2\") is";
        let given = kind.clone();
        return Err(LoadError::Unsupported { key: "tokenizer.ggml.model", given, why });
    }
    let token = |key| Ok(optional(content, key, Value::to_u32)?.map(TokenId));
    let mut eos: Vec<TokenId> = Vec::new();
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
        let token: Option<TokenId> = token(key)?;
        eos.extend(token.filter(|token| !eos.contains(token)));
    }
    let text = |key| {
        let text = optional(content, key, Value::to_string)?;
        Ok::<_, LoadError>(text.cloned().unwrap_or_default())
    };
    Ok(TextAssets {
        kind: TokenizerKind::ByteBpe,
        tokens: list(content, "tokenizer.ggml.tokens", |value| value.to_string().cloned())?,
        token_types: list(content, "tokenizer.ggml.token_type", |value| match value {
            Value::I32(kind) => Ok(*kind as u32),
            value => value.to_u32(),
        })?,
        merges: list(content, "tokenizer.ggml.merges", |value| value.to_string().cloned())?,
        pre: text("tokenizer.ggml.pre")?,
        chat_template: text("tokenizer.chat_template")?,
        bos: token("tokenizer.ggml.bos_token_id")?,
        add_bos: optional(content, "tokenizer.ggml.add_bos_token", Value::to_bool)?
            .unwrap_or(false),
        eos,
    })
}

fn list<T>(
    content: &Content,
    key: &str,
    read: impl Fn(&Value) -> candle_core::Result<T>,
) -> Result<Vec<T>, LoadError> {
    value(content, key, |value| value.to_vec()?.iter().map(&read).collect())
}
