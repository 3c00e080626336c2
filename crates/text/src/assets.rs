use baton_types::TokenId;
use serde::{Deserialize, Serialize};

/// What a model's file says about its language. Travels from nodes to routers in the hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextAssets {
    pub kind: TokenizerKind,
    /// The vocabulary, by token id. Empty for [`TokenizerKind::Bytes`].
    pub tokens: Vec<String>,
    /// GGUF's token types, one for each of `tokens`.
    pub token_types: Vec<u32>,
    /// `left right`, best first.
    pub merges: Vec<String>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenizerKind {
    /// Byte-level BPE (GGUF's "gpt2").
    ByteBpe,
    /// Pieces over characters, a space written `▁`, what is in no piece as bytes (GGUF's "llama").
    SentencePiece,
    /// One token a byte, then one that ends a sequence: the simulated engine's.
    Bytes,
}

/// Where text gets a space before it, which is none of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// The token after the 256 bytes ends a sequence.
const BYTES_EOS: TokenId = TokenId(256);
const BYTES_TEMPLATE: &str = "{% for message in messages %}{{ message.role }}: \
    {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

impl TextAssets {
    /// The simulated engine's language.
    pub fn bytes() -> Self {
        TextAssets {
            kind: TokenizerKind::Bytes,
            tokens: Vec::new(),
            token_types: Vec::new(),
            merges: Vec::new(),
            pre: String::new(),
            space_prefix: SpacePrefix::Never,
            chat_template: BYTES_TEMPLATE.to_owned(),
            bos: None,
            add_bos: false,
            eos: vec![BYTES_EOS],
        }
    }

    pub(crate) fn token_type(&self, index: usize) -> u32 {
        self.token_types.get(index).copied().unwrap_or(TYPE_NORMAL)
    }
}
