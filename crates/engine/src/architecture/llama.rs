//! Llama 1 to 3 (Touvron et al., 2023; Llama Team, 2024), and what is shaped like it: SmolLM,
//! TinyLlama, and Mistral in GGUF files.

use super::{Architecture, Parts, Reach};
use crate::reader::Pairs;

pub(super) const LLAMA: Architecture = Architecture {
    gguf: "llama",
    model_type: "llama",
    gguf_pairs: Pairs::Neighbours,
    norm_offset: 0.0,
    renamed: &[],
    parts: Parts::PLAIN,
    reach: |declared| Ok(Reach::uniform(declared, declared.window)),
};
