//! How text is cut before merging: by GGUF's names, or as a `tokenizer.json` says.

use serde::{Deserialize, Serialize};
use tokenizers::{
    NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
    pre_tokenizers::{
        byte_level::ByteLevel,
        digits::Digits,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

use crate::model::TextError;

const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What happens to text before merging. Serialised, it has a `tokenizer.json`'s own words.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Preparation {
    pub(crate) normalizer: Option<NormalizerWrapper>,
    pub(crate) pre_tokenizer: Option<PreTokenizerWrapper>,
    /// Whether a word that is in the vocabulary is that token, whatever merges would make of it.
    pub(crate) ignore_merges: bool,
}

impl Preparation {
    /// What [`crate::TextAssets::pre`] says.
    pub(crate) fn new(pre: &str) -> Result<Self, TextError> {
        if pre.starts_with('{') {
            return serde_json::from_str(pre)
                .map_err(|error| TextError::Tokenizer { why: error.to_string() });
        }
        Ok(Preparation {
            normalizer: None,
            pre_tokenizer: Some(pre_tokenizer(pre)?),
            ignore_merges: is_llama_3(pre),
        })
    }
}

/// The pre-tokeniser GGUF calls `name`.
fn pre_tokenizer(name: &str) -> Result<PreTokenizerWrapper, TextError> {
    // GPT-2's own expression is part of the byte-level step.
    let gpt_2 = || ByteLevel::new(false, true, true).into();
    let bytes_only = || PreTokenizerWrapper::from(ByteLevel::new(false, true, false));
    let split = |pattern: &str| {
        let pattern = SplitPattern::Regex(pattern.to_owned());
        Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
            .map(PreTokenizerWrapper::from)
            .map_err(|error| TextError::Tokenizer { why: error.to_string() })
    };
    let steps = match name {
        "gpt-2" | "gpt2" | "default" | "" => vec![gpt_2()],
        "smollm" | "starcoder" | "refact" | "command-r" => vec![Digits::new(true).into(), gpt_2()],
        name if is_llama_3(name) => vec![split(LLAMA_3)?, bytes_only()],
        "qwen2" => vec![split(QWEN_2)?, bytes_only()],
        _ => return Err(TextError::PreTokenizer { given: name.to_owned() }),
    };
    Ok(Sequence::new(steps).into())
}

fn is_llama_3(pre: &str) -> bool {
    matches!(pre, "llama-bpe" | "llama3" | "llama-v3")
}
