//! The real engine: models from GGUF files and safetensors folders, behind
//! [`baton_scheduler::Engine`].
//!
//! Every product, sum and exponential on the token path is `baton_device`'s, in its frozen order
//! (`same-tokens`).
//!
//! # From a file to logits
//!
//! [`Model::load`] takes either kind: `gguf` and `folder` say what a model declares and hand out its
//! tensors by one set of names, `architecture` knows what the model is made of, `reader` brings the
//! weights into the kernels' order. From there on nothing knows what the file was.

mod architecture;
mod cuts;
mod error;
mod folder;
mod gguf;

mod model;
mod reader;
mod rope;
mod sampler;
mod text;
mod transformer;
mod weights;

pub use error::LoadError;
pub use model::Model;
pub use transformer::TransformerEngine;
