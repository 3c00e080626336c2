//! Log-probabilities in OpenAI's two shapes.

use baton_proto::convert::Sampled;
use baton_text::TextModel;
use baton_types::{TokenId, TokenLogprobs};
use serde_json::{Map, Value, json};

/// What is told about a run of tokens.
pub(super) struct Told<'a> {
    text: &'a TextModel,
    /// Nothing is told of a prompt's first token.
    tokens: Vec<(TokenId, Option<&'a TokenLogprobs>)>,
    /// Characters of the answer before them.
    offset: usize,
}

impl<'a> Told<'a> {
    pub(super) fn new(text: &'a TextModel, tokens: &'a [Sampled], offset: usize) -> Self {
        let told = |sampled: &'a Sampled| Some((sampled.token, Some(sampled.logprobs.as_deref()?)));
        Told { text, tokens: tokens.iter().filter_map(told).collect(), offset }
    }

    /// For pieces about which nothing is told.
    pub(super) fn nothing(text: &'a TextModel) -> Self {
        Told { text, tokens: Vec::new(), offset: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Characters of the answer up to their end.
    pub(super) fn end(&self) -> usize {
        self.offset + self.tokens.iter().map(|&(id, _)| self.characters(id)).sum::<usize>()
    }

    /// Characters that begin in a token: those of the text, however it is cut into tokens.
    fn characters(&self, id: TokenId) -> usize {
        let bytes = self.text.token_bytes(id).iter();
        bytes.filter(|byte| **byte & 0b1100_0000 != 0b1000_0000).count()
    }

    /// The same with the prompt's tokens before them, and what is told of those but the first.
    pub(super) fn after(self, prompt: &[TokenId], logprobs: &'a [TokenLogprobs]) -> Self {
        let told = [None].into_iter().chain(logprobs.iter().map(Some));
        let before = prompt.iter().copied().zip(told);
        Told { tokens: before.chain(self.tokens).collect(), ..self }
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
        let content = self.tokens.iter().filter_map(|&(id, told)| {
            let told = told?;
            let mut place = one(id, told.logprob);
            let top = told.top.iter().map(|&(id, logprob)| one(id, logprob));
            place["top_logprobs"] = top.collect();
            Some(place)
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
            offset += self.characters(id);
        }
        let top = |told: &Option<&TokenLogprobs>| {
            let Some(told) = told else { return Value::Null };
            let pairs = told.top.iter().map(|&(id, logprob)| (text(id), json!(logprob)));
            Value::Object(pairs.collect::<Map<_, _>>())
        };
        json!({
            "tokens": self.tokens.iter().map(|&(id, _)| text(id)).collect::<Value>(),
            "token_logprobs": self.tokens.iter().map(|(_, told)| told.map(|t| t.logprob)).collect::<Value>(),
            "top_logprobs": self.tokens.iter().map(|(_, told)| top(told)).collect::<Value>(),
            "text_offset": offsets,
        })
    }
}
