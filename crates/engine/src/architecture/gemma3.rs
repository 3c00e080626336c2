//! Gemma 3, its text model (Gemma Team, 2025): five layers with a window, whose positions have a
//! base of their own, before each one that sees everything; norms on both sides of every block; a
//! norm's weight is stored without its 1.

use baton_device::Activation;

use super::{Architecture, Declared, Parts, Reach, Span};
use crate::{error::LoadError, reader::Pairs, rope::Scaling};

pub(super) const GEMMA3: Architecture = Architecture {
    gguf: "gemma3",
    model_type: "gemma3_text",
    gguf_pairs: Pairs::Halves,
    norm_offset: 1.0,
    renamed: &[
        ("ffn_norm", "pre_feedforward_layernorm"),
        ("post_attention_norm", "post_attention_layernorm"),
        ("post_ffw_norm", "post_feedforward_layernorm"),
    ],
    parts: Parts {
        qkv_bias: false,
        qk_norm: true,
        post_norms: true,
        activation: Activation::GeluTanh,
        scaled_embedding: true,
    },
    reach,
};

/// Every sixth layer sees everything, unless the model says otherwise.
const PATTERN: usize = 6;
/// Layers of the 27B model, which alone scales scores by hidden size over heads.
const LAYERS_27B: usize = 62;

fn reach(declared: &Declared) -> Result<Reach, LoadError> {
    let shape = &declared.shape;
    let window = declared.window.ok_or_else(|| LoadError::missing("sliding_window"))?;
    let has_window = |n: usize| match &declared.windowed {
        Some(windowed) => windowed.get(n).copied().unwrap_or(false),
        None => !(n + 1).is_multiple_of(PATTERN),
    };
    let scalar = declared.query_scalar.unwrap_or(match shape.layers {
        LAYERS_27B => (shape.hidden / shape.heads) as f32,
        _ => shape.head_dim as f32,
    });
    // Only the positions of layers that see everything are stretched.
    let global = declared.rope(declared.rope_base.or(Some(1e6)), &declared.scaling);
    let local = declared.rope(declared.local_rope_base, &Scaling::None);
    Ok(Reach {
        spans: vec![
            Span { window: None, rope: global },
            Span { window: Some(window), rope: local },
        ],
        layers: (0..shape.layers).map(|n| usize::from(has_window(n))).collect(),
        attention_scale: 1.0 / scalar.sqrt(),
    })
}
