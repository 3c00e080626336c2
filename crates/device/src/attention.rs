//! Attention over paged keys and values.

use baton_types::{BlockId, KvDtype};
use half::f16;

use crate::{
    arena::{Arena, PageError},
    math::exp_lanes,
    matmul::Output,
    pool::ThreadPool,
    simd::{Kernel, LANES, Simd, to_array, tree_sum},
};

/// Tokens whose scores are softened together before they are merged with the ranges before. Part
/// of the numerics contract: ranges start at multiples of it, whatever the chunking.
const RANGE: usize = 256;
/// Query tokens of one sequence that share a pass over the keys.
const QUERY_TOKENS: usize = 4;
/// Queries whose scores are computed side by side.
const QUERIES: usize = 4;

/// One sequence's rows in a ragged step.
#[derive(Clone, Copy, Debug)]
pub struct AttentionSequence<'a> {
    /// The whole block table.
    pub blocks: &'a [BlockId],
    /// Position of the first row: tokens cached before this step.
    pub start: u32,
    /// Rows, one a token.
    pub tokens: u32,
    /// Index of the first row in `q`, `k`, `v` and `out`; at or after the rows of the sequences
    /// before.
    pub first_row: u32,
}

impl AttentionSequence<'_> {
    /// The position after the last row's.
    fn end(&self) -> usize {
        self.start as usize + self.tokens as usize
    }

    /// The row after the last.
    fn end_row(&self) -> usize {
        self.first_row as usize + self.tokens as usize
    }
}

/// How heads share keys and values (grouped-query attention).
#[derive(Clone, Copy, Debug)]
pub struct AttentionHeads {
    /// Query heads: a multiple of the layout's kv heads.
    pub heads: u32,
    /// Scores are multiplied by it.
    pub scale: f32,
}

/// Memory the kernel needs again and again.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    tasks: Vec<Task>,
}

/// Some query tokens of one sequence × one kv head.
#[derive(Clone, Copy, Debug)]
struct Task {
    sequence: u32,
    first_token: u32,
    tokens: u32,
    kv_head: u32,
}

/// Holds read locks on every page of the sequences, in one layer.
struct ReadLocks<'a> {
    arena: &'a Arena,
    layer: u32,
    sequences: &'a [AttentionSequence<'a>],
    /// How many have been taken, in order.
    taken: usize,
}

impl<'a> ReadLocks<'a> {
    fn take(
        arena: &'a Arena,
        layer: u32,
        sequences: &'a [AttentionSequence<'a>],
    ) -> Result<Self, PageError> {
        let mut locks = ReadLocks { arena, layer, sequences, taken: 0 };
        for block in Self::blocks(arena, sequences) {
            std::mem::forget(arena.read(layer, block)?);
            locks.taken += 1;
        }
        Ok(locks)
    }

    /// The blocks the rows look at, sequence by sequence.
    fn blocks<'b>(
        arena: &Arena,
        sequences: &'b [AttentionSequence<'b>],
    ) -> impl Iterator<Item = BlockId> + use<'b> {
        let block_tokens = arena.layout().block_tokens;
        sequences.iter().flat_map(move |sequence| {
            let used = sequence.end().div_ceil(block_tokens as usize);
            sequence.blocks[..used].iter().copied()
        })
    }
}

impl Drop for ReadLocks<'_> {
    fn drop(&mut self) {
        for block in Self::blocks(self.arena, self.sequences).take(self.taken) {
            self.arena.unlock_read(self.layer, block);
        }
    }
}

/// For every row: `softmax(scale · q·K) · V` over the tokens up to its own position.
///
/// `q` and `out` are `[row][head][head dim]`. A row's result depends on its own position and pages
/// alone: ranges of [`RANGE`] tokens from position 0, merged in ascending order.
#[allow(clippy::too_many_arguments)]
pub(crate) fn attention(
    pool: &mut ThreadPool,
    arena: &Arena,
    layer: u32,
    sequences: &[AttentionSequence<'_>],
    heads: AttentionHeads,
    q: &[f32],
    out: &mut [f32],
    scratch: &mut AttentionScratch,
    dispatch: impl Fn(AttentionPart<'_>) + Sync,
) -> Result<(), PageError> {
    let layout = arena.layout();
    let width = heads.heads as usize * layout.head_dim as usize;
    assert_eq!(q.len(), out.len(), "q and out");
    assert!(heads.heads.is_multiple_of(layout.kv_heads) && layout.head_dim.is_multiple_of(16));
    let locks = ReadLocks::take(arena, layer, sequences)?;
    scratch.tasks.clear();
    let mut next_row = 0;
    for (index, sequence) in sequences.iter().enumerate() {
        // Rows of two sequences never overlap: tasks write them side by side.
        assert!(sequence.first_row as usize >= next_row, "rows of sequence {index} ascend");
        next_row = sequence.end_row();
        assert!(next_row * width <= q.len(), "rows of sequence {index}");
        for first_token in (0..sequence.tokens).step_by(QUERY_TOKENS) {
            let tokens = (sequence.tokens - first_token).min(QUERY_TOKENS as u32);
            scratch.tasks.extend((0..layout.kv_heads).map(|kv_head| Task {
                sequence: index as u32,
                first_token,
                tokens,
                kv_head,
            }));
        }
    }
    // Later query tokens cost more: begin with them, so that threads finish together.
    scratch.tasks.reverse();
    let (tasks, out) = (&scratch.tasks, Output(out.as_mut_ptr()));
    pool.run(tasks.len(), &|index| {
        let task = tasks[index];
        let sequence = sequences[task.sequence as usize];
        dispatch(AttentionPart { arena: locks.arena, layer, sequence, heads, q, out, task });
    });
    Ok(())
}

pub(crate) struct AttentionPart<'a> {
    arena: &'a Arena,
    layer: u32,
    sequence: AttentionSequence<'a>,
    heads: AttentionHeads,
    q: &'a [f32],
    /// This part writes its own tokens' rows, the columns of its kv head's group.
    out: Output<f32>,
    task: Task,
}

impl Kernel for AttentionPart<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.arena.layout().dtype {
            KvDtype::F16 => self.over::<S, Half>(s),
            KvDtype::F32 => self.over::<S, Single>(s),
        }
    }
}

/// An element type of the cache.
trait Element {
    type Bits: Copy;
    fn load<S: Simd>(s: S, x: &[Self::Bits; LANES]) -> S::F;
}
struct Half;
struct Single;

impl Element for Half {
    type Bits = u16;
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[u16; LANES]) -> S::F {
        s.load_f16(x)
    }
}
impl Element for Single {
    type Bits = f32;
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[f32; LANES]) -> S::F {
        s.load(x)
    }
}

/// Scores, then weights, of one query in one range.
type Scores = [f32; RANGE];

/// One query's running result.
#[derive(Clone, Copy)]
struct Merged {
    max: f32,
    sum: f32,
}

/// Head dims a thread keeps on its stack for every query of a task; larger shapes are refused at
/// load.
pub(crate) const MAX_HEAD_DIM: usize = 256;
/// Queries of one task: query tokens × heads of a group.
pub(crate) const MAX_QUERIES: usize = 64;

impl AttentionPart<'_> {
    #[inline(always)]
    fn over<S: Simd, E: Element>(&self, s: S) {
        let layout = self.arena.layout();
        let group = (self.heads.heads / layout.kv_heads) as usize;
        let queries = self.task.tokens as usize * group;
        let head_dim = layout.head_dim as usize;
        assert!(queries <= MAX_QUERIES && head_dim <= MAX_HEAD_DIM, "{queries} × {head_dim}");
        let first_position = self.sequence.start as usize + self.task.first_token as usize;
        let mut scores = [[0.0; RANGE]; MAX_QUERIES];
        let scores = &mut scores[..queries];
        let mut merged = [Merged { max: f32::NEG_INFINITY, sum: 0.0 }; MAX_QUERIES];
        let mut sums = [[0.0; MAX_HEAD_DIM]; MAX_QUERIES];
        let mut partial = [[0.0; MAX_HEAD_DIM]; MAX_QUERIES];
        let end = first_position + self.task.tokens as usize;
        for range in (0..end).step_by(RANGE) {
            // Tokens of this range a query sees; none before its own range is reached.
            let seen = |query: usize| (first_position + query / group + 1 - range).min(RANGE);
            let first_query = (range + 1).saturating_sub(first_position + 1).min(queries) * group;
            let first_query = first_query.min(queries);
            self.scores::<S, E>(s, range, (end - range).min(RANGE), first_query, scores);
            let mut weights = [Merged { max: 0.0, sum: 0.0 }; MAX_QUERIES];
            for query in first_query..queries {
                weights[query] = soften(s, &mut scores[query], seen(query), self.heads.scale);
            }
            let partial = &mut partial[..queries];
            self.values::<S, E>(s, range, &seen, first_query, scores, partial);
            for query in first_query..queries {
                let (sums, partial) = (&mut sums[query][..head_dim], &partial[query][..head_dim]);
                merge(s, &mut merged[query], sums, weights[query], partial, range == 0);
            }
        }
        for query in 0..queries {
            // SAFETY: this task's own (token, head), inside `out` as `attention` asserts.
            let out = unsafe { self.out.slice(self.offset(query, group), head_dim) };
            let total = merged[query].sum;
            for (out, &sum) in out.iter_mut().zip(&sums[query][..head_dim]) {
                *out = sum / total;
            }
        }
    }

    /// Offset of query `query` in `q` and `out`.
    #[inline(always)]
    fn offset(&self, query: usize, group: usize) -> usize {
        let head_dim = self.arena.layout().head_dim as usize;
        let row = self.sequence.first_row as usize + self.task.first_token as usize + query / group;
        let head = self.task.kv_head as usize * group + query % group;
        (row * self.heads.heads as usize + head) * head_dim
    }

    /// The keys (or values) of this task's kv head in the page of a token range's block.
    #[inline(always)]
    fn page<E: Element>(&self, position: usize, values: bool) -> &[E::Bits] {
        let layout = self.arena.layout();
        let block = self.sequence.blocks[position / layout.block_tokens as usize];
        let bytes = self.arena.page_locked(self.layer, block);
        let elements = layout.head_dim as usize * layout.block_tokens as usize;
        let half = if values { layout.half_page_bytes() } else { 0 };
        let start = half + self.task.kv_head as usize * elements * layout.dtype.bytes();
        let bytes = &bytes[start..start + elements * layout.dtype.bytes()];
        // SAFETY: any bits are a value of u16 and f32; pages and their parts are multiples of 64
        // bytes from a page-aligned base, so aligned.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), elements) }
    }

    /// Raw scores of queries `first_query..` against `tokens` tokens from `range`, in whole blocks
    /// of 16: those beyond a query's own position are garbage, and ignored by [`soften`].
    #[inline(always)]
    fn scores<S: Simd, E: Element>(
        &self,
        s: S,
        range: usize,
        tokens: usize,
        first_query: usize,
        scores: &mut [Scores],
    ) {
        let layout = self.arena.layout();
        let (head_dim, block_tokens) = (layout.head_dim as usize, layout.block_tokens as usize);
        let group = (self.heads.heads / layout.kv_heads) as usize;
        for token in (0..tokens).step_by(LANES) {
            let position = range + token;
            let keys = self.page::<E>(position, false);
            let slot = position % block_tokens;
            let mut query = first_query;
            while query < scores.len() {
                let count = (scores.len() - query).min(QUERIES);
                // Missing queries repeat the last one; their scores are dropped.
                let q: [&[f32]; QUERIES] = std::array::from_fn(|i| {
                    &self.q[self.offset(query + i.min(count - 1), group)..][..head_dim]
                });
                let mut acc = [s.splat(0.0); QUERIES];
                for d in 0..head_dim {
                    let keys = &keys[d * block_tokens + slot..][..LANES];
                    let k = E::load(s, keys.try_into().expect("16 slots"));
                    for i in 0..QUERIES {
                        acc[i] = s.fma(k, s.splat(q[i][d]), acc[i]);
                    }
                }
                for i in 0..count {
                    let out = &mut scores[query + i][token..token + LANES];
                    s.store(acc[i], out.try_into().expect("16 scores"));
                }
                query += count;
            }
        }
    }

    /// `Σ p·v` of each query over the tokens it sees, in ascending order.
    #[inline(always)]
    fn values<S: Simd, E: Element>(
        &self,
        s: S,
        range: usize,
        seen: &impl Fn(usize) -> usize,
        first_query: usize,
        weights: &[Scores],
        out: &mut [[f32; MAX_HEAD_DIM]],
    ) {
        let head_dim = self.arena.layout().head_dim as usize;
        let mut query = first_query;
        while query < weights.len() {
            let count = (weights.len() - query).min(QUERIES);
            let mut d = 0;
            while d < head_dim {
                if d + 4 * LANES <= head_dim {
                    self.slab::<S, E, 4>(s, range, seen, query, count, d, weights, out);
                    d += 4 * LANES;
                } else {
                    self.slab::<S, E, 1>(s, range, seen, query, count, d, weights, out);
                    d += LANES;
                }
            }
            query += count;
        }
    }

    /// `count` queries × `N` vectors of dims from `d`.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn slab<S: Simd, E: Element, const N: usize>(
        &self,
        s: S,
        range: usize,
        seen: &impl Fn(usize) -> usize,
        query: usize,
        count: usize,
        d: usize,
        weights: &[Scores],
        out: &mut [[f32; MAX_HEAD_DIM]],
    ) {
        let layout = self.arena.layout();
        let (head_dim, block_tokens) = (layout.head_dim as usize, layout.block_tokens as usize);
        let mut acc = [[s.splat(0.0); N]; QUERIES];
        let value = |values: &[E::Bits], slot: usize, n: usize| {
            let at = slot * head_dim + d + n * LANES;
            E::load(s, values[at..at + LANES].try_into().expect("16 dims"))
        };
        // All queries see the tokens that the first of them sees.
        let shared = seen(query);
        let most = seen(query + count - 1);
        let mut token = 0;
        while token < most {
            // A range may begin inside a block: block sizes need not divide it.
            let values = self.page::<E>(range + token, true);
            let first_slot = (range + token) % block_tokens;
            let end = most.min(token + block_tokens - first_slot);
            let first = token;
            while token < end.min(shared) {
                let slot = first_slot + token - first;
                let v: [S::F; N] = std::array::from_fn(|n| value(values, slot, n));
                for i in 0..QUERIES {
                    let p = s.splat(weights[query + i.min(count - 1)][token]);
                    for n in 0..N {
                        acc[i][n] = s.fma(p, v[n], acc[i][n]);
                    }
                }
                token += 1;
            }
            while token < end {
                let slot = first_slot + token - first;
                let v: [S::F; N] = std::array::from_fn(|n| value(values, slot, n));
                for i in 0..count {
                    if token < seen(query + i) {
                        let p = s.splat(weights[query + i][token]);
                        for n in 0..N {
                            acc[i][n] = s.fma(p, v[n], acc[i][n]);
                        }
                    }
                }
                token += 1;
            }
        }
        for i in 0..count {
            for n in 0..N {
                let out = &mut out[query + i][d + n * LANES..][..LANES];
                s.store(acc[i][n], out.try_into().expect("16 dims"));
            }
        }
    }
}

/// Turns the first `seen` raw scores into `e^(scale·score − max)` and the others into 0. Gives the
/// maximum and the sum: over 16 virtual lanes, then the tree.
#[inline(always)]
fn soften<S: Simd>(s: S, scores: &mut Scores, seen: usize, scale: f32) -> Merged {
    scores[seen..seen.next_multiple_of(LANES)].fill(f32::NEG_INFINITY);
    let chunks = &mut scores.as_chunks_mut::<LANES>().0[..seen.div_ceil(LANES)];
    let mut max = s.splat(f32::NEG_INFINITY);
    for chunk in chunks.iter_mut() {
        let scaled = s.mul(s.load(chunk), s.splat(scale));
        s.store(scaled, chunk);
        max = s.max(scaled, max);
    }
    let max =
        to_array(s, max).into_iter().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b });
    let mut sum = s.splat(0.0);
    for chunk in chunks {
        let p = exp_lanes(s, s.sub(s.load(chunk), s.splat(max)));
        s.store(p, chunk);
        sum = s.add(sum, p);
    }
    Merged { max, sum: tree_sum(s, sum) }
}

/// Adds one range's maximum, sum and weighted values to the running ones.
#[inline(always)]
fn merge<S: Simd>(
    s: S,
    merged: &mut Merged,
    sums: &mut [f32],
    range: Merged,
    partial: &[f32],
    first: bool,
) {
    if first {
        *merged = range;
        sums.copy_from_slice(partial);
        return;
    }
    let max = if merged.max > range.max { merged.max } else { range.max };
    let (old, new) = (crate::math::exp(merged.max - max), crate::math::exp(range.max - max));
    *merged = Merged { max, sum: range.sum.mul_add(new, merged.sum * old) };
    let chunks = sums.as_chunks_mut::<LANES>().0.iter_mut().zip(partial.as_chunks::<LANES>().0);
    for (sum, partial) in chunks {
        let kept = s.mul(s.load(sum), s.splat(old));
        s.store(s.fma(s.load(partial), s.splat(new), kept), sum);
    }
}

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
