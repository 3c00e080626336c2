//! `config.json`: sizes, positions, and what a model asks for that isn't here.

use baton_device::Activation;
use baton_types::TokenId;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    architecture::{Architecture, Declared},
    error::LoadError,
    rope::Scaling,
    weights::Shape,
};

#[derive(Debug, Deserialize)]
pub(super) struct Config {
    model_type: Option<String>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<u32>,
    rms_norm_eps: Option<f64>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    rope_scaling: Option<RopeScaling>,
    /// What newer folders have instead of the three above.
    rope_parameters: Option<RopeParameters>,
    sliding_window: Option<u32>,
    use_sliding_window: Option<bool>,
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
    query_pre_attn_scalar: Option<f64>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    quantization_config: Option<Value>,
    attn_logit_softcapping: Option<f64>,
    final_logit_softcapping: Option<f64>,
    bos_token_id: Option<OneOrMore>,
    eos_token_id: Option<OneOrMore>,
}

#[derive(Debug, Deserialize)]
struct RopeParameters {
    #[serde(flatten)]
    all: RopeScaling,
    full_attention: Option<RopeScaling>,
    sliding_attention: Option<RopeScaling>,
}

#[derive(Debug, Deserialize)]
struct RopeScaling {
    rope_type: Option<String>,
    /// The type's older name.
    r#type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    attention_factor: Option<f64>,
}

/// `generation_config.json`: here, what ends an answer.
#[derive(Debug, Deserialize)]
pub(super) struct Generation {
    eos_token_id: Option<OneOrMore>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(u32),
    More(Vec<u32>),
}

impl OneOrMore {
    fn ids(self) -> Vec<TokenId> {
        match self {
            OneOrMore::One(id) => vec![TokenId(id)],
            OneOrMore::More(ids) => ids.into_iter().map(TokenId).collect(),
        }
    }
}

impl Generation {
    pub(super) fn ends(self) -> Vec<TokenId> {
        self.eos_token_id.map(OneOrMore::ids).unwrap_or_default()
    }
}

fn required<T>(key: &str, value: Option<T>) -> Result<T, LoadError> {
    value.ok_or_else(|| LoadError::missing(key))
}

fn size(key: &str, value: Option<usize>) -> Result<usize, LoadError> {
    match required(key, value)? {
        0 => Err(LoadError::Metadata { key: key.to_owned(), why: "it is 0".to_owned() }),
        size => Ok(size),
    }
}

impl Config {
    pub(super) fn architecture(&self) -> Result<&'static Architecture, LoadError> {
        Architecture::of_folder(&required("model_type", self.model_type.clone())?)
    }

    pub(super) fn bos(&self) -> Option<TokenId> {
        self.bos_token_id.clone()?.ids().first().copied()
    }

    pub(super) fn ends(&self) -> Vec<TokenId> {
        self.eos_token_id.clone().map(OneOrMore::ids).unwrap_or_default()
    }

    pub(super) fn declared(&self, architecture: &Architecture) -> Result<Declared, LoadError> {
        self.check(architecture)?;
        let shape = self.shape()?;
        let single = |number: Option<f64>| number.map(|number| number as f32);
        let rope = self.rope();
        let local = self.rope_parameters.as_ref().and_then(|rope| rope.sliding_attention.as_ref());
        let local_base = local.and_then(|rope| rope.rope_theta).or(self.rope_local_base_freq);
        Ok(Declared {
            shape,
            rope_base: single(self.rope_theta.or(rope.and_then(|rope| rope.rope_theta))),
            scaling: rope.map_or(Ok(Scaling::None), RopeScaling::scaling)?,
            local_rope_base: single(local_base),
            window: self.sliding_window,
            windowed: self.windowed(shape.layers),
            query_scalar: single(self.query_pre_attn_scalar),
        })
    }

    /// How positions are told apart, by layers that see everything.
    fn rope(&self) -> Option<&RopeScaling> {
        let newer = self.rope_parameters.as_ref();
        let newer = newer.map(|rope| rope.full_attention.as_ref().unwrap_or(&rope.all));
        newer.or(self.rope_scaling.as_ref())
    }

    /// Which layers have a window.
    fn windowed(&self, layers: usize) -> Option<Vec<bool>> {
        let listed = self.layer_types.as_ref();
        let listed = listed.map(|types| types.iter().map(|kind| kind == "sliding_attention"));
        let pattern = self.sliding_window_pattern.filter(|&pattern| pattern > 0);
        let every = |pattern| (1..=layers).map(move |n| n % pattern != 0).collect();
        listed.map(Iterator::collect).or_else(|| pattern.map(every))
    }

    fn shape(&self) -> Result<Shape, LoadError> {
        let hidden = size("hidden_size", self.hidden_size)?;
        let heads = size("num_attention_heads", self.num_attention_heads)?;
        let shape = Shape {
            hidden,
            heads,
            layers: size("num_hidden_layers", self.num_hidden_layers)?,
            kv_heads: size("num_key_value_heads", self.num_key_value_heads.or(Some(heads)))?,
            head_dim: size("head_dim", self.head_dim.or(Some(hidden / heads)))?,
            ffn: size("intermediate_size", self.intermediate_size)?,
            vocab: size("vocab_size", self.vocab_size)?,
            context: required("max_position_embeddings", self.max_position_embeddings)?,
            eps: required("rms_norm_eps", self.rms_norm_eps)? as f32,
        };
        shape.check()?;
        Ok(shape)
    }

    /// Refuses what would compute something else than this engine does.
    fn check(&self, architecture: &Architecture) -> Result<(), LoadError> {
        let parts = architecture.parts;
        if let Some(config) = &self.quantization_config {
            let why = "weights in f32, f16 or bf16 are; give a GGUF file for quantised ones";
            return Err(LoadError::unsupported("quantization_config", config, why));
        }
        let activation = self.hidden_activation.as_deref().or(self.hidden_act.as_deref());
        if let Some(given) = activation.filter(|&name| !is(parts.activation, name)) {
            let why = "it isn't this architecture's activation";
            return Err(LoadError::unsupported("hidden_act", given, why));
        }
        for (key, flag, why) in [
            ("attention_bias", self.attention_bias, "only this architecture's own biases are"),
            ("mlp_bias", self.mlp_bias, "feed-forward layers without biases are"),
            ("use_sliding_window", self.use_sliding_window, "layers without a window are"),
        ] {
            if flag == Some(true) && !(key == "attention_bias" && parts.qkv_bias) {
                return Err(LoadError::unsupported(key, true, why));
            }
        }
        for (key, given) in [
            ("attn_logit_softcapping", self.attn_logit_softcapping),
            ("final_logit_softcapping", self.final_logit_softcapping),
        ] {
            if let Some(given) = given {
                return Err(LoadError::unsupported(key, given, "uncapped scores are"));
            }
        }
        Ok(())
    }
}

impl RopeScaling {
    fn scaling(&self) -> Result<Scaling, LoadError> {
        let number =
            |key: &str, value: Option<f64>| required(&format!("rope_scaling.{key}"), value);
        let original = "original_max_position_embeddings";
        let original_context = || number(original, self.original_max_position_embeddings);
        let factor = || number("factor", self.factor);
        let kind = self.rope_type.as_deref().or(self.r#type.as_deref());
        match kind.unwrap_or("default") {
            "default" => Ok(Scaling::None),
            "linear" => Ok(Scaling::Linear { factor: factor()? }),
            "llama3" => Ok(Scaling::Llama3 {
                factor: factor()?,
                low_frequency: number("low_freq_factor", self.low_freq_factor)?,
                high_frequency: number("high_freq_factor", self.high_freq_factor)?,
                original_context: original_context()?,
            }),
            "yarn" => Ok(Scaling::Yarn {
                factor: factor()?,
                fast: self.beta_fast.unwrap_or(32.0),
                slow: self.beta_slow.unwrap_or(1.0),
                original_context: original_context()?,
                amplitude: self.attention_factor,
            }),
            given => {
                let why = "default, linear, llama3 and yarn are";
                Err(LoadError::unsupported("rope_scaling.rope_type", given, why))
            }
        }
    }
}

fn is(activation: Activation, name: &str) -> bool {
    match activation {
        Activation::Silu => matches!(name, "silu" | "swish"),
        Activation::GeluTanh => matches!(name, "gelu_pytorch_tanh" | "gelu_new"),
    }
}
