use baton_device::{Activation, Activations, Format, Isa, Kernels, Matrix, ThreadPool};
use proptest::prelude::*;

use crate::{random::Random, reference::difference};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// same-tokens: rows that several threads share out are what one computes alone, to the bit.
    #[test]
    fn threads_change_no_bit(n in 1..90_usize, heads in 1..10_usize, threads in 1..5_usize, seed: u64) {
        const HEAD_DIM: usize = 64;
        let (random, width) = (&mut Random(seed), heads * HEAD_DIM);
        let (x, y) = (random.values(n * width), random.values(n * width));
        let weight = random.values(width);
        let positions: Vec<u32> = (0..n as u32).rev().collect();
        let table: Vec<_> = (0..n * HEAD_DIM / 2).map(|i| ((i as f32).cos(), (i as f32).sin())).collect();
        let matrix = Matrix::pack(Format::F32, 1, width, &vec![0x3e; 4 * width]).unwrap();
        let kernels = Kernels::new(Isa::best()).unwrap();
        let mut pool = ThreadPool::new(threads);

        let (mut alone, mut shared) = (x.clone(), x.clone());
        kernels.rms_norm(&x, &weight, 1e-5, &mut alone);
        kernels.on(&mut pool).rms_norm(&x, &weight, 1e-5, &mut shared);
        prop_assert_eq!(difference(&shared, &alone), None, "norm");
        kernels.gate_mul(Activation::Silu, &mut alone, &y);
        kernels.on(&mut pool).gate_mul(Activation::Silu, width, &mut shared, &y);
        prop_assert_eq!(difference(&shared, &alone), None, "gate");
        kernels.add(&mut alone, &y);
        kernels.on(&mut pool).add(width, &mut shared, &y);
        prop_assert_eq!(difference(&shared, &alone), None, "sum");
        kernels.rope(&mut alone, heads, HEAD_DIM, &positions, &table);
        kernels.on(&mut pool).rope(&mut shared, heads, HEAD_DIM, &positions, &table);
        prop_assert_eq!(difference(&shared, &alone), None, "positions");

        let (mut ours, mut theirs) = (Activations::default(), Activations::default());
        kernels.quantize(&alone, width, &mut ours);
        kernels.on(&mut pool).quantize(&shared, width, &mut theirs);
        prop_assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "rounded");
        let (mut out, mut other) = (vec![0.0; n], vec![1.0; n]);
        kernels.matmul(&mut pool, &matrix, &ours, &mut out);
        kernels.matmul(&mut pool, &matrix, &theirs, &mut other);
        prop_assert_eq!(difference(&out, &other), None, "values");
    }
}
