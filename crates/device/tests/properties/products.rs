use baton_device::{Activations, Format, Isa, Kernels, Matrix, ThreadPool};
use proptest::prelude::*;

use crate::{
    random::Random,
    reference::{
        dequantise, difference, dot, halves, is_quantised, random_matrix, rounded, row_bytes,
    },
};

fn format() -> impl Strategy<Value = Format> {
    prop::sample::select(Format::ALL.as_slice())
}

/// `rows` × `cols`, with columns the format can hold.
fn shape(format: Format) -> impl Strategy<Value = (Format, usize, usize)> {
    let (block, _) = format.block();
    let cols = match block {
        1 => (1..200_usize).boxed(),
        _ => (1..1 + 768 / block).prop_map(move |blocks| blocks * block).boxed(),
    };
    (Just(format), 1..100_usize, cols)
}

/// `[n][rows]` products of `x`, `[n][cols]`.
fn product(isa: Isa, threads: usize, matrix: &Matrix, x: &[f32]) -> Vec<f32> {
    let kernels = Kernels::new(isa).expect("an available instruction set");
    let mut activations = Activations::default();
    kernels.quantize(x, matrix.cols(), &mut activations);
    let mut out = vec![f32::NAN; x.len() / matrix.cols() * matrix.rows()];
    kernels.matmul(&mut ThreadPool::new(threads), matrix, &activations, &mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// same-tokens: a product is the contract's, to the bit, on every instruction set, with any
    /// number of threads and any number of rows beside it.
    #[test]
    fn products_are_the_contract_to_the_bit(
        (format, rows, cols) in format().prop_flat_map(shape),
        n in 1..21_usize,
        threads in 1..5_usize,
        seed: u64,
    ) {
        let random = &mut Random(seed);
        let data = random_matrix(random, format, rows, cols);
        let matrix = Matrix::pack(format, rows, cols, &data).expect("a valid shape");
        let x = random.values(n * cols);
        let expected: Vec<f32> = x
            .chunks_exact(cols)
            .flat_map(|x| data.chunks_exact(row_bytes(format, cols)).map(|row| dot(format, row, x)))
            .collect();
        for isa in Isa::available() {
            let whole = product(isa, threads, &matrix, &x);
            prop_assert_eq!(difference(&whole, &expected), None, "{:?}", isa);
            let alone = product(isa, 1, &matrix, &x[..cols]);
            prop_assert_eq!(difference(&alone, &expected[..rows]), None, "{:?} alone", isa);
        }
    }

    /// What a packed matrix gives back is what went in.
    #[test]
    fn packed_rows_dequantise(
        (format, rows, cols) in format().prop_flat_map(shape),
        seed: u64,
    ) {
        let data = random_matrix(&mut Random(seed), format, rows, cols);
        let matrix = Matrix::pack(format, rows, cols, &data).expect("a valid shape");
        let mut out = vec![f32::NAN; cols];
        for (i, row) in data.chunks_exact(row_bytes(format, cols)).enumerate() {
            matrix.row(i, &mut out);
            for (given, expected) in out.iter().zip(dequantise(format, row)) {
                prop_assert!((given - expected).abs() <= 1e-6 * expected.abs().max(1.0));
            }
        }
    }

    /// A reused buffer forgets what it held, whatever the shapes before.
    #[test]
    fn activations_are_reusable(
        shapes in prop::collection::vec((1..6_usize, 1..6_usize), 1..6),
        seed: u64,
    ) {
        let random = &mut Random(seed);
        let kernels = Kernels::new(Isa::best()).expect("the best is available");
        let mut pool = ThreadPool::new(2);
        let mut reused = Activations::default();
        for (n, blocks) in shapes {
            let cols = blocks * 32;
            let data = random_matrix(random, Format::Q4_1, 20, cols);
            let matrix = Matrix::pack(Format::Q4_1, 20, cols, &data).expect("a valid shape");
            let x = random.values(n * cols);
            kernels.quantize(&x, cols, &mut reused);
            let mut out = vec![f32::NAN; n * 20];
            kernels.matmul(&mut pool, &matrix, &reused, &mut out);
            let fresh = product(Isa::best(), 1, &matrix, &x);
            prop_assert_eq!(difference(&out, &fresh), None);
        }
    }
}

/// One accumulator a block, all blocks long: the shapes of a real model, the extremes of the
/// integers, and no saturation anywhere.
#[test]
fn extreme_integers_are_exact() {
    let cols = 1536;
    for format in Format::ALL.into_iter().filter(|&format| is_quantised(format)) {
        for (weight, x) in [(0x80_u8, 1.0_f32), (0x80, -1.0), (0x7f, 1.0), (0xff, -1.0), (0, 1.0)] {
            let random = &mut Random(1);
            let mut data = vec![weight; 33 * row_bytes(format, cols)];
            for block in data.chunks_exact_mut(format.block().1) {
                for &at in halves(format) {
                    block[at..at + 2].copy_from_slice(&random.half().to_le_bytes());
                }
            }
            let matrix = Matrix::pack(format, 33, cols, &data).expect("a valid shape");
            let x = vec![x; 9 * cols];
            let expected: Vec<f32> = data
                .chunks_exact(row_bytes(format, cols))
                .map(|row| dot(format, row, &x[..cols]))
                .collect();
            for isa in Isa::available() {
                let out = product(isa, 2, &matrix, &x);
                for out in out.chunks_exact(33) {
                    assert_eq!(difference(out, &expected), None, "{format:?} {isa:?} {weight:#x}");
                }
            }
        }
    }
}

/// How far products are from those in f64, as a part of what outputs are (root mean squares): with activations as they
/// are, and as they are rounded.
#[test]
#[allow(clippy::print_stdout, reason = "it says what it found")]
fn errors_against_f64_are_those_of_rounding() {
    let (rows, cols, n) = (64, 1536, 16);
    for format in Format::ALL {
        let random = &mut Random(7);
        let data = random_matrix(random, format, rows, cols);
        let matrix = Matrix::pack(format, rows, cols, &data).expect("a valid shape");
        let x = random.values(n * cols);
        let out = product(Isa::best(), 2, &matrix, &x);
        let weights: Vec<_> =
            data.chunks_exact(row_bytes(format, cols)).map(|row| dequantise(format, row)).collect();
        let exact = |x: &[f64]| -> Vec<f64> {
            x.chunks_exact(cols)
                .flat_map(|x| {
                    weights
                        .iter()
                        .map(move |w| w.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum())
                })
                .collect()
        };
        let given: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        let taken = if is_quantised(format) { rounded(&x) } else { given.clone() };
        let size =
            |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let off = |exact: &[f64]| {
            let errors = &mut out.iter().zip(exact).map(|(out, exact)| f64::from(*out) - exact);
            size(errors) / size(&mut exact.iter().copied())
        };
        let (all, sums) = (off(&exact(&given)), off(&exact(&taken)));
        println!("{format:?}: {all:.1e}, of which the sums {sums:.1e}");
        assert!(sums < 1e-6, "{format:?}: {sums:e}");
        assert!(all < if is_quantised(format) { 0.02 } else { 1e-6 }, "{format:?}: {all:e}");
    }
}
