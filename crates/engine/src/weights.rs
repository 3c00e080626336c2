use baton_device::Matrix;

/// Sizes of a Llama model.
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
    pub(crate) rope_base: f32,
    /// Of the norms.
    pub(crate) eps: f32,
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
    pub(crate) q: Matrix,
    pub(crate) k: Matrix,
    pub(crate) v: Matrix,
    pub(crate) attention_out: Matrix,
    pub(crate) ffn_norm: Vec<f32>,
    pub(crate) gate: Matrix,
    pub(crate) up: Matrix,
    pub(crate) down: Matrix,
}

impl Weights {
    pub(crate) fn output(&self) -> &Matrix {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    pub(crate) fn bytes(&self) -> usize {
        let layer = |layer: &Layer| {
            let Layer { q, k, v, attention_out, gate, up, down, .. } = layer;
            [q, k, v, attention_out, gate, up, down].map(Matrix::bytes).iter().sum::<usize>()
        };
        let output = self.output.as_ref().map_or(0, Matrix::bytes);
        self.embedding.bytes() + output + self.layers.iter().map(layer).sum::<usize>()
    }
}
