//! Log-probabilities in OpenAI's two shapes.

use baton_proto::convert::Sampled;
use baton_text::TextModel;
use baton_types::{TokenId, TokenLogprobs};
use serde_json::{Map, Value, json};

/// What is told about a run of tokens.
pub(super) struct Told<'a> {
    text: &'a TextModel,
    tokens: Vec<(TokenId, &'a TokenLogprobs)>,
    /// Characters of the answer before them.
    offset: usize,
}

impl<'a> Told<'a> {
    pub(super) fn new(text: &'a TextModel, tokens: &'a [Sampled], offset: usize) -> Self {
        let told = |sampled: &'a Sampled| Some((sampled.token, sampled.logprobs.as_deref()?));
        Told { text, tokens: tokens.iter().filter_map(told).collect(), offset }
    }

    /// `logprobs` of a chat's choice: null unless they were asked for.
    pub(super) fn chat(&self) -> Value {
        if self.tokens.is_empty() {
            return Value::Null;
        }
        let one = |id: TokenId, logprob: f32| {
            let bytes = self.text.token_bytes(id);
            let token = String::from_utf8_lossy(bytes);
            json!({ "token": token, "logprob": logprob, "bytes": bytes })
        };
        let content = self.tokens.iter().map(|&(id, told)| {
            let mut place = one(id, told.logprob);
            let top = told.top.iter().map(|&(id, logprob)| one(id, logprob));
            place["top_logprobs"] = top.collect();
            place
        });
        json!({ "content": content.collect::<Value>(), "refusal": null })
    }

    /// `logprobs` of a completion's choice.
    pub(super) fn completion(&self) -> Value {
        if self.tokens.is_empty() {
            return Value::Null;
        }
        let text = |id: TokenId| {
            let bytes = self.text.token_bytes(id);
            // As OpenAI writes what is no character by itself.
            match std::str::from_utf8(bytes) {
                Ok(text) => text.to_owned(),
                Err(_) => {
                    bytes.iter().fold("bytes:".to_owned(), |text, b| text + &format!("\\x{b:02x}"))
                }
            }
        };
        let mut offset = self.offset;
        let mut offsets = Vec::with_capacity(self.tokens.len());
        for &(id, _) in &self.tokens {
            offsets.push(offset);
            offset += String::from_utf8_lossy(self.text.token_bytes(id)).chars().count();
        }
        let top = |told: &TokenLogprobs| {
            let pairs = told.top.iter().map(|&(id, logprob)| (text(id), json!(logprob)));
            Value::Object(pairs.collect::<Map<_, _>>())
        };
        json!({
            "tokens": self.tokens.iter().map(|&(id, _)| text(id)).collect::<Value>(),
            "token_logprobs": self.tokens.iter().map(|(_, told)| told.logprob).collect::<Value>(),
            "top_logprobs": self.tokens.iter().map(|(_, told)| top(told)).collect::<Value>(),
            "text_offset": offsets,
        })
    }
}
