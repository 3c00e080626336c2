//! Memory and arithmetic: the KV arena with its guards, the thread pool, the packed matrices and
//! the kernels. The only crate with `unsafe`; what it exports is safe to call.
//!
//! # Why are the bits the same everywhere?
//!
//! Every kernel is written once, over 16 virtual lanes ([`simd::Simd`]). The portable lanes are an
//! array and define the bits; the AVX2, AVX-512 and NEON ones are registers. An operation on a lane is
//! one IEEE 754 operation (or one fused multiply-add) in all of them, so the order of operations,
//! and with it every bit, is a property of the source alone. See ARCHITECTURE.md, *Numerics*.

mod arena;
mod attention;
mod element;
mod elementwise;
mod format;
mod kernels;
mod locks;
mod mapping;
pub mod math;
mod matmul;
mod matrix;
mod pack;
mod pin;
mod pool;
mod pooled;
mod prefetch;
mod quantize;
mod region;
mod repack;
mod simd;
mod store;

pub use arena::{Arena, ArenaError, PageError, PageRead, PageWrite};
pub use attention::{AttentionHeads, AttentionScratch, AttentionSequence};
pub use elementwise::Activation;
pub use format::Format;
pub use kernels::{Isa, IsaError, Kernels};
pub use matrix::{Matrix, MatrixError};
pub use pin::PinError;
pub use pool::ThreadPool;
pub use pooled::Pooled;
pub use quantize::{Activations, QUANT_BLOCK};
pub use region::WeightMemory;

/// Names the kernel family whose order of operations this crate implements; part of the numerics
/// id. Changing one bit of any kernel's result means changing this.
pub const NUMERICS: &str = "baton-cpu-1";
