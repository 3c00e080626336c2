//! Weights from any kind of file: read by name, checked, brought into the kernels' order.

use baton_device::{Format, Matrix, WeightMemory};

use crate::{
    architecture::Parts,
    error::LoadError,
    weights::{HeadProjection, Layer, Shape, Weights},
};

/// Which two dims of a head positions turn together. Loaded weights have [`Pairs::Neighbours`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pairs {
    /// `2i` and `2i + 1`.
    Neighbours,
    /// `i` and `i + head_dim / 2`.
    Halves,
}

/// A tensor's bytes as they stand in a file.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) format: Format,
    pub(crate) data: Vec<u8>,
}

/// A file or folder of tensors, by their names in GGUF files.
pub(crate) trait Tensors {
    fn contains(&self, name: &str) -> bool;
    /// A tensor of `expected` dimensions, outermost first. A lying shape decides no allocation.
    fn read(&mut self, name: &str, expected: &[usize]) -> Result<Stored, LoadError>;
}

/// Reads weights and brings them into the order the kernels want.
pub(crate) struct Reader<'a> {
    pub(crate) tensors: &'a mut dyn Tensors,
    pub(crate) memory: WeightMemory,
    /// Told of so many bytes more that have been read.
    pub(crate) progress: &'a mut dyn FnMut(u64),
    pub(crate) shape: Shape,
    pub(crate) parts: Parts,
    /// How the file pairs dims.
    pub(crate) pairs: Pairs,
    /// What the file's norm weights leave out.
    pub(crate) norm_offset: f32,
}

impl Reader<'_> {
    pub(crate) fn weights(mut self) -> Result<Weights, LoadError> {
        let Shape { layers, hidden, vocab, .. } = self.shape;
        let layers = (0..layers).map(|index| self.layer(index)).collect::<Result<_, _>>()?;
        let own_output = self.tensors.contains("output.weight");
        Ok(Weights {
            embedding: self.matrix("token_embd.weight", vocab, hidden)?,
            layers,
            output_norm: self.norm("output_norm.weight", hidden)?,
            output: if_so(own_output, || self.matrix("output.weight", vocab, hidden))?,
        })
    }

    fn layer(&mut self, index: usize) -> Result<Layer, LoadError> {
        let Shape { hidden, heads, kv_heads, head_dim, ffn, .. } = self.shape;
        let post_norms = self.parts.post_norms;
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        Ok(Layer {
            attention_norm: self.norm(&name("attn_norm"), hidden)?,
            q: self.turned_heads(index, "attn_q", heads)?,
            k: self.turned_heads(index, "attn_k", kv_heads)?,
            v: HeadProjection {
                matrix: self.matrix(&name("attn_v"), kv_heads * head_dim, hidden)?,
                bias: if_so(self.parts.qkv_bias, || {
                    self.vector(&format!("blk.{index}.attn_v.bias"), kv_heads * head_dim)
                })?,
                norm: None,
            },
            attention_out: self.matrix(&name("attn_output"), hidden, heads * head_dim)?,
            attention_post_norm: if_so(post_norms, || {
                self.norm(&name("post_attention_norm"), hidden)
            })?,
            ffn_norm: self.norm(&name("ffn_norm"), hidden)?,
            gate: self.matrix(&name("ffn_gate"), ffn, hidden)?,
            up: self.matrix(&name("ffn_up"), ffn, hidden)?,
            down: self.matrix(&name("ffn_down"), hidden, ffn)?,
            ffn_post_norm: if_so(post_norms, || self.norm(&name("post_ffw_norm"), hidden))?,
        })
    }

    /// Queries or keys: what positions turn.
    fn turned_heads(
        &mut self,
        layer: usize,
        part: &str,
        heads: usize,
    ) -> Result<HeadProjection, LoadError> {
        let Shape { hidden, head_dim, .. } = self.shape;
        let rows = heads * head_dim;
        let name = format!("blk.{layer}.{part}.weight");
        let Stored { format, data } = self.read(&name, &[rows, hidden])?;
        let data = self.neighbours(data, rows);
        let bias =
            if_so(self.parts.qkv_bias, || self.vector(&format!("blk.{layer}.{part}.bias"), rows))?;
        let norm = if_so(self.parts.qk_norm, || {
            self.norm(&format!("blk.{layer}.{part}_norm.weight"), head_dim)
        })?;
        Ok(HeadProjection {
            matrix: pack(&self.memory, &name, format, rows, hidden, &data)?,
            bias: bias.map(|bias| self.neighbours(bias, rows)),
            norm: norm.map(|norm| self.neighbours(norm, head_dim)),
        })
    }

    /// `rows` equal parts, dims of heads, with the two of every pair side by side. Scores don't
    /// depend on the order of dims, so queries and keys may both be read in this one.
    fn neighbours<T: Copy>(&self, data: Vec<T>, rows: usize) -> Vec<T> {
        if self.pairs == Pairs::Neighbours {
            return data;
        }
        let (width, head_dim) = (data.len() / rows, self.shape.head_dim);
        let mut out = Vec::with_capacity(data.len());
        for head in data.chunks_exact(head_dim * width) {
            let (first, second) = head.split_at(head.len() / 2);
            for (a, b) in first.chunks_exact(width).zip(second.chunks_exact(width)) {
                out.extend_from_slice(a);
                out.extend_from_slice(b);
            }
        }
        out
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Matrix, LoadError> {
        let Stored { format, data } = self.read(name, &[rows, cols])?;
        pack(&self.memory, name, format, rows, cols, &data)
    }

    fn read(&mut self, name: &str, expected: &[usize]) -> Result<Stored, LoadError> {
        let stored = self.tensors.read(name, expected)?;
        (self.progress)(stored.data.len() as u64);
        Ok(stored)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        vector(self.tensors, name, len)
    }

    fn norm(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let mut weight = self.vector(name, len)?;
        weight.iter_mut().for_each(|weight| *weight += self.norm_offset);
        Ok(weight)
    }
}

/// A tensor of one dimension as floats.
pub(crate) fn vector(
    tensors: &mut dyn Tensors,
    name: &str,
    len: usize,
) -> Result<Vec<f32>, LoadError> {
    let Stored { format, data } = tensors.read(name, &[len])?;
    let mut values = vec![0.0; len];
    pack(&WeightMemory::default(), name, format, 1, len, &data)?.row(0, &mut values);
    Ok(values)
}

fn pack(
    memory: &WeightMemory,
    name: &str,
    format: Format,
    rows: usize,
    cols: usize,
    data: &[u8],
) -> Result<Matrix, LoadError> {
    Matrix::pack_in(memory, format, rows, cols, data)
        .map_err(|source| LoadError::Matrix { name: name.to_owned(), source })
}

fn if_so<T>(
    there: bool,
    read: impl FnOnce() -> Result<T, LoadError>,
) -> Result<Option<T>, LoadError> {
    there.then(read).transpose()
}
