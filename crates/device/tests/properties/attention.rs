use baton_device::{
    Arena, AttentionHeads, AttentionScratch, AttentionSequence, Isa, Kernels, ThreadPool,
};
use baton_types::{BlockId, KvDtype, KvLayout};
use half::f16;
use proptest::prelude::*;

use crate::{
    random::Random,
    reference::{attention_f64, difference},
};

const LAYER: u32 = 1;

#[derive(Clone, Copy, Debug)]
struct Shape {
    kv_heads: u32,
    /// Query heads of one kv head.
    group: u32,
    head_dim: u32,
    block_tokens: u32,
    dtype: KvDtype,
    window: Option<u32>,
}

impl Shape {
    fn heads(self) -> u32 {
        self.kv_heads * self.group
    }

    fn width(self) -> usize {
        (self.heads() * self.head_dim) as usize
    }

    fn kv_width(self) -> usize {
        (self.kv_heads * self.head_dim) as usize
    }

    fn scale(self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// The first position that the query at `position` sees.
    fn first_seen(self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window as usize))
    }

    fn rounded(self, x: f32) -> f32 {
        match self.dtype {
            KvDtype::F16 => f16::from_f32(x).to_f32(),
            KvDtype::F32 => x,
        }
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    let dtype = prop::sample::select([KvDtype::F16, KvDtype::F32].as_slice());
    let window = prop::option::of(prop_oneof![1..40_u32, 200..600_u32]);
    (1..4_u32, 1..5_u32, 1..6_u32, 1..17_u32, dtype, window).prop_map(
        |(kv_heads, group, dims, slots, dtype, window)| Shape {
            kv_heads,
            group,
            head_dim: dims * 16,
            block_tokens: slots * 16,
            dtype,
            window,
        },
    )
}

/// One sequence's queries, keys and values, a row a token.
struct Sequence {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    tokens: usize,
}

impl Sequence {
    fn random(random: &mut Random, shape: Shape, tokens: usize) -> Self {
        let mut values = |width: usize| (0..tokens * width).map(|_| random.unit() * 3.0).collect();
        let (q, k, v) = (values(shape.width()), values(shape.kv_width()), values(shape.kv_width()));
        Sequence { q, k, v, tokens }
    }
}

/// Runs sequences through the cache step by step: what an engine does in one layer.
struct Cache {
    shape: Shape,
    arena: Arena,
    kernels: Kernels,
    pool: ThreadPool,
    scratch: AttentionScratch,
    /// Every sequence's block table.
    tables: Vec<Vec<BlockId>>,
    /// Every sequence's rows so far.
    done: Vec<usize>,
    out: Vec<Vec<f32>>,
}

impl Cache {
    /// Room for `sequences` in blocks dealt at random, full of garbage.
    fn new(
        random: &mut Random,
        shape: Shape,
        isa: Isa,
        threads: usize,
        sequences: &[Sequence],
    ) -> Self {
        let Shape { kv_heads, head_dim, block_tokens, dtype, .. } = shape;
        let blocks_of = |s: &Sequence| (s.tokens as u32).div_ceil(block_tokens) as usize;
        let blocks = sequences.iter().map(blocks_of).sum::<usize>() as u32 + 1;
        let layout = KvLayout { layers: 2, kv_heads, head_dim, block_tokens, dtype };
        let arena = Arena::new(layout, blocks).expect("a small arena");
        for block in 0..blocks {
            // All ones are a NaN in both types: nothing may depend on a slot not yet written.
            arena.write(LAYER, BlockId(block)).expect("a free page").fill(0xff);
        }
        let mut free = random.shuffled(blocks).into_iter().map(BlockId);
        Cache {
            shape,
            arena,
            kernels: Kernels::new(isa).expect("an available instruction set"),
            pool: ThreadPool::new(threads),
            scratch: AttentionScratch::default(),
            tables: sequences.iter().map(|s| free.by_ref().take(blocks_of(s)).collect()).collect(),
            done: vec![0; sequences.len()],
            out: vec![Vec::new(); sequences.len()],
        }
    }

    /// One step: the next `tokens` of some sequences, in that order.
    fn step(&mut self, sequences: &[Sequence], parts: &[(usize, usize)]) {
        let (width, kv_width) = (self.shape.width(), self.shape.kv_width());
        let (mut q, mut k, mut v, mut ragged) = (vec![], vec![], vec![], vec![]);
        for &(index, tokens) in parts {
            let (sequence, start) = (&sequences[index], self.done[index]);
            ragged.push(AttentionSequence {
                blocks: &self.tables[index],
                start: start as u32,
                tokens: tokens as u32,
                first_row: (q.len() / width) as u32,
            });
            q.extend(&sequence.q[start * width..][..tokens * width]);
            k.extend(&sequence.k[start * kv_width..][..tokens * kv_width]);
            v.extend(&sequence.v[start * kv_width..][..tokens * kv_width]);
        }
        let mut out = vec![f32::NAN; q.len()];
        self.kernels.store_kv(&self.arena, LAYER, &ragged, &k, &v).expect("free pages");
        let (heads, window) = (self.shape.heads(), self.shape.window);
        let heads = AttentionHeads { heads, scale: self.shape.scale(), window };
        self.kernels
            .attention(
                &mut self.pool,
                &self.arena,
                LAYER,
                &ragged,
                heads,
                &q,
                &mut out,
                &mut self.scratch,
            )
            .expect("readable pages");
        let mut rows = out.as_slice();
        for &(index, tokens) in parts {
            let (mine, rest) = rows.split_at(tokens * width);
            self.out[index].extend(mine);
            self.done[index] += tokens;
            rows = rest;
        }
    }
}

/// Every sequence in one step of its own.
fn whole(shape: Shape, isa: Isa, sequences: &[Sequence]) -> Vec<Vec<f32>> {
    let mut cache = Cache::new(&mut Random(0), shape, isa, 1, sequences);
    for (index, sequence) in sequences.iter().enumerate() {
        cache.step(sequences, &[(index, sequence.tokens)]);
    }
    cache.out
}

/// Sequences together in random steps: chunks of any size, any companions, single tokens too.
fn ragged(
    random: &mut Random,
    shape: Shape,
    isa: Isa,
    threads: usize,
    sequences: &[Sequence],
) -> Vec<Vec<f32>> {
    let mut cache = Cache::new(random, shape, isa, threads, sequences);
    let mut chunks: Vec<Vec<usize>> = sequences.iter().map(|s| random.parts(s.tokens)).collect();
    while chunks.iter().any(|chunks| !chunks.is_empty()) {
        let mut parts = Vec::new();
        for index in random.shuffled(sequences.len() as u32) {
            let chunks = &mut chunks[index as usize];
            if random.below(4) > 0 {
                parts.extend(chunks.pop().map(|tokens| (index as usize, tokens)));
            }
        }
        cache.step(sequences, &parts);
    }
    cache.out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// same-tokens: a token's attention depends on its own position and on the keys and values
    /// that it sees, not on the chunks, the companions, the blocks, the threads, the instruction set
    /// or the block size.
    #[test]
    fn attention_depends_on_its_own_position_alone(
        shape in shape(),
        other_slots in 1..17_u32,
        lengths in prop::collection::vec(1..600_usize, 1..4),
        threads in 1..5_usize,
        seed: u64,
    ) {
        let random = &mut Random(seed);
        let sequences: Vec<_> =
            lengths.iter().map(|&tokens| Sequence::random(random, shape, tokens)).collect();
        let expected = whole(shape, Isa::best(), &sequences);
        for isa in Isa::available().into_iter().filter(|&isa| isa != Isa::Portable) {
            let other_blocks = Shape { block_tokens: other_slots * 16, ..shape };
            for shape in [shape, other_blocks] {
                let given = ragged(random, shape, isa, threads, &sequences);
                for (index, (given, expected)) in given.iter().zip(&expected).enumerate() {
                    let difference = difference(given, expected);
                    prop_assert_eq!(difference, None, "sequence {}, {:?}", index, isa);
                }
            }
        }
    }

    /// The portable lanes define the bits; fewer tokens, for they are slow.
    #[test]
    fn attention_is_the_portable_one_to_the_bit(
        shape in shape(),
        tokens in 1..60_usize,
        seed: u64,
    ) {
        let random = &mut Random(seed);
        let sequences = [Sequence::random(random, shape, tokens)];
        let expected = whole(shape, Isa::Portable, &sequences);
        for isa in Isa::available() {
            let given = ragged(random, shape, isa, 2, &sequences);
            prop_assert_eq!(difference(&given[0], &expected[0]), None, "{:?}", isa);
        }
    }

    /// Within 2e-5 of softmax in double precision (values up to 3).
    #[test]
    fn attention_is_right(shape in shape(), tokens in 1..700_usize, seed: u64) {
        let sequence = Sequence::random(&mut Random(seed), shape, tokens);
        let out = whole(shape, Isa::best(), std::slice::from_ref(&sequence));
        let head_dim = shape.head_dim as usize;
        let rows = |x: &[f32], head: usize| -> Vec<Vec<f32>> {
            x.chunks_exact(shape.kv_width())
                .map(|row| row[head * head_dim..][..head_dim].iter().map(|&x| shape.rounded(x)))
                .map(Iterator::collect)
                .collect()
        };
        for head in 0..shape.heads() as usize {
            let kv_head = head / shape.group as usize;
            let (keys, values) = (rows(&sequence.k, kv_head), rows(&sequence.v, kv_head));
            // The first, the last and a few positions in between.
            for position in [0, tokens / 3, tokens * 2 / 3, tokens - 1] {
                let at = position * shape.width() + head * head_dim;
                let q = &sequence.q[at..][..head_dim];
                let seen = shape.first_seen(position)..position + 1;
                let truth = attention_f64(q, &keys[seen.clone()], &values[seen]);
                for (out, truth) in out[0][at..][..head_dim].iter().zip(truth) {
                    prop_assert!(
                        (f64::from(*out) - truth).abs() <= 2e-5,
                        "{} against {} at {} of {}", out, truth, position, tokens
                    );
                }
            }
        }
    }
}

/// What a window hides may be anything: a row's attention doesn't depend on it.
#[test]
fn what_a_window_hides_changes_nothing() {
    let window = Some(20);
    let shape = Shape {
        kv_heads: 1,
        group: 2,
        head_dim: 32,
        block_tokens: 16,
        dtype: KvDtype::F32,
        window,
    };
    let sequence = Sequence::random(&mut Random(5), shape, 300);
    let mut spoiled = Sequence::random(&mut Random(5), shape, 300);
    let hidden = shape.first_seen(299) * shape.kv_width();
    spoiled.k[..hidden].fill(f32::NAN);
    spoiled.v[..hidden].fill(f32::NAN);
    for isa in Isa::available() {
        let [clean, spoiled] = [&sequence, &spoiled].map(|sequence| {
            let out = whole(shape, isa, std::slice::from_ref(sequence)).remove(0);
            out[299 * shape.width()..].to_vec()
        });
        assert_eq!(difference(&spoiled, &clean), None, "{isa:?}");
    }
}

/// A page that somebody else holds is refused by name, and nothing stays locked.
#[test]
fn a_busy_page_is_refused_and_no_lock_is_left() {
    let shape = Shape {
        kv_heads: 1,
        group: 1,
        head_dim: 16,
        block_tokens: 16,
        dtype: KvDtype::F16,
        window: None,
    };
    let random = &mut Random(3);
    let sequence = Sequence::random(random, shape, 40);
    let mut cache = Cache::new(random, shape, Isa::best(), 2, std::slice::from_ref(&sequence));
    let ragged =
        [AttentionSequence { blocks: &cache.tables[0], start: 0, tokens: 40, first_row: 0 }];
    let heads = AttentionHeads { heads: 1, scale: 0.25, window: None };
    let mut out = vec![0.0; sequence.q.len()];
    let last = cache.tables[0][2];
    {
        let _read = cache.arena.read(LAYER, last).expect("free");
        assert!(
            cache.kernels.store_kv(&cache.arena, LAYER, &ragged, &sequence.k, &sequence.v).is_err()
        );
    }
    let written = cache.arena.write(LAYER, last).expect("free");
    let refused = cache.kernels.attention(
        &mut cache.pool,
        &cache.arena,
        LAYER,
        &ragged,
        heads,
        &sequence.q,
        &mut out,
        &mut cache.scratch,
    );
    assert!(refused.is_err());
    drop(written);
    for &block in &cache.tables[0] {
        assert!(cache.arena.write(LAYER, block).is_ok(), "{block:?} is still locked");
    }
}
