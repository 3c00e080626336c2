//! The tiny models once more, as folders of safetensors files: the same weights in that kind of
//! file's order and names.
#![allow(dead_code)]

use std::{collections::HashMap, fs, path::Path};

use candle_core::{DType, Tensor};
use serde_json::{Value, json};

use crate::tiny::{Family, Sizes, Tiny, VOCAB};

/// Files of a folder before they are written; tests spoil them first.
pub struct Folder {
    pub config: Value,
    pub tokenizer: Value,
    /// By file.
    pub shards: Vec<(String, HashMap<String, Tensor>)>,
}

impl Folder {
    pub fn new(tiny: &Tiny, dtype: DType) -> Self {
        let tensors = tiny.tensors.iter().map(|(name, tensor)| {
            let (name, tensor) = translated(tiny, name, tensor);
            (name, tensor.to_dtype(dtype).unwrap())
        });
        Folder {
            config: config(tiny),
            tokenizer: tokenizer(),
            shards: vec![("model.safetensors".to_owned(), tensors.collect())],
        }
    }

    /// Sets, or with `null` removes, a value of `config.json`.
    pub fn set(mut self, key: &str, value: Value) -> Self {
        let config = self.config.as_object_mut().unwrap();
        match value {
            Value::Null => config.remove(key),
            value => config.insert(key.to_owned(), value),
        };
        self
    }

    /// Deals the tensors out over two files and an index.
    pub fn split(mut self) -> Self {
        let (_, tensors) = self.shards.remove(0);
        let (first, second) = tensors.into_iter().partition(|(name, _)| name.contains("layers.1."));
        self.shards = vec![
            ("first.safetensors".to_owned(), first),
            ("second.safetensors".to_owned(), second),
        ];
        self
    }

    pub fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        let write = |name: &str, value: &Value| {
            fs::write(folder.join(name), value.to_string()).unwrap();
        };
        write("config.json", &self.config);
        write("tokenizer.json", &self.tokenizer);
        for (name, tensors) in &self.shards {
            candle_core::safetensors::save(tensors, folder.join(name)).unwrap();
        }
        if self.shards.len() > 1 {
            let files = self.shards.iter().flat_map(|(file, tensors)| {
                tensors.keys().map(move |tensor| (tensor.clone(), json!(file)))
            });
            let map: serde_json::Map<_, _> = files.collect();
            write("model.safetensors.index.json", &json!({ "weight_map": map }));
        }
    }
}

fn config(tiny: &Tiny) -> Value {
    let Sizes { layers, hidden, heads, kv_heads, head_dim, ffn } = tiny.sizes;
    let mut config = json!({
        "model_type": match tiny.family {
            Family::Mistral => "mistral",
            Family::Gemma3 => "gemma3_text",
            family => family.gguf(),
        },
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": VOCAB,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": tiny.family.rope_base(),
        "eos_token_id": [2, 3],
    });
    if let Some(window) = tiny.family.window() {
        config["sliding_window"] = json!(window);
    }
    if tiny.family == Family::Gemma3 {
        config["hidden_activation"] = json!("gelu_pytorch_tanh");
        config["rope_local_base_freq"] = json!(10_000.0);
    }
    config
}

fn tokenizer() -> Value {
    let vocab: serde_json::Map<_, _> = (0..VOCAB).map(|id| (format!("t{id}"), json!(id))).collect();
    json!({
        "added_tokens": [{ "id": 2, "content": "t2", "special": true }],
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                           "use_regex": true },
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    })
}

fn translated(tiny: &Tiny, name: &str, tensor: &Tensor) -> (String, Tensor) {
    let gemma = tiny.family == Family::Gemma3;
    let tensor = match tiny.family {
        // GGUF has the two of a pair side by side there.
        Family::Llama | Family::Mistral if name.contains("attn_q.") || name.contains("attn_k.") => {
            halves(tensor, tiny.sizes.head_dim)
        }
        Family::Gemma3 if name.contains("norm") => (tensor - 1.0).unwrap(),
        _ => tensor.clone(),
    };
    let name = match name {
        "token_embd.weight" => "model.embed_tokens.weight".to_owned(),
        "output_norm.weight" => "model.norm.weight".to_owned(),
        "output.weight" => "lm_head.weight".to_owned(),
        layer => {
            let parts: Vec<_> = layer.split('.').collect();
            let part = match parts[2] {
                "attn_norm" => "input_layernorm",
                "attn_q" => "self_attn.q_proj",
                "attn_k" => "self_attn.k_proj",
                "attn_v" => "self_attn.v_proj",
                "attn_output" => "self_attn.o_proj",
                "attn_q_norm" => "self_attn.q_norm",
                "attn_k_norm" => "self_attn.k_norm",
                "post_attention_norm" => "post_attention_layernorm",
                "ffn_norm" if gemma => "pre_feedforward_layernorm",
                "ffn_norm" => "post_attention_layernorm",
                "post_ffw_norm" => "post_feedforward_layernorm",
                "ffn_gate" => "mlp.gate_proj",
                "ffn_up" => "mlp.up_proj",
                "ffn_down" => "mlp.down_proj",
                other => panic!("{other}"),
            };
            format!("model.layers.{}.{part}.{}", parts[1], parts[3])
        }
    };
    (name, tensor)
}

/// Rows of each head: first those of even dims, then the odd ones.
fn halves(tensor: &Tensor, head_dim: usize) -> Tensor {
    let (rows, cols) = tensor.dims2().unwrap();
    tensor
        .reshape((rows / head_dim, head_dim / 2, 2, cols))
        .and_then(|heads| heads.transpose(1, 2))
        .and_then(|heads| heads.contiguous())
        .and_then(|heads| heads.reshape((rows, cols)))
        .unwrap()
}
