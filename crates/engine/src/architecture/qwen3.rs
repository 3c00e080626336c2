//! Qwen3, dense (Qwen Team, 2025): the heads of queries and keys are normed; no biases.

use super::{Architecture, Parts, Reach};
use crate::reader::Pairs;

pub(super) const QWEN3: Architecture = Architecture {
    gguf: "qwen3",
    model_type: "qwen3",
    gguf_pairs: Pairs::Halves,
    norm_offset: 0.0,
    renamed: &[],
    parts: Parts { qk_norm: true, ..Parts::PLAIN },
    reach: |declared| Ok(Reach::uniform(declared, None)),
};
