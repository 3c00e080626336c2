//! A model's weights, as the forward pass wants them.

use baton_device::{Activations, Matrix};

use crate::error::LoadError;

/// Sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) ffn: usize,
    pub(crate) vocab: usize,
    /// Tokens the model was trained for.
    pub(crate) context: u32,
    /// Of the norms.
    pub(crate) eps: f32,
}

/// Beyond any model, and small enough that no product of two overflows.
const MAX_LAYERS: usize = 1024;
const MAX_SIZE: usize = 1 << 28;

impl Shape {
    /// Refuses what the kernels don't compute.
    pub(crate) fn check(&self) -> Result<(), LoadError> {
        let Shape { layers, hidden, heads, kv_heads, head_dim, ffn, vocab, .. } = *self;
        if layers > MAX_LAYERS {
            return Err(LoadError::unsupported("layers", layers, "up to 1024 are"));
        }
        if let Some(given) = [hidden, heads, ffn, vocab].into_iter().find(|&size| size > MAX_SIZE) {
            return Err(LoadError::unsupported("a size", given, "each is at most 2^28"));
        }
        if !heads.is_multiple_of(kv_heads) || heads / kv_heads > 16 {
            let given = format!("{heads} over {kv_heads}");
            let why = "kv heads serve 1 to 16 heads each";
            return Err(LoadError::unsupported("head_count", given, why));
        }
        if !head_dim.is_multiple_of(16) || head_dim == 0 || head_dim > 256 {
            let why = "a multiple of 16 up to 256 is";
            return Err(LoadError::unsupported("head_dim", head_dim, why));
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct Weights {
    pub(crate) embedding: Matrix,
    pub(crate) layers: Vec<Layer>,
    pub(crate) output_norm: Vec<f32>,
    /// `None`: the embedding's rows are the output's too.
    pub(crate) output: Option<Matrix>,
}

#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) q: HeadProjection,
    pub(crate) k: HeadProjection,
    pub(crate) v: HeadProjection,
    pub(crate) attention_out: Matrix,
    pub(crate) attention_post_norm: Option<Vec<f32>>,
    pub(crate) ffn_norm: Vec<f32>,
    pub(crate) gate: Matrix,
    pub(crate) up: Matrix,
    pub(crate) down: Matrix,
    pub(crate) ffn_post_norm: Option<Vec<f32>>,
}

/// From hidden rows to heads: `norm(x · matrixᵀ + bias)`.
#[derive(Debug)]
pub(crate) struct HeadProjection {
    pub(crate) matrix: Matrix,
    /// `[heads][head_dim]`.
    pub(crate) bias: Option<Vec<f32>>,
    /// `[head_dim]`, of every head for itself.
    pub(crate) norm: Option<Vec<f32>>,
}

impl Layer {
    pub(crate) fn matrices(&self) -> [&Matrix; 7] {
        let Layer { q, k, v, attention_out, gate, up, down, .. } = self;
        [&q.matrix, &k.matrix, &v.matrix, attention_out, gate, up, down]
    }
}

impl Weights {
    pub(crate) fn output(&self) -> &Matrix {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// Rows of activations as these weights take them.
    pub(crate) fn activations(&self) -> Activations {
        let floats = self.matrices().any(Matrix::is_float);
        if floats { Activations::default() } else { Activations::rounded() }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.matrices().map(Matrix::bytes).sum()
    }

    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter().flat_map(Layer::matrices);
        layers.chain([&self.embedding]).chain(&self.output)
    }
}
