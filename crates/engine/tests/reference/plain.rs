//! A Llama forward pass as the papers write it: f32 throughout, whole sequence at once, no cache.

use std::{collections::HashMap, fs::File, io::BufReader, path::Path};

use baton_types::TokenId;
use candle_core::{
    Device, Tensor,
    quantized::gguf_file::{Content, Value},
};

struct Weights {
    file: HashMap<String, Tensor>,
    numbers: HashMap<String, f64>,
}

impl Weights {
    fn read(path: &Path) -> Self {
        let mut reader = BufReader::new(File::open(path).unwrap());
        let content = Content::read(&mut reader).unwrap();
        let mut file = HashMap::new();
        for name in content.tensor_infos.keys() {
            let tensor = content.tensor(&mut reader, name, &Device::Cpu).unwrap();
            file.insert(name.clone(), tensor.dequantize(&Device::Cpu).unwrap());
        }
        let number = |value: &Value| match value {
            Value::U32(number) => Some(f64::from(*number)),
            Value::F32(number) => Some(f64::from(*number)),
            _ => None,
        };
        let numbers = content
            .metadata
            .iter()
            .filter_map(|(key, value)| {
                Some((key.strip_prefix("llama.")?.to_owned(), number(value)?))
            })
            .collect();
        Weights { file, numbers }
    }

    fn number(&self, key: &str) -> f64 {
        self.numbers[key]
    }

    fn tensor(&self, name: &str) -> &Tensor {
        &self.file[&format!("{name}.weight")]
    }

    /// `x · wᵀ`.
    fn project(&self, x: &Tensor, name: &str) -> Tensor {
        x.matmul(&self.tensor(name).t().unwrap()).unwrap()
    }

    /// Zhang and Sennrich, 2019.
    fn rms_norm(&self, x: &Tensor, name: &str) -> Tensor {
        let eps = self.number("attention.layer_norm_rms_epsilon");
        let scale = (x.sqr().unwrap().mean_keepdim(1).unwrap() + eps).unwrap().sqrt().unwrap();
        x.broadcast_div(&scale).unwrap().broadcast_mul(self.tensor(name)).unwrap()
    }
}

/// Turns neighbouring pairs of each head by position-dependent angles (Su et al., 2021).
fn rope(rows: &mut [Vec<f32>], head_dim: usize, base: f64) {
    for (position, row) in rows.iter_mut().enumerate() {
        for (index, pair) in row.chunks_exact_mut(2).enumerate() {
            let i = index % (head_dim / 2);
            let angle = position as f64 * base.powf(-2.0 * i as f64 / head_dim as f64);
            let (sin, cos) = (angle.sin() as f32, angle.cos() as f32);
            (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos);
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Causal attention of every position, heads side by side.
fn attention(q: &[Vec<f32>], k: &[Vec<f32>], v: &[Vec<f32>], head_dim: usize) -> Vec<f32> {
    let (heads, kv_heads) = (q[0].len() / head_dim, k[0].len() / head_dim);
    let mut out = Vec::new();
    for (position, q) in q.iter().enumerate() {
        for head in 0..heads {
            let kv_head = head * kv_heads / heads;
            let own = head * head_dim..(head + 1) * head_dim;
            let shared = kv_head * head_dim..(kv_head + 1) * head_dim;
            let scores: Vec<f32> = (0..=position)
                .map(|past| {
                    dot(&q[own.clone()], &k[past][shared.clone()]) / (head_dim as f32).sqrt()
                })
                .collect();
            let highest = scores.iter().copied().fold(f32::MIN, f32::max);
            let weights: Vec<f32> = scores.iter().map(|score| (score - highest).exp()).collect();
            let sum: f32 = weights.iter().sum();
            for i in shared {
                let mixed: f32 = weights.iter().zip(v).map(|(weight, v)| weight * v[i]).sum();
                out.push(mixed / sum);
            }
        }
    }
    out
}

/// Logits of every position of `tokens`.
pub fn forward(path: &Path, tokens: &[TokenId]) -> Vec<Vec<f32>> {
    let weights = Weights::read(path);
    let heads = weights.number("attention.head_count");
    let head_dim = (weights.number("embedding_length") / heads) as usize;
    let base = weights.number("rope.freq_base");
    let ids: Vec<u32> = tokens.iter().map(|token| token.0).collect();
    let ids = Tensor::new(ids, &Device::Cpu).unwrap();
    let mut x = weights.tensor("token_embd").index_select(&ids, 0).unwrap();
    for layer in 0..weights.number("block_count") as usize {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let normed = weights.rms_norm(&x, &name("attn_norm"));
        let rows = |part| weights.project(&normed, &name(part)).to_vec2::<f32>().unwrap();
        let (mut q, mut k, v) = (rows("attn_q"), rows("attn_k"), rows("attn_v"));
        rope(&mut q, head_dim, base);
        rope(&mut k, head_dim, base);
        let shape = (tokens.len(), q[0].len());
        let mixed = Tensor::from_vec(attention(&q, &k, &v, head_dim), shape, &Device::Cpu).unwrap();
        x = (x + weights.project(&mixed, &name("attn_output"))).unwrap();
        let normed = weights.rms_norm(&x, &name("ffn_norm"));
        let gate = weights.project(&normed, &name("ffn_gate"));
        let gate = (&gate / ((gate.neg().unwrap().exp().unwrap()) + 1.0).unwrap()).unwrap();
        let inner = (gate * weights.project(&normed, &name("ffn_up"))).unwrap();
        x = (x + weights.project(&inner, &name("ffn_down"))).unwrap();
    }
    let normed = weights.rms_norm(&x, "output_norm");
    let output = if weights.file.contains_key("output.weight") { "output" } else { "token_embd" };
    weights.project(&normed, output).to_vec2().unwrap()
}
