use baton_types::TokenId;

use crate::{bytes::TokenBytes, texts::Texts};

/// What a model's file says about its language. Travels from nodes to routers in the hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextAssets {
    pub kind: TokenizerKind,
    /// The vocabulary, by token id. Empty for [`TokenizerKind::Bytes`].
    pub tokens: Texts,
    /// GGUF's token types, one for each of `tokens`.
    pub token_types: Vec<u32>,
    /// `left right`, best first.
    pub merges: Texts,
    /// How byte-level BPE cuts text: GGUF's name of the pre-tokeniser, or what a `tokenizer.json`
    /// says of it, as JSON.
    pub pre: String,
    /// Where [`TokenizerKind::SentencePiece`] puts a space before text.
    pub space_prefix: SpacePrefix,
    /// Jinja; empty when the model has none.
    pub chat_template: String,
    pub bos: Option<TokenId>,
    /// Whether every prompt begins with `bos`.
    pub add_bos: bool,
    /// Tokens that end a sequence.
    pub eos: Vec<TokenId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerKind {
    /// Byte-level BPE (GGUF's "gpt2").
    ByteBpe,
    /// Pieces over characters, a space written `▁`, what is in no piece as bytes (GGUF's "llama").
    SentencePiece,
    /// One token a byte, then one that ends a sequence: the simulated engine's.
    Bytes,
}

/// Where text gets a space before it, which is none of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpacePrefix {
    #[default]
    Never,
    /// Where the whole begins, unless with a control token or a space.
    First,
    /// Also after every control token.
    EveryText,
}

/// GGUF's token types with a meaning here.
pub(crate) const TYPE_NORMAL: u32 = 1;
pub(crate) const TYPE_UNKNOWN: u32 = 2;
pub(crate) const TYPE_CONTROL: u32 = 3;
pub(crate) const TYPE_USER_DEFINED: u32 = 4;
pub(crate) const TYPE_UNUSED: u32 = 5;
pub(crate) const TYPE_BYTE: u32 = 6;

/// Tokens that are found in a text before it is cut, and stand for no text of their own if they are control tokens.
pub(crate) fn is_special(kind: u32) -> bool {
    matches!(kind, TYPE_CONTROL | TYPE_USER_DEFINED)
}

/// The token after the 256 bytes ends a sequence.
const BYTES_EOS: TokenId = TokenId(256);
const BYTES_TEMPLATE: &str = "{% for message in messages %}{{ message.role }}: \
    {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

impl TextAssets {
    /// The simulated engine's language.
    pub fn bytes() -> Self {
        TextAssets {
            kind: TokenizerKind::Bytes,
            tokens: Texts::default(),
            token_types: Vec::new(),
            merges: Texts::default(),
            pre: String::new(),
            space_prefix: SpacePrefix::Never,
            chat_template: BYTES_TEMPLATE.to_owned(),
            bos: None,
            add_bos: false,
            eos: vec![BYTES_EOS],
        }
    }

    /// Every token as grammars see it: its bytes, or, for a control token, its text behind the byte
    /// 0xFF, which no text has.
    pub fn words(&self) -> Vec<Vec<u8>> {
        let table = TokenBytes::new(self);
        let word = |index: usize| match table.token(index as u32) {
            [] => {
                let is_special = is_special(self.token_type(index));
                let text = self.tokens.get(index).filter(|text| is_special && !text.is_empty());
                text.map_or_else(Vec::new, |text| [b"\xff", text.as_bytes()].concat())
            }
            bytes => bytes.to_vec(),
        };
        (0..table.len()).map(word).collect()
    }

    pub(crate) fn token_type(&self, index: usize) -> u32 {
        self.token_types.get(index).copied().unwrap_or(TYPE_NORMAL)
    }
}
