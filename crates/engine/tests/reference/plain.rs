//! The forward pass as the papers write it: f32 throughout, whole sequence at once, no cache. Reads
//! GGUF files; shares no code with the engine.

use std::{collections::HashMap, f64::consts::TAU, fs::File, io::BufReader, path::Path};

use baton_types::TokenId;
use candle_core::{
    Device, Tensor,
    quantized::gguf_file::{Content, Value},
};

struct Weights {
    architecture: String,
    file: HashMap<String, Tensor>,
    numbers: HashMap<String, f64>,
    scaling: Option<String>,
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
        let text = |key: &str| content.metadata.get(key)?.to_string().ok().cloned();
        let architecture = text("general.architecture").unwrap();
        let number = |value: &Value| match value {
            Value::U32(number) => Some(f64::from(*number)),
            Value::F32(number) => Some(f64::from(*number)),
            _ => None,
        };
        let prefix = format!("{architecture}.");
        let numbers = content
            .metadata
            .iter()
            .filter_map(|(key, value)| {
                Some((key.strip_prefix(&prefix)?.to_owned(), number(value)?))
            })
            .collect();
        let scaling = text(&format!("{architecture}.rope.scaling.type"));
        Weights { architecture, file, numbers, scaling }
    }

    fn number(&self, key: &str) -> f64 {
        self.numbers[key]
    }

    fn head_dim(&self) -> usize {
        let share = || self.number("embedding_length") / self.number("attention.head_count");
        self.numbers.get("attention.key_length").copied().unwrap_or_else(share) as usize
    }

    fn is_gemma(&self) -> bool {
        self.architecture == "gemma3"
    }

    /// Whether a layer sees everything, in models where others don't.
    fn is_global(&self, layer: usize) -> bool {
        !self.is_gemma() || layer % 6 == 5
    }

    fn window(&self, layer: usize) -> usize {
        let window = self.numbers.get("attention.sliding_window").copied();
        match window {
            Some(window) if !self.is_gemma() || !self.is_global(layer) => window as usize,
            _ => usize::MAX,
        }
    }

    fn tensor(&self, name: &str) -> &Tensor {
        &self.file[&format!("{name}.weight")]
    }

    /// `x · wᵀ + b`.
    fn project(&self, x: &Tensor, name: &str) -> Tensor {
        let out = x.matmul(&self.tensor(name).t().unwrap()).unwrap();
        match self.file.get(&format!("{name}.bias")) {
            Some(bias) => out.broadcast_add(bias).unwrap(),
            None => out,
        }
    }

    /// Zhang and Sennrich, 2019.
    fn rms_norm(&self, x: &Tensor, name: &str) -> Tensor {
        let eps = self.number("attention.layer_norm_rms_epsilon");
        let scale = (x.sqr().unwrap().mean_keepdim(1).unwrap() + eps).unwrap().sqrt().unwrap();
        x.broadcast_div(&scale).unwrap().broadcast_mul(self.tensor(name)).unwrap()
    }

    /// The norm where the model has it.
    fn if_normed(&self, x: Tensor, name: &str) -> Tensor {
        match self.file.contains_key(&format!("{name}.weight")) {
            true => self.rms_norm(&x, name),
            false => x,
        }
    }

    /// Heads of `name`, normed each for itself where the model does that.
    fn heads(&self, x: &Tensor, name: &str) -> Vec<Vec<f32>> {
        let out = self.project(x, name);
        let (rows, width) = out.dims2().unwrap();
        let heads = out.reshape((rows * width / self.head_dim(), self.head_dim())).unwrap();
        let heads = self.if_normed(heads, &format!("{name}_norm"));
        heads.reshape((rows, width)).unwrap().to_vec2().unwrap()
    }

    /// Radians a position of every pair of a layer's heads, and what cosine and sine are
    /// multiplied by.
    fn angles(&self, layer: usize) -> (Vec<f64>, f64) {
        let dims = self.head_dim() as f64;
        let local = !self.is_global(layer);
        let base = if local { 10_000.0 } else { self.number("rope.freq_base") };
        let plain: Vec<f64> =
            (0..self.head_dim() / 2).map(|i| base.powf(-2.0 * i as f64 / dims)).collect();
        let factor = self.numbers.get("rope.scaling.factor").copied().unwrap_or(1.0);
        if let Some(divisors) = self.file.get("rope_freqs.weight") {
            let divisors: Vec<f32> = divisors.to_vec1().unwrap();
            return (plain.iter().zip(divisors).map(|(f, d)| f / f64::from(d)).collect(), 1.0);
        }
        match self.scaling.as_deref() {
            Some("linear") if !local => (plain.iter().map(|f| f / factor).collect(), 1.0),
            Some("yarn") => {
                let context = self.number("rope.scaling.original_context_length");
                let at = |turns: f64| dims * (context / (turns * TAU)).ln() / (2.0 * base.ln());
                let (low, high) = (at(32.0).floor().max(0.0), at(1.0).ceil().min(dims - 1.0));
                let slowed = plain.iter().enumerate().map(|(i, f)| {
                    let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                    f / factor * ramp + f * (1.0 - ramp)
                });
                (slowed.collect(), 0.1 * factor.ln() + 1.0)
            }
            _ => (plain, 1.0),
        }
    }

    /// Turns each head's pairs by position-dependent angles (Su et al., 2021): neighbours in files
    /// of Llamas, else halves.
    fn rope(&self, rows: &mut [Vec<f32>], layer: usize) {
        let (frequencies, amplitude) = self.angles(layer);
        let half = frequencies.len();
        for (position, row) in rows.iter_mut().enumerate() {
            for head in row.chunks_exact_mut(2 * half) {
                for (i, frequency) in frequencies.iter().enumerate() {
                    let (sin, cos) = (position as f64 * frequency).sin_cos();
                    let (sin, cos) = ((sin * amplitude) as f32, (cos * amplitude) as f32);
                    let neighbours = self.architecture == "llama";
                    let (a, b) = if neighbours { (2 * i, 2 * i + 1) } else { (i, i + half) };
                    (head[a], head[b]) =
                        (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
                }
            }
        }
    }

    fn activation(&self, x: &Tensor) -> Tensor {
        match self.is_gemma() {
            true => x.gelu().unwrap(),
            false => (x / ((x.neg().unwrap().exp().unwrap()) + 1.0).unwrap()).unwrap(),
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Causal attention of every position over its last `window` tokens, heads side by side.
fn attention(
    q: &[Vec<f32>],
    k: &[Vec<f32>],
    v: &[Vec<f32>],
    head_dim: usize,
    window: usize,
) -> Vec<f32> {
    let (heads, kv_heads) = (q[0].len() / head_dim, k[0].len() / head_dim);
    let mut out = Vec::new();
    for (position, q) in q.iter().enumerate() {
        let seen = (position + 1).saturating_sub(window)..=position;
        for head in 0..heads {
            let kv_head = head * kv_heads / heads;
            let own = head * head_dim..(head + 1) * head_dim;
            let shared = kv_head * head_dim..(kv_head + 1) * head_dim;
            let score = |past: usize| {
                dot(&q[own.clone()], &k[past][shared.clone()]) / (head_dim as f32).sqrt()
            };
            let scores: Vec<f32> = seen.clone().map(score).collect();
            let highest = scores.iter().copied().fold(f32::MIN, f32::max);
            let weights: Vec<f32> = scores.iter().map(|score| (score - highest).exp()).collect();
            let sum: f32 = weights.iter().sum();
            for i in shared {
                let values = seen.clone().map(|past| v[past][i]);
                let mixed: f32 = weights.iter().zip(values).map(|(weight, v)| weight * v).sum();
                out.push(mixed / sum);
            }
        }
    }
    out
}

/// Logits of every position of `tokens`.
pub fn forward(path: &Path, tokens: &[TokenId]) -> Vec<Vec<f32>> {
    let weights = Weights::read(path);
    let ids: Vec<u32> = tokens.iter().map(|token| token.0).collect();
    let ids = Tensor::new(ids, &Device::Cpu).unwrap();
    let mut x = weights.tensor("token_embd").index_select(&ids, 0).unwrap();
    if weights.is_gemma() {
        x = (x * weights.number("embedding_length").sqrt()).unwrap();
    }
    for layer in 0..weights.number("block_count") as usize {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let normed = weights.rms_norm(&x, &name("attn_norm"));
        let rows = |part| weights.heads(&normed, &name(part));
        let (mut q, mut k, v) = (rows("attn_q"), rows("attn_k"), rows("attn_v"));
        weights.rope(&mut q, layer);
        weights.rope(&mut k, layer);
        let mixed = attention(&q, &k, &v, weights.head_dim(), weights.window(layer));
        let mixed = Tensor::from_vec(mixed, (tokens.len(), q[0].len()), &Device::Cpu).unwrap();
        let out = weights.project(&mixed, &name("attn_output"));
        x = (x + weights.if_normed(out, &name("post_attention_norm"))).unwrap();
        let normed = weights.rms_norm(&x, &name("ffn_norm"));
        let gate = weights.activation(&weights.project(&normed, &name("ffn_gate")));
        let inner = (gate * weights.project(&normed, &name("ffn_up"))).unwrap();
        let out = weights.project(&inner, &name("ffn_down"));
        x = (x + weights.if_normed(out, &name("post_ffw_norm"))).unwrap();
    }
    let normed = weights.rms_norm(&x, "output_norm");
    let output = if weights.file.contains_key("output.weight") { "output" } else { "token_embd" };
    weights.project(&normed, output).to_vec2().unwrap()
}
