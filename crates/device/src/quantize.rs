//! Activations rounded to int8, so that products with quantised weights are exact integers.

use crate::simd::{Kernel, LANES, Simd};

/// Inputs that share one scale.
pub const QUANT_BLOCK: usize = 32;

/// Rows of activations, each 32-block rounded to `d · q`: `d = amax/127`,
/// `q = round_ties_even(x · 127/amax)`. A block with NaN or infinity has `d = NaN` and `q = 0`, so
/// that every output it touches is NaN. The rows themselves are kept beside, for float
/// weights, unless they were made [`Activations::rounded`].
#[derive(Clone, Debug, Default)]
pub struct Activations {
    cols: usize,
    rows: usize,
    rounded: bool,
    /// `[rows][cols]`, or nothing.
    pub(crate) values: Vec<f32>,
    /// `[rows][cols]`, in fours.
    pub(crate) quants: Vec<[i8; 4]>,
    /// `[rows][cols / 32]`.
    pub(crate) blocks: Vec<BlockScale>,
}

/// What a product needs of one 32-block besides its quants.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BlockScale {
    /// `d`.
    pub(crate) scale: f32,
    /// `d · Σ q`, for formats with a minimum.
    pub(crate) scaled_sum: f32,
    /// `Σ q` of either half, for formats with a zero point.
    pub(crate) half_sums: [i32; 2],
}

impl Activations {
    /// For products with quantised weights only: rows that are whole blocks aren't kept as they were given.
    pub fn rounded() -> Self {
        Activations { rounded: true, ..Activations::default() }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Makes room for `rows` rows of `cols`; allocates only beyond what it has held before.
    pub(crate) fn resize(&mut self, rows: usize, cols: usize) {
        (self.rows, self.cols) = (rows, cols);
        let quantised = cols.is_multiple_of(QUANT_BLOCK);
        self.values.resize(if self.rounded && quantised { 0 } else { rows * cols }, 0.0);
        self.quants.resize(if quantised { rows * cols / 4 } else { 0 }, [0; 4]);
        self.blocks
            .resize(if quantised { rows * cols / QUANT_BLOCK } else { 0 }, BlockScale::default());
    }

    /// Whether rows are kept as they were given.
    pub(crate) fn has_values(&self) -> bool {
        self.values.len() == self.rows * self.cols
    }

    /// A row as it was given.
    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..][..self.cols]
    }
}

/// Some rows, and where of an [`Activations`] they go: values are empty if they aren't kept, quants and blocks if rows
/// aren't whole blocks.
pub(crate) struct Quantize<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) values: &'a mut [f32],
    pub(crate) quants: &'a mut [[i8; 4]],
    pub(crate) blocks: &'a mut [BlockScale],
}

impl Kernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Quantize { x, values, quants, blocks } = self;
        if !values.is_empty() {
            values.copy_from_slice(x);
        }
        let quants = quants.chunks_exact_mut(QUANT_BLOCK / 4);
        let x = x.as_chunks::<LANES>().0.as_chunks::<2>().0;
        for ((x, quants), block) in x.iter().zip(quants).zip(blocks) {
            *block = quantize_block(s, x, quants);
        }
    }
}

#[inline(always)]
fn quantize_block<S: Simd>(s: S, x: &[[f32; LANES]; 2], quants: &mut [[i8; 4]]) -> BlockScale {
    let halves = [s.load(&x[0]), s.load(&x[1])];
    let amax = s.largest(s.max(size(s, halves[0]), size(s, halves[1])));
    if amax == 0.0 || !amax.is_finite() {
        quants.fill([0; 4]);
        let scale = if amax == 0.0 { 0.0 } else { f32::NAN };
        return BlockScale { scale, scaled_sum: scale, half_sums: [0; 2] };
    }
    let inverse = s.splat((127.0 / amax).min(f32::MAX));
    let mut half_sums = [0; 2];
    let outs = quants.as_chunks_mut::<4>().0;
    for ((x, quants), sum) in halves.into_iter().zip(outs).zip(&mut half_sums) {
        // A subnormal amax makes an inverse too large to be a float; the clamp keeps q in range.
        let q = s.round(s.mul(x, inverse));
        let q = s.max(s.splat(-127.0), s.min(s.splat(127.0), q));
        let bytes = s.to_bytes(q);
        *sum = s.sum_bytes(&bytes);
        quants.copy_from_slice(bytes.as_chunks::<4>().0);
    }
    let scale = amax / 127.0;
    BlockScale { scale, scaled_sum: scale * (half_sums[0] + half_sums[1]) as f32, half_sums }
}

/// `|x|`, infinite for NaN.
#[inline(always)]
fn size<S: Simd>(s: S, x: S::F) -> S::F {
    let size = s.max(x, s.sub(s.splat(0.0), x));
    // Only what is finite compares as less.
    s.select_less(size, s.splat(f32::INFINITY), size, s.splat(f32::INFINITY))
}
