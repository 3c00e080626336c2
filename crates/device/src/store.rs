//! New keys and values on their way into the cache.

use baton_types::KvDtype;

use crate::{
    arena::{Arena, PageError},
    attention::AttentionSequence,
    simd::{Kernel, LANES, Simd},
};

/// Writes keys and values of a ragged step's rows, rounded to the cache's type, into their slots.
pub(crate) struct StoreKv<'a> {
    pub(crate) arena: &'a Arena,
    pub(crate) layer: u32,
    pub(crate) sequences: &'a [AttentionSequence<'a>],
    /// `[row][kv head][head dim]`.
    pub(crate) k: &'a [f32],
    /// As `k`.
    pub(crate) v: &'a [f32],
}

impl Kernel for StoreKv<'_> {
    type Output = Result<(), PageError>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let layout = self.arena.layout();
        let block_tokens = layout.block_tokens;
        let width = (layout.kv_heads * layout.head_dim) as usize;
        for sequence in self.sequences {
            let mut token = 0;
            while token < sequence.tokens {
                let position = sequence.start + token;
                let slot = position % block_tokens;
                let tokens = (block_tokens - slot).min(sequence.tokens - token);
                let block = sequence.blocks[(position / block_tokens) as usize];
                let mut page = self.arena.write(self.layer, block)?;
                let (keys, values) = page.split_at_mut(layout.half_page_bytes());
                for t in 0..tokens {
                    let row = (sequence.first_row + token + t) as usize * width;
                    let (k, v) = (&self.k[row..row + width], &self.v[row..row + width]);
                    let slot = (slot + t) as usize;
                    match layout.dtype {
                        KvDtype::F16 => self.halves(s, slot, k, v, keys, values),
                        KvDtype::F32 => self.singles(slot, k, v, keys, values),
                    }
                }
                token += tokens;
            }
        }
        Ok(())
    }
}

impl StoreKv<'_> {
    /// One token's keys and values, half precision.
    #[inline(always)]
    fn halves<S: Simd>(
        &self,
        s: S,
        slot: usize,
        k: &[f32],
        v: &[f32],
        keys: &mut [u8],
        values: &mut [u8],
    ) {
        let keys = keys.as_chunks_mut::<2>().0;
        // Heads are whole vectors.
        let vectors = k.as_chunks::<LANES>().0.iter().zip(v.as_chunks::<LANES>().0);
        for (index, (k, v)) in vectors.enumerate() {
            let (k, v) = (s.to_f16(s.load(k)), s.to_f16(s.load(v)));
            for (d, k) in k.into_iter().enumerate() {
                keys[self.key(index * LANES + d, slot)] = k.to_le_bytes();
            }
            let value = 2 * self.value(index * LANES, slot);
            let out = values[value..value + 2 * LANES].as_chunks_mut::<2>().0;
            out.copy_from_slice(&v.map(u16::to_le_bytes));
        }
    }

    /// One token's keys and values, single precision.
    #[inline(always)]
    fn singles(&self, slot: usize, k: &[f32], v: &[f32], keys: &mut [u8], values: &mut [u8]) {
        let (keys, values) = (keys.as_chunks_mut::<4>().0, values.as_chunks_mut::<4>().0);
        for (index, (k, v)) in k.iter().zip(v).enumerate() {
            keys[self.key(index, slot)] = k.to_le_bytes();
            values[self.value(index, slot)] = v.to_le_bytes();
        }
    }

    /// Where in a page's keys (`[kv head][dim][slot]`) a token's `index`th is.
    #[inline(always)]
    fn key(&self, index: usize, slot: usize) -> usize {
        index * self.arena.layout().block_tokens as usize + slot
    }

    /// Where in a page's values (`[kv head][slot][dim]`) a token's `index`th is.
    #[inline(always)]
    fn value(&self, index: usize, slot: usize) -> usize {
        let layout = self.arena.layout();
        let (head_dim, block_tokens) = (layout.head_dim as usize, layout.block_tokens as usize);
        (index / head_dim * block_tokens + slot) * head_dim + index % head_dim
    }
}
