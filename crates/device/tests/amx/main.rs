//! AMX's products, on real tiles or on [`emulator`]'s: the same bits as everyone's.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod emulator;
#[allow(dead_code, reason = "it is the other tests', too")]
#[path = "../properties/random.rs"]
mod random;
#[allow(dead_code, reason = "it is the other tests', too")]
#[path = "../properties/reference.rs"]
mod reference;

use baton_device::{Activations, Format, Isa, Kernels, Matrix, ThreadPool};
use proptest::prelude::*;
use random::Random;
use reference::{difference, dot, random_matrix, row_bytes};

/// Kernels with tiles, the CPU's or emulated ones.
fn kernels() -> Kernels {
    Kernels::new(Isa::Amx).unwrap_or_else(|_| {
        assert!(
            Isa::available().contains(&Isa::Avx512),
            "AMX's kernels need AVX-512, which this CPU lacks: it has {:?}",
            Isa::available()
        );
        emulator::install();
        // SAFETY: the CPU has the rest, and tiles are emulated from now on.
        unsafe { Kernels::assume(Isa::Amx) }
    })
}

fn quantised() -> impl Strategy<Value = Format> {
    let formats: Vec<_> = Format::ALL.into_iter().filter(|&format| format.block().0 > 1).collect();
    prop::sample::select(formats)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// same-tokens: with any number of rows, whole tiles or not, and more inputs than are unpacked at a time.
    #[test]
    fn products_in_tiles_are_the_contract_to_the_bit(
        format in quantised(),
        rows in 1..50_usize,
        kilo in 1..6_usize,
        rest in 0..4_usize,
        n in 1..40_usize,
        threads in 1..4_usize,
        seed: u64,
    ) {
        let (kernels, random) = (kernels(), &mut Random(seed));
        let cols = (kilo * 256 + rest * 32).next_multiple_of(format.block().0);
        let data = random_matrix(random, format, rows, cols);
        let matrix = Matrix::pack(format, rows, cols, &data).expect("a valid shape");
        let x = random.values(n * cols);
        let mut activations = Activations::rounded();
        kernels.quantize(&x, cols, &mut activations);
        let mut out = vec![f32::NAN; n * rows];
        kernels.matmul(&mut ThreadPool::new(threads), &matrix, &activations, &mut out);
        let expected: Vec<f32> = x
            .chunks_exact(cols)
            .flat_map(|x| data.chunks_exact(row_bytes(format, cols)).map(|row| dot(format, row, x)))
            .collect();
        prop_assert_eq!(difference(&out, &expected), None);
        // Fewer rows than are worth a tile are the vectors'.
        if n >= 9 {
            prop_assert!(emulator::products() != Some(0), "no tile was used");
        }
    }

    /// same-tokens: whatever the bits are, NaN and infinity among them, as the vectors make them.
    #[test]
    fn any_bits_give_the_same_products_in_tiles(format in quantised(), n in 9..20_usize, seed: u64) {
        let (kernels, random, (rows, cols)) = (kernels(), &mut Random(seed), (20, 256));
        let data: Vec<u8> =
            (0..rows * row_bytes(format, cols)).map(|_| random.bits() as u8).collect();
        let matrix = Matrix::pack(format, rows, cols, &data).expect("a valid shape");
        let x = random.wild_values(n * cols);
        let product = |kernels: Kernels| {
            let (mut activations, mut out) = (Activations::rounded(), vec![0.0; n * rows]);
            kernels.quantize(&x, cols, &mut activations);
            kernels.matmul(&mut ThreadPool::new(2), &matrix, &activations, &mut out);
            out
        };
        let expected = product(Kernels::new(Isa::Portable).expect("everywhere"));
        prop_assert_eq!(difference(&product(kernels), &expected), None);
    }
}
