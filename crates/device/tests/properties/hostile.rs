//! Whatever the numbers are, kernels return, and agree: a broken model must not take a node down.

use baton_device::{
    Activation, Activations, Arena, AttentionHeads, AttentionScratch, AttentionSequence, Format,
    Isa, Kernels, Matrix, ThreadPool, math,
};
use baton_types::{BlockId, KvDtype, KvLayout};
use proptest::prelude::*;

use crate::{
    random::Random,
    reference::{difference, row_bytes},
};

proptest! {
    #[test]
    fn any_bits_give_the_same_products(
        format in prop::sample::select(Format::ALL.as_slice()),
        n in 1..10_usize,
        seed: u64,
    ) {
        let (rows, cols) = (20, 256);
        let random = &mut Random(seed);
        let data: Vec<u8> = match format {
            Format::F32 => (0..rows * cols).flat_map(|_| random.wild().to_le_bytes()).collect(),
            _ => (0..rows * row_bytes(format, cols)).map(|_| random.bits() as u8).collect(),
        };
        let matrix = Matrix::pack(format, rows, cols, &data).expect("a valid shape");
        let x = if random.below(2) == 0 { random.wild_values(n * cols) } else { random.values(n * cols) };
        let mut expected: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let kernels = Kernels::new(isa).expect("available");
            let (mut activations, mut out) = (Activations::default(), vec![0.0; n * rows]);
            kernels.quantize(&x, cols, &mut activations);
            kernels.matmul(&mut ThreadPool::new(2), &matrix, &activations, &mut out);
            let expected = expected.get_or_insert_with(|| out.clone());
            prop_assert_eq!(difference(&out, expected), None, "{:?}", isa);
        }
    }

    #[test]
    fn any_bits_give_the_same_elementwise_results(len in 1..80_usize, seed: u64) {
        let random = &mut Random(seed);
        let (x, y) = (random.wild_values(2 * len), random.wild_values(2 * len));
        let mut expected: Option<[Vec<f32>; 5]> = None;
        for isa in Isa::available() {
            let kernels = Kernels::new(isa).expect("available");
            let (mut norm, mut silu, mut gelu, mut rope, mut sum) =
                (vec![0.0; 2 * len], x.clone(), x.clone(), x.clone(), x.clone());
            kernels.rms_norm(&x, &y, 1e-5, &mut norm);
            kernels.gate_mul(Activation::Silu, &mut silu, &y);
            kernels.gate_mul(Activation::GeluTanh, &mut gelu, &y);
            kernels.rope(&mut rope, 1, 2 * len, &[0], &vec![(0.6, 0.8); len]);
            kernels.add(&mut sum, &y);
            let given = [norm, silu, gelu, rope, sum];
            let expected = expected.get_or_insert_with(|| given.clone());
            for (given, expected) in given.iter().zip(expected) {
                prop_assert_eq!(difference(given, expected), None, "{:?}", isa);
            }
        }
    }

    #[test]
    fn any_bits_give_the_same_attention(
        tokens in 1..40_usize,
        f16: bool,
        window in prop::option::of(1..40_u32),
        seed: u64,
    ) {
        let random = &mut Random(seed);
        let dtype = if f16 { KvDtype::F16 } else { KvDtype::F32 };
        let layout = KvLayout { layers: 1, kv_heads: 1, head_dim: 32, block_tokens: 16, dtype };
        let blocks: Vec<BlockId> = random.shuffled(3).into_iter().map(BlockId).collect();
        let (q, k, v) = (
            random.wild_values(tokens * 64),
            random.wild_values(tokens * 32),
            random.wild_values(tokens * 32),
        );
        let sequence =
            AttentionSequence { blocks: &blocks, start: 0, tokens: tokens as u32, first_row: 0 };
        let mut expected: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let kernels = Kernels::new(isa).expect("available");
            let arena = Arena::new(layout, 3).expect("a small arena");
            let mut out = vec![0.0; q.len()];
            kernels.store_kv(&arena, 0, &[sequence], &k, &v).expect("free pages");
            kernels
                .attention(
                    &mut ThreadPool::new(2),
                    &arena,
                    0,
                    &[sequence],
                    AttentionHeads { heads: 2, scale: 0.1, window },
                    &q,
                    &mut out,
                    &mut AttentionScratch::default(),
                )
                .expect("free pages");
            let expected = expected.get_or_insert_with(|| out.clone());
            prop_assert_eq!(difference(&out, expected), None, "{:?}", isa);
        }
    }

    #[test]
    fn math_takes_anything(seed: u64) {
        let random = &mut Random(seed);
        for _ in 0..100 {
            let (x, y) = (f64::from_bits(random.bits()), f64::from_bits(random.bits()));
            let e = math::exp(random.wild());
            prop_assert!(e.is_nan() || e >= 0.0);
            let _ = (math::sin_cos(x), math::ln(x), math::exp_f64(x), math::powf(x, y));
        }
    }
}
