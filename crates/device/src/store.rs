//! New keys and values on their way into the cache.

use baton_types::KvDtype;
use half::f16;

use crate::{
    arena::{Arena, PageError},
    attention::AttentionSequence,
};

/// Writes keys and values of a ragged step's rows, rounded to the cache's type, into their slots.
///
/// `k` and `v` are `[row][kv head][head dim]`.
pub(crate) fn store_kv(
    arena: &Arena,
    layer: u32,
    sequences: &[AttentionSequence<'_>],
    k: &[f32],
    v: &[f32],
) -> Result<(), PageError> {
    let layout = arena.layout();
    let (block_tokens, width) = (layout.block_tokens, (layout.kv_heads * layout.head_dim) as usize);
    for sequence in sequences {
        let mut token = 0;
        while token < sequence.tokens {
            let position = sequence.start + token;
            let slot = position % block_tokens;
            let tokens = (block_tokens - slot).min(sequence.tokens - token);
            let block = sequence.blocks[(position / block_tokens) as usize];
            let mut page = arena.write(layer, block)?;
            let (keys, values) = page.split_at_mut(layout.half_page_bytes());
            for t in 0..tokens {
                let row = (sequence.first_row + token + t) as usize * width;
                let (k, v) = (&k[row..row + width], &v[row..row + width]);
                store_token(arena, (slot + t) as usize, k, v, keys, values);
            }
            token += tokens;
        }
    }
    Ok(())
}

fn store_token(
    arena: &Arena,
    slot: usize,
    k: &[f32],
    v: &[f32],
    keys: &mut [u8],
    values: &mut [u8],
) {
    let layout = arena.layout();
    let (head_dim, block_tokens) = (layout.head_dim as usize, layout.block_tokens as usize);
    let put = |out: &mut [u8], index: usize, x: f32| match layout.dtype {
        KvDtype::F16 => {
            out[2 * index..2 * index + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes())
        }
        KvDtype::F32 => out[4 * index..4 * index + 4].copy_from_slice(&x.to_le_bytes()),
    };
    for (head, (k, v)) in k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim)).enumerate() {
        for (d, (&k, &v)) in k.iter().zip(v).enumerate() {
            put(keys, (head * head_dim + d) * block_tokens + slot, k);
            put(values, (head * block_tokens + slot) * head_dim + d, v);
        }
    }
}
