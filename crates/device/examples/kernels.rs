//! How fast are the kernels on this machine?
//!
//! `cargo run --release -p baton-device --example kernels [threads] [isa]` prints one line a kernel
//! in the shapes of SmolLM2-135M (Q4_1, embedding Q8_0) and for every format, then whole steps of
//! such a model with random weights. Every number is the best of several runs.

#![allow(clippy::print_stdout, reason = "it is what the program is for")]

use std::{hint::black_box, time::Instant};

use baton_device::{
    Activation, Activations, Arena, AttentionHeads, AttentionScratch, AttentionSequence, Format,
    Isa, Kernels, Matrix, ThreadPool, math,
};
use baton_types::{BlockId, KvDtype, KvLayout};
use half::{bf16, f16};

const LAYERS: u32 = 30;
const HIDDEN: usize = 576;
const FFN: usize = 1536;
const VOCAB: usize = 49_152;
const HEADS: u32 = 9;
const KV_HEADS: u32 = 3;
const HEAD_DIM: usize = 64;
const KV: usize = KV_HEADS as usize * HEAD_DIM;
const CONTEXT: usize = 4096;
const BLOCK_TOKENS: u32 = 16;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().map_or(2, |n| n.parse().expect("a number of threads"));
    let isa = arguments.next().map_or(Isa::best(), |isa| isa.parse().expect("portable, avx2, …"));
    println!("{threads} threads, {isa}");
    let mut machine = Machine::new(threads, isa);
    machine.products();
    machine.rest();
    machine.steps();
}

/// The best of several runs, in seconds.
fn best(runs: usize, mut run: impl FnMut()) -> f64 {
    (0..runs)
        .map(|_| {
            let begin = Instant::now();
            run();
            begin.elapsed().as_secs_f64()
        })
        .fold(f64::MAX, f64::min)
}

fn noise(n: usize) -> Vec<f32> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Random weights small enough that no activation overflows.
fn matrix(format: Format, rows: usize, cols: usize) -> Matrix {
    let values = || noise(rows * cols).into_iter();
    let data = match format {
        Format::F32 => values().flat_map(f32::to_le_bytes).collect(),
        Format::F16 => values().flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
        Format::BF16 => values().flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
        _ => quantised(format, rows * cols),
    };
    Matrix::pack(format, rows, cols, &data).expect("a valid shape")
}

fn quantised(format: Format, elements: usize) -> Vec<u8> {
    let (block, block_bytes) = format.block();
    let mut data = vec![0_u8; elements / block * block_bytes];
    for (i, byte) in data.iter_mut().enumerate() {
        *byte = (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[2];
    }
    let (scale, minimum) = ([0x00, 0x14], [0x00, 0x9c]);
    for block in data.chunks_exact_mut(block_bytes) {
        let at = if format == Format::Q6_K { 208 } else { 0 };
        block[at..at + 2].copy_from_slice(&scale);
        if matches!(format, Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K) {
            block[2..4].copy_from_slice(&minimum);
        }
    }
    data
}

struct Machine {
    pool: ThreadPool,
    kernels: Kernels,
    scratch: AttentionScratch,
    arena: Arena,
    blocks: Vec<BlockId>,
    table: Vec<(f32, f32)>,
}

impl Machine {
    fn new(threads: usize, isa: Isa) -> Self {
        let layout = KvLayout {
            layers: LAYERS,
            kv_heads: KV_HEADS,
            head_dim: HEAD_DIM as u32,
            block_tokens: BLOCK_TOKENS,
            dtype: KvDtype::F16,
        };
        let blocks = CONTEXT as u32 / BLOCK_TOKENS;
        let table = (0..CONTEXT).flat_map(|position| {
            (0..HEAD_DIM / 2).map(move |i| {
                let frequency = math::powf(10_000.0, -2.0 * i as f64 / HEAD_DIM as f64);
                let (sin, cos) = math::sin_cos(position as f64 * frequency);
                (cos as f32, sin as f32)
            })
        });
        Machine {
            pool: ThreadPool::new(threads),
            kernels: Kernels::new(isa).expect("available on this CPU"),
            scratch: AttentionScratch::default(),
            arena: Arena::new(layout, blocks).expect("memory for a small arena"),
            // Pages in use are scattered.
            blocks: (0..blocks).map(|i| BlockId(i * 37 % blocks)).collect(),
            table: table.collect(),
        }
    }

    fn products(&mut self) {
        let own = [
            (Format::Q4_1, HIDDEN, HIDDEN),
            (Format::Q4_1, FFN, HIDDEN),
            (Format::Q4_1, HIDDEN, FFN),
            (Format::Q8_0, VOCAB, HIDDEN),
        ];
        // Every format in rows of whole K blocks.
        let all = Format::ALL.map(|format| (format, FFN, FFN));
        for (format, rows, cols) in own.into_iter().chain(all) {
            // As many matrices as a model has, so that decode streams them from where it would.
            let one = matrix(format, rows, cols);
            let matrices = vec![one; 60_000_000 / (rows * cols) + 1];
            for n in [1, 2, 4, 8, 512] {
                let mut x = Activations::default();
                self.kernels.quantize(&noise(n * cols), cols, &mut x);
                let mut out = vec![0.0; n * rows];
                // Short runs through all of them: some fall between other programs' time slices.
                let mut next = matrices.iter().cycle();
                let each = (2_000_000 / (n * rows * cols)).clamp(1, 8);
                let seconds = best(40 / n.min(10), || {
                    for matrix in next.by_ref().take(each) {
                        self.kernels.matmul(&mut self.pool, matrix, &x, &mut out);
                    }
                    black_box(&mut out);
                }) / each as f64;
                println!(
                    "{format:?} {rows:>5} × {cols:>4}, {n:>3} rows: {:>8.1} µs {:>6.0} GOP/s {:>5.1} GB/s",
                    seconds * 1e6,
                    2.0 * (n * rows * cols) as f64 / seconds / 1e9,
                    matrices[0].bytes() as f64 / seconds / 1e9,
                );
            }
        }
    }

    fn rest(&mut self) {
        let n = 512;
        let (kernels, mut x) = (self.kernels, Activations::default());
        let (hidden, weight) = (noise(n * HIDDEN), noise(HIDDEN));
        let (mut out, mut wide, up) = (vec![0.0; n * HIDDEN], noise(n * FFN), noise(n * FFN));
        let line = |name: &str, seconds: f64| println!("{name:<40} {:>8.1} µs", seconds * 1e6);
        line("quantise 512 × 576", best(9, || kernels.quantize(&hidden, HIDDEN, &mut x)));
        line("quantise 512 × 1536", best(9, || kernels.quantize(&up, FFN, &mut x)));
        line("norm 512 × 576", best(9, || kernels.rms_norm(&hidden, &weight, 1e-5, &mut out)));
        line("silu 512 × 1536", best(9, || kernels.gate_mul(Activation::Silu, &mut wide, &up)));
        line("add 512 × 576", best(9, || kernels.add(&mut out, &hidden)));
        let positions: Vec<u32> = (0..n as u32).collect();
        line(
            "rope 512 × 9 heads",
            best(9, || {
                kernels.rope(&mut out, HEADS as usize, HEAD_DIM, &positions, &self.table);
            }),
        );
        for (tokens, start) in [(512, 0), (512, 1536), (1, 511), (1, 2047)] {
            let sequence =
                [AttentionSequence { blocks: &self.blocks, start, tokens, first_row: 0 }];
            let (q, kv) = (noise(tokens as usize * HIDDEN), noise(tokens as usize * KV));
            let mut out = vec![0.0; q.len()];
            // Layer after layer, as in a step: no layer's pages are still in the caches.
            let mut layers = (0..LAYERS).cycle();
            let stored = best(60, || {
                let layer = layers.next().expect("a cycle");
                kernels.store_kv(&self.arena, layer, &sequence, &kv, &kv).expect("free pages");
            });
            line(&format!("store {tokens} tokens at {start}"), stored);
            let heads = AttentionHeads { heads: HEADS, scale: 0.125, window: None };
            let (arena, pool, scratch) = (&self.arena, &mut self.pool, &mut self.scratch);
            let attended = best(if tokens == 1 { 120 } else { 30 }, || {
                let layer = layers.next().expect("a cycle");
                kernels
                    .attention(pool, arena, layer, &sequence, heads, &q, &mut out, scratch)
                    .expect("free pages");
            });
            line(&format!("attention of {tokens} tokens at {start}"), attended);
        }
        line(
            "200 empty parallel regions",
            best(9, || {
                for _ in 0..200 {
                    self.pool.run(8, &|task| {
                        black_box(task);
                    });
                }
            }),
        );
    }

    fn steps(&mut self) {
        let model = Model::random();
        for (tokens, start, name) in [
            (512, 0, "prefill of 512 tokens at 0"),
            (512, 1536, "prefill of 512 tokens at 1536"),
            (1, 128, "decode at 128"),
            (1, 2047, "decode at 2047"),
        ] {
            let seconds = best(7, || model.step(self, tokens, start));
            println!("{name:<40} {:>8.2} ms {:>6.0} tok/s", seconds * 1e3, tokens as f64 / seconds);
        }
    }
}

struct Layer {
    q: Matrix,
    k: Matrix,
    v: Matrix,
    o: Matrix,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

/// SmolLM2-135M's shapes.
struct Model {
    layers: Vec<Layer>,
    output: Matrix,
    norm: Vec<f32>,
}

impl Model {
    fn random() -> Self {
        let q4 = |rows, cols| matrix(Format::Q4_1, rows, cols);
        let layers = (0..LAYERS).map(|_| Layer {
            q: q4(HIDDEN, HIDDEN),
            k: q4(KV, HIDDEN),
            v: q4(KV, HIDDEN),
            o: q4(HIDDEN, HIDDEN),
            gate: q4(FFN, HIDDEN),
            up: q4(FFN, HIDDEN),
            down: q4(HIDDEN, FFN),
        });
        Model {
            layers: layers.collect(),
            output: matrix(Format::Q8_0, VOCAB, HIDDEN),
            norm: vec![1.0; HIDDEN],
        }
    }

    /// One sequence's step: `tokens` rows through all layers, the last one to logits.
    fn step(&self, machine: &mut Machine, tokens: usize, start: u32) {
        let Machine { pool, kernels, scratch, arena, blocks, table } = machine;
        let (n, eps) = (tokens, 1e-5);
        let sequence = [AttentionSequence { blocks, start, tokens: tokens as u32, first_row: 0 }];
        let heads = AttentionHeads { heads: HEADS, scale: 0.125, window: None };
        let positions: Vec<u32> = (start..start + tokens as u32).collect();
        let mut residual = noise(n * HIDDEN);
        let mut activations = Activations::default();
        let row = || vec![0.0; n * HIDDEN];
        let (mut normed, mut q, mut attended, mut added) = (row(), row(), row(), row());
        let (mut k, mut v) = (vec![0.0; n * KV], vec![0.0; n * KV]);
        let (mut gate, mut up) = (vec![0.0; n * FFN], vec![0.0; n * FFN]);
        for (index, layer) in (0..).zip(&self.layers) {
            kernels.rms_norm(&residual, &self.norm, eps, &mut normed);
            kernels.quantize(&normed, HIDDEN, &mut activations);
            kernels.matmul(pool, &layer.q, &activations, &mut q);
            kernels.matmul(pool, &layer.k, &activations, &mut k);
            kernels.matmul(pool, &layer.v, &activations, &mut v);
            kernels.rope(&mut q, HEADS as usize, HEAD_DIM, &positions, table);
            kernels.rope(&mut k, KV_HEADS as usize, HEAD_DIM, &positions, table);
            kernels.store_kv(arena, index, &sequence, &k, &v).expect("free pages");
            kernels
                .attention(pool, arena, index, &sequence, heads, &q, &mut attended, scratch)
                .expect("free pages");
            kernels.quantize(&attended, HIDDEN, &mut activations);
            kernels.matmul(pool, &layer.o, &activations, &mut added);
            kernels.add(&mut residual, &added);
            kernels.rms_norm(&residual, &self.norm, eps, &mut normed);
            kernels.quantize(&normed, HIDDEN, &mut activations);
            kernels.matmul(pool, &layer.gate, &activations, &mut gate);
            kernels.matmul(pool, &layer.up, &activations, &mut up);
            kernels.gate_mul(Activation::Silu, &mut gate, &up);
            kernels.quantize(&gate, FFN, &mut activations);
            kernels.matmul(pool, &layer.down, &activations, &mut added);
            kernels.add(&mut residual, &added);
        }
        let last = &residual[(n - 1) * HIDDEN..];
        kernels.rms_norm(last, &self.norm, eps, &mut normed[..HIDDEN]);
        kernels.quantize(&normed[..HIDDEN], HIDDEN, &mut activations);
        let mut logits = vec![0.0; VOCAB];
        kernels.matmul(pool, &self.output, &activations, &mut logits);
        black_box(logits);
    }
}
