//! Tiny models of random weights, written as GGUF files.
#![allow(dead_code)]

use std::{fs::File, path::Path};

use candle_core::{
    Device, Tensor,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Value},
    },
};

pub const VOCAB: usize = 80;

#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ffn: usize,
}

const SMALL: Sizes = Sizes { layers: 2, hidden: 64, heads: 4, kv_heads: 2, head_dim: 16, ffn: 96 };
/// Rows of whole K blocks.
const WIDE: Sizes = Sizes { layers: 2, hidden: 256, heads: 4, kv_heads: 2, head_dim: 64, ffn: 512 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Llama,
    /// Llama's blocks under a window; GGUF files call it llama.
    Mistral,
    Qwen2,
    Qwen3,
    Gemma3,
}

pub const FAMILIES: [Family; 5] =
    [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3, Family::Gemma3];

impl Family {
    pub fn gguf(self) -> &'static str {
        match self {
            Family::Llama | Family::Mistral => "llama",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Gemma3 => "gemma3",
        }
    }

    /// Tokens a row sees in layers with a window.
    pub fn window(self) -> Option<usize> {
        match self {
            Family::Mistral => Some(10),
            Family::Gemma3 => Some(7),
            _ => None,
        }
    }

    pub fn rope_base(self) -> f32 {
        match self {
            Family::Llama | Family::Mistral => 10_000.0,
            _ => 1e6,
        }
    }

    fn sizes(self) -> Sizes {
        match self {
            // Heads wider than their share of the hidden size; one layer in six has no window.
            Family::Gemma3 => Sizes { layers: 7, head_dim: 32, ..SMALL },
            Family::Qwen3 => Sizes { head_dim: 32, ..SMALL },
            _ => SMALL,
        }
    }

    /// A layer's tensors beyond Llama's.
    fn own_tensors(self, sizes: Sizes) -> Vec<(&'static str, Vec<usize>)> {
        let Sizes { hidden, heads, kv_heads, head_dim, .. } = sizes;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let head_norms = [("attn_q_norm.weight", head_dim), ("attn_k_norm.weight", head_dim)];
        let biases = [("attn_q.bias", q), ("attn_k.bias", kv), ("attn_v.bias", kv)];
        let post_norms = [("post_attention_norm.weight", hidden), ("post_ffw_norm.weight", hidden)];
        let tensors = match self {
            Family::Llama | Family::Mistral => vec![],
            Family::Qwen2 => biases.to_vec(),
            Family::Qwen3 => head_norms.to_vec(),
            Family::Gemma3 => [head_norms, post_norms].concat(),
        };
        tensors.into_iter().map(|(name, len)| (name, vec![len])).collect()
    }
}

/// A model before it is written; tests spoil it first.
#[derive(Clone)]
pub struct Tiny {
    pub family: Family,
    pub sizes: Sizes,
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<(String, Tensor)>,
    /// How matrices are stored.
    pub dtype: GgmlDType,
}

impl Tiny {
    /// A Llama.
    pub fn new(dtype: GgmlDType) -> Self {
        Self::of(Family::Llama, dtype)
    }

    pub fn of(family: Family, dtype: GgmlDType) -> Self {
        Self::sized(family, family.sizes(), dtype)
    }

    /// Wide enough for K formats.
    pub fn wide(family: Family, dtype: GgmlDType) -> Self {
        Self::sized(family, WIDE, dtype)
    }

    fn sized(family: Family, sizes: Sizes, dtype: GgmlDType) -> Self {
        let mut metadata = vec![("general.architecture".to_owned(), string(family.gguf()))];
        metadata.extend(
            own_metadata(family, sizes)
                .into_iter()
                .map(|(key, value)| (format!("{}.{key}", family.gguf()), value)),
        );
        metadata.extend(
            tokenizer_metadata()
                .into_iter()
                .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)),
        );
        Tiny { family, sizes, metadata, tensors: tensors(family, sizes), dtype }
    }

    /// Sets, or with `None` removes, a metadata value.
    pub fn set(mut self, key: &str, value: Option<Value>) -> Self {
        self.metadata.retain(|(known, _)| known != key);
        self.metadata.extend(value.map(|value| (key.to_owned(), value)));
        self
    }

    /// Replaces, or with `None` removes, a tensor.
    pub fn tensor(mut self, name: &str, tensor: Option<Tensor>) -> Self {
        self.tensors.retain(|(known, _)| known != name);
        self.tensors.extend(tensor.map(|tensor| (name.to_owned(), tensor)));
        self
    }

    pub fn write(&self, path: &Path) {
        let quantized: Vec<_> = self
            .tensors
            .iter()
            .map(|(name, tensor)| {
                let dtype = if tensor.rank() == 1 { GgmlDType::F32 } else { self.dtype };
                (name.as_str(), QTensor::quantize(tensor, dtype).unwrap())
            })
            .collect();
        let tensors: Vec<_> = quantized.iter().map(|(name, tensor)| (*name, tensor)).collect();
        let metadata: Vec<_> =
            self.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let mut file = File::create(path).unwrap();
        gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    }
}

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn own_metadata(family: Family, sizes: Sizes) -> Vec<(&'static str, Value)> {
    let number = |n: usize| Value::U32(n as u32);
    let mut metadata = vec![
        ("block_count", number(sizes.layers)),
        ("context_length", number(64)),
        ("embedding_length", number(sizes.hidden)),
        ("feed_forward_length", number(sizes.ffn)),
        ("attention.head_count", number(sizes.heads)),
        ("attention.head_count_kv", number(sizes.kv_heads)),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("rope.freq_base", Value::F32(family.rope_base())),
    ];
    if sizes.head_dim != sizes.hidden / sizes.heads {
        metadata.push(("attention.key_length", number(sizes.head_dim)));
        metadata.push(("attention.value_length", number(sizes.head_dim)));
    }
    metadata.extend(family.window().map(|tokens| ("attention.sliding_window", number(tokens))));
    metadata
}

fn tokenizer_metadata() -> Vec<(&'static str, Value)> {
    let strings = |texts: Vec<String>| Value::Array(texts.into_iter().map(Value::String).collect());
    vec![
        ("model", string("gpt2")),
        ("pre", string("smollm")),
        ("tokens", strings((0..VOCAB).map(|id| format!("t{id}")).collect())),
        ("token_type", Value::Array(vec![Value::I32(1); VOCAB])),
        ("merges", strings(vec!["t 1".to_owned()])),
        ("eos_token_id", Value::U32(2)),
    ]
}

fn tensors(family: Family, sizes: Sizes) -> Vec<(String, Tensor)> {
    let Sizes { layers, hidden, heads, kv_heads, head_dim, ffn } = sizes;
    let (q, kv) = (heads * head_dim, kv_heads * head_dim);
    let mut random = Random(7);
    let mut tensors = vec![
        ("token_embd.weight".to_owned(), random.tensor(&[VOCAB, hidden])),
        ("output_norm.weight".to_owned(), random.tensor(&[hidden])),
    ];
    if family != Family::Gemma3 {
        tensors.push(("output.weight".to_owned(), random.tensor(&[VOCAB, hidden])));
    }
    for layer in 0..layers {
        let shared = [
            ("attn_norm.weight", vec![hidden]),
            ("attn_q.weight", vec![q, hidden]),
            ("attn_k.weight", vec![kv, hidden]),
            ("attn_v.weight", vec![kv, hidden]),
            ("attn_output.weight", vec![hidden, q]),
            ("ffn_norm.weight", vec![hidden]),
            ("ffn_gate.weight", vec![ffn, hidden]),
            ("ffn_up.weight", vec![ffn, hidden]),
            ("ffn_down.weight", vec![hidden, ffn]),
        ];
        for (name, shape) in shared.into_iter().chain(family.own_tensors(sizes)) {
            tensors.push((format!("blk.{layer}.{name}"), random.tensor(&shape)));
        }
    }
    tensors
}

/// Weights in [−0.125, 0.125), and norms (and biases) in [0.875, 1.125).
struct Random(u64);

impl Random {
    fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let center = if shape.len() == 1 { 1.0 } else { 0.0 };
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|_| center + self.next() as f32 / 4.0).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn next(&mut self) -> f64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1 << 24) as f64 - 0.5
    }
}
