//! Mistral (Jiang et al., 2023): Llama's blocks; the first version has a window in every layer. GGUF
//! files call it Llama.

use super::{Architecture, llama::LLAMA};

pub(super) const MISTRAL: Architecture = Architecture { model_type: "mistral", ..LLAMA };
