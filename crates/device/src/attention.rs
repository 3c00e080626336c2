//! Attention over paged keys and values.

use std::{cell::Cell, ops::Range};

use baton_types::{BlockId, KvDtype};

use crate::{
    arena::{Arena, PageError},
    element::{Element, Half, Single},
    locks::ReadLocks,
    math::exp_lanes,
    matmul::Output,
    pool::ThreadPool,
    prefetch::prefetch,
    simd::{Kernel, LANES, Simd, to_array, tree_sum},
};

/// Tokens whose scores are softened together before they are merged with the ranges before. Part
/// of the numerics contract: ranges start at multiples of it, whatever the chunking.
const RANGE: usize = 256;
/// Queries of one task, which share a pass over keys and values: query tokens of one sequence × the
/// heads of one kv head's group, tokens outermost.
const TASK_QUERIES: usize = 16;
/// Head dims a thread keeps on its stack for every query of a task; larger shapes are refused at
/// load.
pub(crate) const MAX_HEAD_DIM: usize = 256;

/// Tokens, at least, between the keys in work and those asked for.
const KEYS_AHEAD: usize = 32;

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
    pub(crate) fn end(&self) -> usize {
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
    /// How many tokens a row sees, its own and the last ones before it; `None`: all of them.
    pub window: Option<u32>,
}

/// Memory the kernel needs again and again.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    tasks: Vec<Task>,
}

/// Some queries of one sequence and one kv head.
#[derive(Clone, Copy, Debug)]
struct Task {
    sequence: u32,
    kv_head: u32,
    /// Counted from the sequence's first row, over the group's heads.
    first_query: u32,
    queries: u32,
}

/// For every row: `softmax(scale · q·K) · V` over the tokens up to its own position, or the last
/// ones of them when there is a window.
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
        let queries = sequence.tokens * (heads.heads / layout.kv_heads);
        for first_query in (0..queries).step_by(TASK_QUERIES) {
            scratch.tasks.extend((0..layout.kv_heads).map(|kv_head| Task {
                sequence: index as u32,
                kv_head,
                first_query,
                queries: (queries - first_query).min(TASK_QUERIES as u32),
            }));
        }
    }
    // Later query tokens cost more: begin with them, so that threads finish together.
    scratch.tasks.reverse();
    let (tasks, out) = (&scratch.tasks, Output(out.as_mut_ptr()));
    pool.run(tasks.len(), &|index| {
        let task = tasks[index];
        let sequence = sequences[task.sequence as usize];
        dispatch(AttentionPart { arena: locks.arena(), layer, sequence, heads, q, out, task });
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

/// Scores, then weights, of one query in one range.
type Scores = [f32; RANGE];
/// Something with a value for every dim of a head.
type Head = [f32; MAX_HEAD_DIM];

/// The tokens of one range that a query sees: `from..to`, counted from the range's first.
#[derive(Clone, Copy)]
struct Seen {
    from: usize,
    to: usize,
}

impl Seen {
    #[inline(always)]
    fn contains(self, token: usize) -> bool {
        self.from <= token && token < self.to
    }
}

/// What a task writes before it reads it: kept by its thread, for to clear so much costs more than a short task.
struct Workspace {
    /// `[dim][query]`.
    q: [[f32; TASK_QUERIES]; MAX_HEAD_DIM],
    scores: [Scores; TASK_QUERIES],
    /// Weighted values of the ranges so far, and of the one in work.
    sums: [Head; TASK_QUERIES],
    partial: [Head; TASK_QUERIES],
}

impl Default for Workspace {
    fn default() -> Self {
        Workspace {
            q: [[0.0; TASK_QUERIES]; MAX_HEAD_DIM],
            scores: [[0.0; RANGE]; TASK_QUERIES],
            sums: [[0.0; MAX_HEAD_DIM]; TASK_QUERIES],
            partial: [[0.0; MAX_HEAD_DIM]; TASK_QUERIES],
        }
    }
}

thread_local! {
    static WORKSPACE: Cell<Option<Box<Workspace>>> = const { Cell::new(None) };
}

/// A query's maximum score and sum of weights.
#[derive(Clone, Copy, Default)]
struct Softmax {
    max: f32,
    sum: f32,
}

impl AttentionPart<'_> {
    #[inline(always)]
    fn over<S: Simd, E: Element>(&self, s: S) {
        let head_dim = self.arena.layout().head_dim as usize;
        assert!(head_dim <= MAX_HEAD_DIM, "head dim {head_dim}; at most {MAX_HEAD_DIM}");
        let queries = self.task.queries as usize;
        let mut workspace = WORKSPACE.take().unwrap_or_default();
        let Workspace { q, scores, sums, partial } = &mut *workspace;
        self.transpose_queries(q);
        let mut merged = [Softmax::default(); TASK_QUERIES];
        let positions: [usize; TASK_QUERIES] = std::array::from_fn(|i| self.position(i));
        let begins = positions.map(|position| self.first_seen(position));
        let end = positions[queries - 1] + 1;
        for range in (begins[0] / RANGE * RANGE..end).step_by(RANGE) {
            // The queries that see something of this range, and which tokens each.
            let first = positions[..queries].partition_point(|&position| position < range);
            let last = begins[..queries].partition_point(|&begin| begin < range + RANGE);
            let seen: [Seen; TASK_QUERIES] = std::array::from_fn(|i| Seen {
                from: begins[i].saturating_sub(range),
                to: (positions[i] + 1).saturating_sub(range).min(RANGE),
            });
            let tokens = seen[first].from..(end - range).min(RANGE);
            self.scores::<S, E>(s, range, tokens, first..last, q, scores);
            let mut softmax = [Softmax::default(); TASK_QUERIES];
            for i in first..last {
                softmax[i] = soften(s, &mut scores[i], seen[i], self.heads.scale);
            }
            self.values::<S, E>(s, range, first..last, &seen, scores, partial);
            for i in first..last {
                let (sums, partial) = (&mut sums[i][..head_dim], &partial[i][..head_dim]);
                merge(s, &mut merged[i], sums, softmax[i], partial, begins[i] >= range);
            }
        }
        for i in 0..queries {
            // SAFETY: this task's own (row, head), inside `out` as `attention` asserts.
            let out = unsafe { self.out.slice(self.offset(i), head_dim) };
            for (out, &sum) in out.iter_mut().zip(&sums[i][..head_dim]) {
                *out = sum / merged[i].sum;
            }
        }
        WORKSPACE.set(Some(workspace));
    }

    fn group(&self) -> usize {
        (self.heads.heads / self.arena.layout().kv_heads) as usize
    }

    /// Position of this task's `i`th query.
    fn position(&self, i: usize) -> usize {
        self.sequence.start as usize + (self.task.first_query as usize + i) / self.group()
    }

    /// The first token that a query at `position` sees.
    fn first_seen(&self, position: usize) -> usize {
        let window = self.heads.window.map_or(usize::MAX, |window| window as usize);
        (position + 1).saturating_sub(window)
    }

    /// Where this task's `i`th query stands in `q` and `out`.
    fn offset(&self, i: usize) -> usize {
        let (query, group) = (self.task.first_query as usize + i, self.group());
        let row = self.sequence.first_row as usize + query / group;
        let head = self.task.kv_head as usize * group + query % group;
        (row * self.heads.heads as usize + head) * self.arena.layout().head_dim as usize
    }

    /// `[dim][query]`, missing queries zero: the order in which scores want them.
    fn transpose_queries(&self, transposed: &mut [[f32; TASK_QUERIES]; MAX_HEAD_DIM]) {
        let (queries, head_dim) =
            (self.task.queries as usize, self.arena.layout().head_dim as usize);
        let transposed = &mut transposed[..head_dim];
        if queries < TASK_QUERIES {
            transposed.fill([0.0; TASK_QUERIES]);
        }
        for i in 0..queries {
            let q = &self.q[self.offset(i)..][..head_dim];
            for (row, &q) in transposed.iter_mut().zip(q) {
                row[i] = q;
            }
        }
    }

    /// The keys (or values) of this task's kv head in the page of a position's block.
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

    /// Asks for the values of the block at `position`, which come next, and the keys of a block
    /// soon after: pages lie scattered, so the hardware can't guess.
    #[inline(always)]
    fn prefetch<E: Element>(&self, position: usize) {
        let values = self.page::<E>(position, true);
        prefetch(values.as_ptr(), size_of_val(values));
        let ahead = position + KEYS_AHEAD.max(self.arena.layout().block_tokens as usize);
        if ahead < self.position(self.task.queries as usize - 1) {
            let keys = self.page::<E>(ahead, false);
            prefetch(keys.as_ptr(), size_of_val(keys));
        }
    }

    /// Raw scores of some queries against some tokens, counted from `range`, in whole vectors: those
    /// that a query doesn't see are garbage, and ignored by [`soften`].
    #[inline(always)]
    fn scores<S: Simd, E: Element>(
        &self,
        s: S,
        range: usize,
        tokens: Range<usize>,
        queries: Range<usize>,
        q: &[[f32; TASK_QUERIES]; MAX_HEAD_DIM],
        scores: &mut [Scores; TASK_QUERIES],
    ) {
        let block_tokens = self.arena.layout().block_tokens as usize;
        for token in (tokens.start / LANES * LANES..tokens.end).step_by(LANES) {
            let keys = self.page::<E>(range + token, false);
            let slot = (range + token) % block_tokens;
            if slot == 0 {
                self.prefetch::<E>(range + token);
            }
            // Queries side by side, as many as the registers hold; missing ones cost little.
            let mut query = queries.start / 4 * 4;
            while query < queries.end {
                if S::WIDE && query == 0 && queries.end > 12 {
                    score::<S, E, 16>(s, keys, block_tokens, slot, q, query, token, scores);
                    query += 16;
                } else if S::WIDE && query.is_multiple_of(8) && query + 4 < queries.end {
                    score::<S, E, 8>(s, keys, block_tokens, slot, q, query, token, scores);
                    query += 8;
                } else {
                    score::<S, E, 4>(s, keys, block_tokens, slot, q, query, token, scores);
                    query += 4;
                }
            }
        }
    }

    /// `Σ p·v` of each query over the tokens it sees, in ascending order.
    #[inline(always)]
    fn values<S: Simd, E: Element>(
        &self,
        s: S,
        range: usize,
        queries: Range<usize>,
        seen: &[Seen; TASK_QUERIES],
        weights: &[Scores; TASK_QUERIES],
        out: &mut [Head; TASK_QUERIES],
    ) {
        let head_dim = self.arena.layout().head_dim as usize;
        let mut query = queries.start;
        while query < queries.end {
            let left = queries.end - query;
            let count = left.min(if S::WIDE { if left > 4 { 8 } else { 4 } } else { 2 });
            let mut d = 0;
            while d < head_dim {
                let left = head_dim - d;
                let slab = Slab { range, query, count, d, seen, weights };
                let (four, two) = (left >= 4 * LANES, left >= 2 * LANES);
                d += match (S::WIDE, count > 4) {
                    (true, true) if two => self.slab::<S, E, 8, 2>(s, slab, out),
                    (true, true) => self.slab::<S, E, 8, 1>(s, slab, out),
                    (true, false) if four => self.slab::<S, E, 4, 4>(s, slab, out),
                    (true, false) => self.slab::<S, E, 4, 1>(s, slab, out),
                    (false, _) if two => self.slab::<S, E, 2, 2>(s, slab, out),
                    (false, _) => self.slab::<S, E, 2, 1>(s, slab, out),
                };
            }
            query += count;
        }
    }

    /// At most `Q` queries × `N` vectors of dims; gives the dims done.
    #[inline(always)]
    fn slab<S: Simd, E: Element, const Q: usize, const N: usize>(
        &self,
        s: S,
        slab: Slab<'_>,
        out: &mut [Head; TASK_QUERIES],
    ) -> usize {
        let Slab { range, query, count, d, seen, weights } = slab;
        let layout = self.arena.layout();
        let (head_dim, block_tokens) = (layout.head_dim as usize, layout.block_tokens as usize);
        // Missing queries repeat the last one.
        let weights: [&Scores; Q] = std::array::from_fn(|i| &weights[query + i.min(count - 1)]);
        let seen: [Seen; Q] = std::array::from_fn(|i| seen[query + i.min(count - 1)]);
        // What a query sees begins and ends no later than what the next one sees.
        let shared = Seen { from: seen[count - 1].from, to: seen[0].to };
        let most = seen[count - 1].to;
        let mut acc = [[s.splat(0.0); N]; Q];
        let mut token = seen[0].from;
        while token < most {
            // A range may begin inside a block: block sizes need not divide it.
            let first_slot = (range + token) % block_tokens;
            let end = most.min(token + block_tokens - first_slot);
            let values = &self.page::<E>(range + token, true)[first_slot * head_dim..];
            for (token, values) in (token..end).zip(values.chunks_exact(head_dim)) {
                let values: &[[_; LANES]; N] =
                    values[d..].as_chunks().0.first_chunk().expect("so many dims");
                let mut loaded = [s.splat(0.0); N];
                for n in 0..N {
                    loaded[n] = E::load(s, &values[n]);
                }
                if shared.contains(token) {
                    for i in 0..Q {
                        weigh(s, weights[i][token], &loaded, &mut acc[i]);
                    }
                } else {
                    for i in 0..Q {
                        if seen[i].contains(token) {
                            weigh(s, weights[i][token], &loaded, &mut acc[i]);
                        }
                    }
                }
            }
            token = end;
        }
        for i in 0..count {
            let out = out[query + i][d..d + N * LANES].as_chunks_mut::<LANES>().0;
            for n in 0..N {
                s.store(acc[i][n], &mut out[n]);
            }
        }
        N * LANES
    }
}

/// Some queries' weights of one range, and the dims to weigh.
#[derive(Clone, Copy)]
struct Slab<'a> {
    range: usize,
    query: usize,
    count: usize,
    d: usize,
    seen: &'a [Seen; TASK_QUERIES],
    weights: &'a [Scores; TASK_QUERIES],
}

/// `Q` queries from `query` against the 16 tokens from `token`, whose keys stand in `slot`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn score<S: Simd, E: Element, const Q: usize>(
    s: S,
    keys: &[E::Bits],
    block_tokens: usize,
    slot: usize,
    q: &[[f32; TASK_QUERIES]; MAX_HEAD_DIM],
    query: usize,
    token: usize,
    scores: &mut [Scores; TASK_QUERIES],
) {
    let mut acc = [s.splat(0.0); Q];
    for (keys, q) in keys.chunks_exact(block_tokens).zip(q) {
        let keys = E::load(s, keys[slot..slot + LANES].try_into().expect("16 slots"));
        let q: &[f32; Q] = q[query..query + Q].try_into().expect("whole groups of queries");
        for i in 0..Q {
            acc[i] = s.fma(keys, s.splat(q[i]), acc[i]);
        }
    }
    for (acc, scores) in acc.into_iter().zip(&mut scores[query..query + Q]) {
        let scores = &mut scores[token..token + LANES];
        s.store(acc, scores.try_into().expect("16 scores"));
    }
}

/// `sums += weight · values`.
#[inline(always)]
fn weigh<S: Simd, const N: usize>(s: S, weight: f32, values: &[S::F; N], sums: &mut [S::F; N]) {
    let weight = s.splat(weight);
    for n in 0..N {
        sums[n] = s.fma(weight, values[n], sums[n]);
    }
}

/// Turns the raw scores that are seen into `e^(scale·score − max)` and the others of their vectors
/// into 0. Gives the maximum and the sum: over 16 virtual lanes, then the tree.
#[inline(always)]
fn soften<S: Simd>(s: S, scores: &mut Scores, seen: Seen, scale: f32) -> Softmax {
    let Seen { from, to } = seen;
    scores[from / LANES * LANES..from].fill(f32::NEG_INFINITY);
    scores[to..to.next_multiple_of(LANES)].fill(f32::NEG_INFINITY);
    let chunks = &mut scores.as_chunks_mut::<LANES>().0[from / LANES..to.div_ceil(LANES)];
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
    Softmax { max, sum: tree_sum(s, sum) }
}

/// Adds one range's maximum, sum and weighted values to the running ones.
#[inline(always)]
fn merge<S: Simd>(
    s: S,
    merged: &mut Softmax,
    sums: &mut [f32],
    range: Softmax,
    partial: &[f32],
    first: bool,
) {
    if first {
        *merged = range;
        sums.copy_from_slice(partial);
        return;
    }
    let max = if merged.max > range.max { merged.max } else { range.max };
    let old = to_array(s, exp_lanes(s, s.splat(merged.max - max)))[0];
    let new = to_array(s, exp_lanes(s, s.splat(range.max - max)))[0];
    *merged = Softmax { max, sum: range.sum.mul_add(new, merged.sum * old) };
    let chunks = sums.as_chunks_mut::<LANES>().0.iter_mut().zip(partial.as_chunks::<LANES>().0);
    for (sum, partial) in chunks {
        let kept = s.mul(s.load(sum), s.splat(old));
        s.store(s.fma(s.load(partial), s.splat(new), kept), sum);
    }
}
