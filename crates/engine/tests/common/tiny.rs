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

const HIDDEN: usize = 64;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 16;
const FFN: usize = 96;
const LAYERS: usize = 2;
pub const VOCAB: usize = 80;

/// A model before it is written; tests spoil it first.
#[derive(Clone)]
pub struct Tiny {
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<(String, Tensor)>,
    /// How matrices are stored.
    pub dtype: GgmlDType,
}

impl Tiny {
    pub fn new(dtype: GgmlDType) -> Self {
        let number = |n: usize| Value::U32(n as u32);
        let strings =
            |texts: Vec<String>| Value::Array(texts.into_iter().map(Value::String).collect());
        let text = |text: &str| Value::String(text.to_owned());
        let metadata = [
            ("general.architecture", text("llama")),
            ("llama.block_count", number(LAYERS)),
            ("llama.context_length", number(64)),
            ("llama.embedding_length", number(HIDDEN)),
            ("llama.feed_forward_length", number(FFN)),
            ("llama.attention.head_count", number(HEADS)),
            ("llama.attention.head_count_kv", number(KV_HEADS)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("llama.rope.freq_base", Value::F32(10_000.0)),
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.pre", text("smollm")),
            ("tokenizer.ggml.tokens", strings((0..VOCAB).map(|id| format!("t{id}")).collect())),
            ("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(1); VOCAB])),
            ("tokenizer.ggml.merges", strings(vec!["t 1".to_owned()])),
            ("tokenizer.ggml.eos_token_id", number(2)),
        ];
        let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();

        let mut random = Random(7);
        let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
        let mut tensors = vec![
            ("token_embd.weight".to_owned(), random.tensor(&[VOCAB, HIDDEN])),
            ("output_norm.weight".to_owned(), random.tensor(&[HIDDEN])),
            ("output.weight".to_owned(), random.tensor(&[VOCAB, HIDDEN])),
        ];
        for layer in 0..LAYERS {
            for (name, shape) in [
                ("attn_norm", vec![HIDDEN]),
                ("attn_q", vec![q, HIDDEN]),
                ("attn_k", vec![kv, HIDDEN]),
                ("attn_v", vec![kv, HIDDEN]),
                ("attn_output", vec![HIDDEN, q]),
                ("ffn_norm", vec![HIDDEN]),
                ("ffn_gate", vec![FFN, HIDDEN]),
                ("ffn_up", vec![FFN, HIDDEN]),
                ("ffn_down", vec![HIDDEN, FFN]),
            ] {
                tensors.push((format!("blk.{layer}.{name}.weight"), random.tensor(&shape)));
            }
        }
        Tiny { metadata, tensors, dtype }
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

/// Weights in [−0.125, 0.125), and norms in [0.875, 1.125).
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
