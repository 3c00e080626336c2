//! The real engine: the Llama architecture from GGUF files, behind [`baton_scheduler::Engine`].
//!
//! candle reads the file; every product, sum and exponential on the token path is
//! `baton_device`'s, in its frozen order (`same-tokens`).

mod architecture;
mod error;
mod folder;
mod gguf;
mod llama;
mod model;
mod rope;
mod sampler;
mod text;
mod weights;

pub use error::LoadError;
pub use llama::LlamaEngine;
pub use model::Model;
