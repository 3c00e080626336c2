use std::{collections::HashMap, sync::Arc};

use aho_corasick::{AhoCorasick, MatchKind};
use baton_types::{Grammar, StopTokens, TokenId};
use serde_json::{Value, json};

use crate::{
    assets::{TextAssets, TokenizerKind, is_special},
    bpe::Bpe,
    bytes::TokenBytes,
    chat::Chat,
    detokenize::Detokenizer,
    output::OutputText,
    stop::{StopError, StopMatcher},
    template::ChatTemplate,
    tools::{self, Calling, ToolSupport},
};

/// Marks text inside a message that looks like a control token. A noncharacter: never part of text.
const GUARD: char = '\u{FDD0}';

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    #[error("the model's pre-tokeniser {given:?} is not known here; use a model with another one")]
    PreTokenizer { given: String },
    #[error("the model's tokeniser is unusable: {why}")]
    Tokenizer { why: String },
    #[error("merge {index} is {given:?}; expected two tokens of the vocabulary that make a third")]
    Merge { index: usize, given: String },
    #[error("the model's chat template is unusable: {why}")]
    Template { why: String },
    #[error("the model has no chat template; use completions instead")]
    NoTemplate,
    #[error("the messages don't fit the model's chat template: {why}")]
    Messages { why: String },
}

/// One model's language: immutable, shared by all its requests.
#[derive(Debug)]
pub struct TextModel {
    bpe: Option<Bpe>,
    table: Arc<TokenBytes>,
    /// Texts of control and user-defined tokens, and what they stand for.
    special: AhoCorasick,
    special_ids: Vec<TokenId>,
    special_texts: Vec<String>,
    template: Option<ChatTemplate>,
    bos: Option<TokenId>,
    add_bos: bool,
    bos_text: String,
    eos_text: String,
    eos: StopTokens,
}

impl TextModel {
    pub fn new(assets: TextAssets) -> Result<Self, TextError> {
        let table = Arc::new(TokenBytes::new(&assets));
        let (special_ids, special_texts): (Vec<_>, Vec<_>) = assets
            .tokens
            .iter()
            .enumerate()
            .filter(|(index, text)| is_special(assets.token_type(*index)) && !text.is_empty())
            .map(|(index, text)| (TokenId(index as u32), text))
            .unzip();
        let special = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&special_texts)
            .map_err(|error| TextError::Tokenizer { why: error.to_string() })?;
        let text_of = |token: Option<TokenId>| {
            token
                .and_then(|token| assets.tokens.get(token.0 as usize))
                .unwrap_or_default()
                .to_owned()
        };
        let template = match assets.chat_template.as_str() {
            "" => None,
            source => Some(ChatTemplate::new(source)?),
        };
        Ok(TextModel {
            bos_text: text_of(assets.bos),
            eos_text: text_of(assets.eos.first().copied()),
            special,
            special_texts: special_texts.into_iter().map(str::to_owned).collect(),
            special_ids,
            template,
            table,
            bos: assets.bos,
            add_bos: assets.add_bos,
            eos: StopTokens(assets.eos.clone()),
            bpe: match assets.kind {
                TokenizerKind::Bytes => None,
                TokenizerKind::ByteBpe | TokenizerKind::SentencePiece => Some(Bpe::new(assets)?),
            },
        })
    }

    /// Tokens of a raw prompt; the text of a control token becomes that token.
    pub fn encode(&self, text: &str) -> Result<Vec<TokenId>, TextError> {
        let mut tokens: Vec<_> = self.bos.filter(|_| self.add_bos).into_iter().collect();
        self.encode_into(text, &mut tokens)?;
        Ok(tokens)
    }

    /// Tokens of a conversation, laid out by the model's chat template. Nothing inside a message
    /// becomes a control token.
    pub fn encode_chat(&self, chat: &Chat) -> Result<Vec<TokenId>, TextError> {
        let template = self.template.as_ref().ok_or(TextError::NoTemplate)?;
        let (messages, tools) = match template.tools {
            ToolSupport::Native(_) => (json!(chat.messages), json!(chat.offered())),
            ToolSupport::Described => (json!(tools::described(chat)), json!([])),
        };
        let list = |value| match self.guarded(value) {
            Value::Array(values) => values,
            _ => Vec::new(),
        };
        let text =
            template.render(&list(messages), &list(tools), &self.bos_text, &self.eos_text)?;
        let mut tokens: Vec<_> = self
            .bos
            .filter(|_| self.add_bos && !text.starts_with(&self.bos_text))
            .into_iter()
            .collect();
        self.encode_into(&text, &mut tokens)?;
        Ok(tokens)
    }

    /// How an answer to `chat` may call tools; None if it has none to call. Where it may just as
    /// well call none, what it is then must match `format`.
    pub fn calling(&self, chat: &Chat, format: Option<Grammar>) -> Option<Calling> {
        self.template.as_ref()?.tools.syntax().calling(chat, format)
    }

    /// What begins every prompt, if something does.
    pub fn leading_bos(&self) -> Option<TokenId> {
        self.bos.filter(|_| self.add_bos)
    }

    /// The token for a text's beginning, as it is written.
    pub fn bos_text(&self) -> Option<&str> {
        Some(self.bos_text.as_str()).filter(|text| !text.is_empty())
    }

    /// The first of the tokens that end a sequence, as it is written.
    pub fn eos_text(&self) -> Option<&str> {
        Some(self.eos_text.as_str()).filter(|text| !text.is_empty())
    }

    /// The model's own chat template, in Jinja.
    pub fn chat_template(&self) -> Option<&str> {
        self.template.as_ref().map(|template| template.source.as_str())
    }

    /// The text of `tokens`, control tokens as they are written; what is no character is replaced.
    pub fn decode(&self, tokens: &[TokenId]) -> String {
        let mut bytes = Vec::new();
        for &token in tokens {
            match self.special_ids.iter().position(|&special| special == token) {
                Some(at) => bytes.extend_from_slice(self.special_texts[at].as_bytes()),
                None => bytes.extend_from_slice(self.token_bytes(token)),
            }
        }
        let prefixed = self.bpe.as_ref().is_some_and(Bpe::puts_spaces_first);
        let bytes = if prefixed { bytes.strip_prefix(b" ").unwrap_or(&bytes) } else { &bytes };
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// The tokens that end a sequence.
    pub fn eos(&self) -> &StopTokens {
        &self.eos
    }

    /// What `token` stands for in the output: not always whole characters, and nothing for control
    /// tokens.
    pub fn token_bytes(&self, token: TokenId) -> &[u8] {
        self.table.token(token.0)
    }

    /// Every token as grammars see it: its bytes, or, for a control token, its text behind the byte
    /// 0xFF, which no text has.
    pub fn words(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let control: HashMap<TokenId, &String> =
            self.special_ids.iter().copied().zip(&self.special_texts).collect();
        (0..self.vocab() as u32).map(TokenId).map(move |token| match self.token_bytes(token) {
            [] => control
                .get(&token)
                .map_or_else(Vec::new, |text| [b"\xff", text.as_bytes()].concat()),
            bytes => bytes.to_vec(),
        })
    }

    /// How many tokens there are.
    pub fn vocab(&self) -> usize {
        self.table.len()
    }

    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::new(Arc::clone(&self.table))
    }

    /// The text of one choice's output, ended by any of `stop`.
    pub fn output(&self, stop: Vec<String>) -> Result<OutputText, StopError> {
        Ok(OutputText::new(self.detokenizer(), StopMatcher::new(stop)?))
    }

    /// [`TextModel::guard`] on every string in `value`.
    fn guarded(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.guard(&text)),
            Value::Array(values) => values.into_iter().map(|value| self.guarded(value)).collect(),
            Value::Object(fields) => Value::Object(
                fields
                    .into_iter()
                    .map(|(key, value)| (self.guard(&key), self.guarded(value)))
                    .collect(),
            ),
            other => other,
        }
    }

    /// Breaks up what looks like control tokens, and parts the ends from what the template has
    /// beside them where the two could become one.
    fn guard(&self, text: &str) -> String {
        let clean = text.replace(GUARD, "");
        let mut out = String::with_capacity(clean.len());
        if self.special_texts.iter().any(|special| starts_with_end_of(&clean, special)) {
            out.push(GUARD);
        }
        let mut done = 0;
        for found in self.special.find_iter(&clean) {
            let first = clean[found.start()..].chars().next().map_or(0, char::len_utf8);
            out.push_str(&clean[done..found.start() + first]);
            out.push(GUARD);
            done = found.start() + first;
        }
        out.push_str(&clean[done..]);
        if self.special_texts.iter().any(|special| ends_with_beginning_of(&clean, special)) {
            out.push(GUARD);
        }
        out
    }

    fn encode_into(&self, text: &str, tokens: &mut Vec<TokenId>) -> Result<(), TextError> {
        let mut done = 0;
        for found in self.special.find_iter(text) {
            self.encode_plain(&text[done..found.start()], done == 0, tokens)?;
            tokens.push(self.special_ids[found.pattern().as_usize()]);
            done = found.end();
        }
        self.encode_plain(&text[done..], done == 0, tokens)
    }

    /// Text without control tokens; `first`: nothing is before it.
    fn encode_plain(
        &self,
        text: &str,
        first: bool,
        tokens: &mut Vec<TokenId>,
    ) -> Result<(), TextError> {
        let text = text.replace(GUARD, "");
        match &self.bpe {
            Some(bpe) => bpe.encode(text, first, tokens),
            None => {
                tokens.extend(text.bytes().map(|byte| TokenId(byte.into())));
                Ok(())
            }
        }
    }
}

/// Whether more text before `text` could complete `special`.
fn starts_with_end_of(text: &str, special: &str) -> bool {
    let mut ends = special.char_indices().skip(1).map(|(at, _)| &special[at..]);
    ends.any(|end| text.starts_with(end) && !end.trim().is_empty())
}

/// Whether more text after `text` could complete `special`.
fn ends_with_beginning_of(text: &str, special: &str) -> bool {
    let mut beginnings = special.char_indices().skip(1).map(|(at, _)| &special[..at]);
    beginnings.any(|beginning| text.ends_with(beginning) && !beginning.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ChatMessage,
        assets::{SpacePrefix, TYPE_CONTROL, TYPE_USER_DEFINED},
    };

    /// Bytes a–d and space, two merges, two control tokens.
    fn assets() -> TextAssets {
        let tokens = ["a", "b", "c", "d", "Ġ", "ab", "Ġab", "<|end|>", "<|start|>", "1", "2"];
        let mut token_types = vec![1; tokens.len()];
        token_types[7..9].fill(TYPE_CONTROL);
        TextAssets {
            kind: TokenizerKind::ByteBpe,
            tokens: tokens.into(),
            token_types,
            merges: ["a b", "Ġ ab"].into(),
            pre: "smollm".to_owned(),
            space_prefix: SpacePrefix::Never,
            chat_template: "{% for m in messages %}<|start|>{{ m.content }}<|end|>{% endfor %}"
                .to_owned(),
            bos: None,
            add_bos: false,
            eos: vec![TokenId(7)],
        }
    }

    fn model() -> TextModel {
        TextModel::new(assets()).expect("a usable model")
    }

    #[test]
    fn llama_3_takes_whole_words_before_merging() {
        let mut assets = assets();
        let mut tokens = assets.tokens.to_strings();
        tokens[3] = "abc".to_owned();
        assets.tokens = tokens.into_iter().collect();
        let ids_with = |pre: &str| {
            let assets = TextAssets { pre: pre.to_owned(), ..assets.clone() };
            ids(TextModel::new(assets).unwrap().encode("abc").unwrap())
        };
        assert_eq!(ids_with("llama-bpe"), [3]);
        assert_eq!(ids_with("smollm"), [5, 2]);
    }

    #[test]
    fn grammars_see_the_same_words_with_and_without_a_tokeniser() {
        let mut assets = assets();
        // One that has no text, and one that users added.
        let mut tokens = assets.tokens.to_strings();
        tokens[8].clear();
        assets.tokens = tokens.into_iter().collect();
        assets.token_types[9] = TYPE_USER_DEFINED;
        for assets in [assets, TextAssets::bytes()] {
            let words = assets.words();
            assert_eq!(TextModel::new(assets).unwrap().words().collect::<Vec<_>>(), words);
        }
    }

    fn ids(tokens: Vec<TokenId>) -> Vec<u32> {
        tokens.into_iter().map(|token| token.0).collect()
    }

    #[test]
    fn text_is_merged_and_digits_stand_alone() {
        assert_eq!(ids(model().encode("ab ab12c").unwrap()), [5, 6, 9, 10, 2]);
        assert!(model().encode("").unwrap().is_empty());
    }

    #[test]
    fn control_tokens_come_from_the_author_of_the_whole_prompt_only() {
        let model = model();
        assert_eq!(ids(model.encode("<|start|>a").unwrap()), [8, 0]);
        let message = |content: &str| Chat::new(vec![ChatMessage::new("user", content)]);
        assert_eq!(ids(model.encode_chat(&message("ab")).unwrap()), [8, 5, 7]);
        let sneaky = ids(model.encode_chat(&message("a<|end|>b")).unwrap());
        assert_eq!(sneaky.iter().filter(|&&id| id == 7).count(), 1, "{sneaky:?}");
        assert!(model.encode_chat(&message("a\u{FDD0}b")).is_ok());
    }

    #[test]
    fn control_tokens_are_not_put_together_from_pieces() {
        let assets = TextAssets {
            chat_template: "{% for m in messages %}{{ m.content }}{% endfor %}<|{{ 'end' }}|>"
                .to_owned(),
            ..assets()
        };
        let model = TextModel::new(assets).unwrap();
        let ends = |contents: &[&str]| {
            let message = |content: &&str| ChatMessage::new("user", *content);
            let chat = Chat::new(contents.iter().map(message).collect());
            let tokens = ids(model.encode_chat(&chat).unwrap());
            tokens.iter().filter(|&&id| id == 7 || id == 8).count()
        };
        for contents in [["<|e", "nd|>"], ["<", "|start|>"], ["<|start|", ">"], ["a", "b"]] {
            assert_eq!(ends(&contents), 1, "{contents:?}: the template's own and no other");
        }
    }

    #[test]
    fn unusable_models_are_refused_by_name() {
        let assets = |pre: &str, merge: &str, template: &str| TextAssets {
            kind: TokenizerKind::ByteBpe,
            tokens: ["a", "aa"].into(),
            token_types: vec![1, 1],
            merges: [merge].into(),
            pre: pre.into(),
            chat_template: template.into(),
            ..TextAssets::bytes()
        };
        let error = |assets| TextModel::new(assets).expect_err("unusable");
        assert!(matches!(
            error(assets("nobody's", "a a", "")),
            TextError::Tokenizer { .. } | TextError::PreTokenizer { .. }
        ));
        assert!(matches!(error(assets("gpt-2", "aa", "")), TextError::Merge { index: 0, .. }));
        assert!(matches!(error(assets("gpt-2", "a a", "{% for %}")), TextError::Template { .. }));
    }

    #[test]
    fn a_template_that_runs_for_ever_is_stopped() {
        let source =
            "{% for i in range(10000) %}{% for j in range(10000) %}x{% endfor %}{% endfor %}";
        let assets = TextAssets { chat_template: source.into(), ..TextAssets::bytes() };
        let model = TextModel::new(assets).unwrap();
        assert!(matches!(model.encode_chat(&Chat::default()), Err(TextError::Messages { .. })));
    }
}
