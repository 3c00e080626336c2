//! What tells one architecture from another: a file for each.
//!
//! All are decoders of the same blocks: a norm, attention with rotary positions and grouped heads,
//! a norm, a gated feed-forward layer, both added to the residual stream. An architecture says
//! which optional parts its blocks have ([`Parts`]), how its layers look back ([`Span`]), and how
//! files write it; reading weights and running steps is written once, over that.

mod gemma3;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;

use baton_device::Activation;

use crate::{
    error::LoadError,
    reader::Pairs,
    rope::{Rope, Scaling},
    weights::Shape,
};

/// One family of models.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// GGUF's `general.architecture`.
    pub(crate) gguf: &'static str,
    /// `model_type` in a folder's `config.json`.
    pub(crate) model_type: &'static str,
    /// Which dims of a head are a rotary pair in GGUF files; in folders they are always halves.
    pub(crate) gguf_pairs: Pairs,
    /// What is added to a folder's norm weights; GGUF files have it in them.
    pub(crate) norm_offset: f32,
    /// A layer's tensors that folders call otherwise than [`crate::folder`] does: GGUF's name, the
    /// folder's.
    pub(crate) renamed: &'static [(&'static str, &'static str)],
    pub(crate) parts: Parts,
    /// How the layers of a model look back.
    pub(crate) reach: fn(&Declared) -> Result<Reach, LoadError>,
}

/// Optional parts of the blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    /// Queries, keys and values have a bias.
    pub(crate) qkv_bias: bool,
    /// Queries and keys are normed, each head for itself, before they are turned.
    pub(crate) qk_norm: bool,
    /// What attention and feed-forward give is normed before it is added.
    pub(crate) post_norms: bool,
    pub(crate) activation: Activation,
    /// Embeddings are multiplied by the root of the hidden size.
    pub(crate) scaled_embedding: bool,
}

impl Parts {
    const PLAIN: Parts = Parts {
        qkv_bias: false,
        qk_norm: false,
        post_norms: false,
        activation: Activation::Silu,
        scaled_embedding: false,
    };
}

/// What a model's file or folder says about it.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) shape: Shape,
    pub(crate) rope_base: Option<f32>,
    pub(crate) scaling: Scaling,
    /// Of layers with a window, where they have their own.
    pub(crate) local_rope_base: Option<f32>,
    /// Tokens a row sees in layers with a window.
    pub(crate) window: Option<u32>,
    /// Which layers have the window, where only some do.
    pub(crate) windowed: Option<Vec<bool>>,
    /// Scores are divided by its root; usually the head dim.
    pub(crate) query_scalar: Option<f32>,
}

/// How layers look back.
#[derive(Debug)]
pub(crate) struct Reach {
    pub(crate) spans: Vec<Span>,
    /// Each layer's index in `spans`.
    pub(crate) layers: Vec<usize>,
    /// Scores are multiplied by it.
    pub(crate) attention_scale: f32,
}

/// What a layer sees and how it tells positions apart.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) window: Option<u32>,
    pub(crate) rope: Rope,
}

impl Reach {
    /// All layers alike.
    fn uniform(declared: &Declared, window: Option<u32>) -> Self {
        let span = Span { window, rope: declared.rope(declared.rope_base, &declared.scaling) };
        Reach {
            spans: vec![span],
            layers: vec![0; declared.shape.layers],
            attention_scale: 1.0 / (declared.shape.head_dim as f32).sqrt(),
        }
    }
}

impl Declared {
    fn rope(&self, base: Option<f32>, scaling: &Scaling) -> Rope {
        Rope::new(self.shape.head_dim, base.unwrap_or(10_000.0), scaling)
    }
}

/// Those this engine runs.
static ALL: [&Architecture; 5] =
    [&llama::LLAMA, &mistral::MISTRAL, &qwen2::QWEN2, &qwen3::QWEN3, &gemma3::GEMMA3];

impl Architecture {
    /// The one GGUF files call `name`.
    pub(crate) fn of_gguf(name: &str) -> Result<&'static Architecture, LoadError> {
        Self::find(name, |architecture| architecture.gguf)
    }

    /// The one a folder's `config.json` calls `name`.
    pub(crate) fn of_folder(name: &str) -> Result<&'static Architecture, LoadError> {
        Self::find(name, |architecture| architecture.model_type)
    }

    fn find(
        given: &str,
        name: impl Fn(&Architecture) -> &'static str,
    ) -> Result<&'static Architecture, LoadError> {
        let found = ALL.into_iter().find(|architecture| name(architecture) == given);
        found.ok_or_else(|| {
            let mut names: Vec<_> = ALL.iter().map(|known| format!("{:?}", name(known))).collect();
            names.dedup();
            LoadError::Architecture { given: given.to_owned(), supported: names.join(", ") }
        })
    }
}
