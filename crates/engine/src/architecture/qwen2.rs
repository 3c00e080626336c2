//! Qwen2 and Qwen2.5 (Qwen Team, 2024): queries, keys and values have biases.

use super::{Architecture, Parts, Reach};
use crate::reader::Pairs;

pub(super) const QWEN2: Architecture = Architecture {
    gguf: "qwen2",
    model_type: "qwen2",
    gguf_pairs: Pairs::Halves,
    norm_offset: 0.0,
    renamed: &[],
    parts: Parts { qkv_bias: true, ..Parts::PLAIN },
    reach: |declared| Ok(Reach::uniform(declared, None)),
};
