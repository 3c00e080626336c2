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
    /// GGUF's name of the pre-tokeniser.
    pub pre: String,
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
    /// One token a byte, then one that ends a sequence: the simulated engine's.
    Bytes,
}

/// GGUF's token types with a meaning here.
pub(crate) const TYPE_NORMAL: u32 = 1;
pub(crate) const TYPE_CONTROL: u32 = 3;
pub(crate) const TYPE_USER_DEFINED: u32 = 4;

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
