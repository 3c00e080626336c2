//! GGUF files, read by candle and checked here.

use std::{
    fs::File,
    io::{self, BufReader, Seek},
    path::{Path, PathBuf},
};

use baton_device::{Format, Matrix, MatrixError};
use baton_text::TextAssets;
use candle_core::{
    Device,
    quantized::{
        GgmlDType,
        gguf_file::{Content, Value},
    },
};

use crate::{
    text::text_assets,
    weights::{Layer, Shape, Weights},
};

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{} is not a whole GGUF file: {source}", path.display())]
    Gguf { path: PathBuf, source: candle_core::Error },
    #[error("the model's architecture is {given:?}; this engine runs \"llama\"")]
    Architecture { given: String },
    #[error("the model file has no usable {key:?}: {why}")]
    Metadata { key: String, why: String },
    #[error("tensor {name:?} is {given:?}, expected {expected:?}")]
    Shape { name: String, given: Vec<usize>, expected: Vec<usize> },
    #[error("tensor {name:?} is stored as {given:?}; this engine takes {:?}", Format::ALL)]
    Format { name: String, given: GgmlDType },
    #[error("tensor {name:?}: {source}")]
    Tensor { name: String, source: candle_core::Error },
    #[error("tensor {name:?}: {source}")]
    Matrix { name: String, source: MatrixError },
    #[error("{key} = {given} is not supported: {why}")]
    Unsupported { key: &'static str, given: String, why: &'static str },
}

/// A loaded model: weights packed for the kernels, and the language it speaks.
#[derive(Debug)]
pub struct Model {
    pub(crate) weights: Weights,
    pub(crate) shape: Shape,
    /// BLAKE3 of the whole file.
    pub(crate) hash: [u8; 32],
    pub text: TextAssets,
}

impl Model {
    /// Reads and repacks the file at `path`. Takes about as long as reading it twice.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let open = |source| LoadError::Open { path: path.to_owned(), source };
        let mut reader = BufReader::with_capacity(1 << 20, File::open(path).map_err(open)?);
        let mut hasher = blake3::Hasher::new();
        io::copy(&mut reader, &mut hasher).map_err(open)?;
        reader.rewind().map_err(open)?;
        let content = Content::read(&mut reader)
            .map_err(|source| LoadError::Gguf { path: path.to_owned(), source })?;
        let shape = shape(&content)?;
        let text = text_assets(&content)?;
        let mut file = Tensors { content, reader };
        let weights = file.weights(&shape)?;
        Ok(Model { weights, shape, hash: *hasher.finalize().as_bytes(), text })
    }

    /// The longest sequence the model was trained for, in tokens.
    pub fn max_context(&self) -> u32 {
        self.shape.context
    }

    /// Bytes the weights take in memory.
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes()
    }
}

/// A metadata value, or why it is of no use.
pub(crate) fn value<'a, T>(
    content: &'a Content,
    key: &str,
    read: impl Fn(&'a Value) -> candle_core::Result<T>,
) -> Result<T, LoadError> {
    optional(content, key, read)?
        .ok_or_else(|| LoadError::Metadata { key: key.to_owned(), why: "it is missing".to_owned() })
}

/// A metadata value that may be missing.
pub(crate) fn optional<'a, T>(
    content: &'a Content,
    key: &str,
    read: impl Fn(&'a Value) -> candle_core::Result<T>,
) -> Result<Option<T>, LoadError> {
    let refuse = |error: candle_core::Error| LoadError::Metadata {
        key: key.to_owned(),
        why: error.to_string(),
    };
    content.metadata.get(key).map(read).transpose().map_err(refuse)
}

fn shape(content: &Content) -> Result<Shape, LoadError> {
    let architecture = value(content, "general.architecture", Value::to_string)?;
    if architecture != "llama" {
        return Err(LoadError::Architecture { given: architecture.clone() });
    }
    let number = |key: &str| match value(content, key, Value::to_u32)? {
        0 => Err(LoadError::Metadata { key: key.to_owned(), why: "it is 0".to_owned() }),
        number => Ok(number as usize),
    };
    let hidden = number("llama.embedding_length")?;
    let heads = number("llama.attention.head_count")?;
    let head_dim = optional(content, "llama.attention.key_length", Value::to_u32)?
        .map_or(hidden / heads, |dim| dim as usize);
    let kv_heads = number("llama.attention.head_count_kv")?;
    let vocab = value(content, "tokenizer.ggml.tokens", Value::to_vec)?.len();
    let rope_base = optional(content, "llama.rope.freq_base", Value::to_f32)?.unwrap_or(10_000.0);
    let shape = Shape {
        hidden,
        heads,
        kv_heads,
        head_dim,
        vocab,
        rope_base,
        layers: number("llama.block_count")?,
        ffn: number("llama.feed_forward_length")?,
        context: number("llama.context_length")? as u32,
        eps: value(content, "llama.attention.layer_norm_rms_epsilon", Value::to_f32)?,
    };
    supported(content, &shape)?;
    Ok(shape)
}

fn supported(content: &Content, shape: &Shape) -> Result<(), LoadError> {
    let refuse = |key, given: String, why| Err(LoadError::Unsupported { key, given, why });
    let Shape { heads, kv_heads, head_dim, .. } = *shape;
    if !heads.is_multiple_of(kv_heads) || heads / kv_heads > 16 {
        let given = format!("{heads} over {kv_heads}");
        return refuse("llama.attention.head_count", given, "kv heads serve 1 to 16 heads each");
    }
    if !head_dim.is_multiple_of(16) || head_dim == 0 || head_dim > 256 {
        return refuse("head_dim", head_dim.to_string(), "a multiple of 16 up to 256 is");
    }
    let rope = optional(content, "llama.rope.dimension_count", Value::to_u32)?;
    if let Some(given) = rope.filter(|&dims| dims as usize != head_dim) {
        let why = "positions must turn the whole head";
        return refuse("llama.rope.dimension_count", given.to_string(), why);
    }
    let scaling = optional(content, "llama.rope.scaling.type", Value::to_string)?;
    if let Some(given) = scaling.filter(|&kind| kind != "none") {
        return refuse("llama.rope.scaling.type", given.clone(), "only unscaled positions are");
    }
    if content.tensor_infos.contains_key("rope_freqs.weight") {
        let given = "present".to_owned();
        return refuse("rope_freqs.weight", given, "only unscaled positions are");
    }
    Ok(())
}

struct Tensors {
    content: Content,
    reader: BufReader<File>,
}

impl Tensors {
    fn weights(&mut self, shape: &Shape) -> Result<Weights, LoadError> {
        let Shape { hidden, heads, kv_heads, head_dim, ffn, .. } = *shape;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let mut layers = Vec::with_capacity(shape.layers);
        for index in 0..shape.layers {
            let name = |part: &str| format!("blk.{index}.{part}.weight");
            layers.push(Layer {
                attention_norm: self.vector(&name("attn_norm"), hidden)?,
                q: self.matrix(&name("attn_q"), q, hidden)?,
                k: self.matrix(&name("attn_k"), kv, hidden)?,
                v: self.matrix(&name("attn_v"), kv, hidden)?,
                attention_out: self.matrix(&name("attn_output"), hidden, q)?,
                ffn_norm: self.vector(&name("ffn_norm"), hidden)?,
                gate: self.matrix(&name("ffn_gate"), ffn, hidden)?,
                up: self.matrix(&name("ffn_up"), ffn, hidden)?,
                down: self.matrix(&name("ffn_down"), hidden, ffn)?,
            });
        }
        let own_output = self.content.tensor_infos.contains_key("output.weight");
        Ok(Weights {
            embedding: self.matrix("token_embd.weight", shape.vocab, hidden)?,
            layers,
            output_norm: self.vector("output_norm.weight", hidden)?,
            output: match own_output {
                true => Some(self.matrix("output.weight", shape.vocab, hidden)?),
                false => None,
            },
        })
    }

    /// How a tensor of `expected` dimensions, outermost first, is stored, and its bytes.
    fn tensor(&mut self, name: &str, expected: &[usize]) -> Result<(Format, Vec<u8>), LoadError> {
        let info = self.content.tensor_infos.get(name).ok_or_else(|| LoadError::Metadata {
            key: name.to_owned(),
            why: "the tensor is missing".to_owned(),
        })?;
        // Before any byte is read: a lying shape must not decide an allocation.
        if info.shape.dims() != expected {
            let (given, expected) = (info.shape.dims().to_vec(), expected.to_vec());
            return Err(LoadError::Shape { name: name.to_owned(), given, expected });
        }
        let given = info.ggml_dtype;
        let format =
            format(given).ok_or_else(|| LoadError::Format { name: name.to_owned(), given })?;
        let tensor = self
            .content
            .tensor(&mut self.reader, name, &Device::Cpu)
            .and_then(|tensor| Ok(tensor.data()?.into_owned()))
            .map_err(|source| LoadError::Tensor { name: name.to_owned(), source })?;
        Ok((format, tensor))
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Matrix, LoadError> {
        let (format, data) = self.tensor(name, &[rows, cols])?;
        Matrix::pack(format, rows, cols, &data)
            .map_err(|source| LoadError::Matrix { name: name.to_owned(), source })
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let (format, data) = self.tensor(name, &[len])?;
        let matrix = Matrix::pack(format, 1, len, &data)
            .map_err(|source| LoadError::Matrix { name: name.to_owned(), source })?;
        let mut values = vec![0.0; len];
        matrix.row(0, &mut values);
        Ok(values)
    }
}

fn format(dtype: GgmlDType) -> Option<Format> {
    Some(match dtype {
        GgmlDType::F32 => Format::F32,
        GgmlDType::F16 => Format::F16,
        GgmlDType::BF16 => Format::BF16,
        GgmlDType::Q4_0 => Format::Q4_0,
        GgmlDType::Q4_1 => Format::Q4_1,
        GgmlDType::Q5_0 => Format::Q5_0,
        GgmlDType::Q5_1 => Format::Q5_1,
        GgmlDType::Q8_0 => Format::Q8_0,
        GgmlDType::Q4K => Format::Q4_K,
        GgmlDType::Q5K => Format::Q5_K,
        GgmlDType::Q6K => Format::Q6_K,
        GgmlDType::Q8_1 | GgmlDType::Q2K | GgmlDType::Q3K | GgmlDType::Q8K => return None,
    })
}
