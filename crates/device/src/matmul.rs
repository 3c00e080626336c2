//! Products of activations and packed weights.

use crate::{
    matrix::{BYTE_ZERO_POINT, ByteBlock, Matrix, NibbleBlock, Packed},
    pool::ThreadPool,
    prefetch::prefetch,
    quantize::{Activations, BlockScale, QUANT_BLOCK},
    simd::{Kernel, LANES, Simd, load_padded, tree_sum},
};

/// One row of float activations.
pub(crate) struct Tail<'a>(pub(crate) &'a [f32]);

/// Row groups a task takes: enough work to be worth handing out, few enough to share evenly.
const TASK_GROUPS: usize = 4;
/// Blocks ahead of the one in work that decode asks the caches for: its weights come from memory,
/// and a block is done sooner than the next one arrives.
const BLOCKS_AHEAD: usize = 8;

/// A raw output that tasks write disjoint parts of.
#[derive(Clone, Copy)]
pub(crate) struct Output<T>(pub(crate) *mut T);
// SAFETY: tasks write disjoint parts; each use says which.
unsafe impl<T> Send for Output<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Output<T> {}

impl<T> Output<T> {
    /// # Safety
    ///
    /// `start..start + len` lies inside the allocation, and nobody else uses it meanwhile.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// Splits the product over `pool`; each task runs `dispatch` on its part.
pub(crate) fn matmul(
    pool: &mut ThreadPool,
    matrix: &Matrix,
    x: &Activations,
    out: &mut [f32],
    dispatch: impl Fn(MatmulPart<'_>) + Sync,
) {
    assert_eq!(x.cols(), matrix.cols, "inputs");
    assert_eq!(out.len(), x.rows() * matrix.rows, "outputs");
    let groups = matrix.rows.div_ceil(LANES);
    let out = Output(out.as_mut_ptr());
    let per_task = TASK_GROUPS.max(groups.div_ceil(pool.threads() * 16));
    pool.run(groups.div_ceil(per_task), &|task| {
        let first_group = task * per_task;
        let end_group = (first_group + per_task).min(groups);
        dispatch(MatmulPart { matrix, x, out, first_group, end_group });
    });
}

/// All activation rows × some groups of 16 outputs.
pub(crate) struct MatmulPart<'a> {
    matrix: &'a Matrix,
    x: &'a Activations,
    /// `[activation row][output]`; this part writes its own groups' columns only.
    out: Output<f32>,
    first_group: usize,
    end_group: usize,
}

impl Kernel for MatmulPart<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match &self.matrix.packed {
            Packed::Nibbles { blocks, zero_point, has_minimum: true } => {
                debug_assert_eq!(*zero_point, 0);
                self.quantised::<S, _, true, 0>(s, blocks);
            }
            Packed::Nibbles { blocks, zero_point, has_minimum: false } => {
                debug_assert_eq!(*zero_point, 8);
                self.quantised::<S, _, false, 8>(s, blocks);
            }
            Packed::Bytes { blocks } => {
                self.quantised::<S, _, false, BYTE_ZERO_POINT>(s, blocks);
            }
            Packed::Floats(values) => self.floats(s, values),
        }
    }
}

/// A packed block, as the product sees it.
trait Block: Copy {
    /// Calls `each(v, weights)` for the eight vectors of four inputs, `v` ascending in memory.
    fn weights<S: Simd>(&self, s: S) -> [S::B; 8];
    fn dot<S: Simd>(s: S, acc: S::I, w: S::B, a: [i8; 4]) -> S::I;
    fn scales(&self) -> &[u16; LANES];
    fn minimums(&self) -> &[u16; LANES];
}

impl Block for NibbleBlock {
    #[inline(always)]
    fn weights<S: Simd>(&self, s: S) -> [S::B; 8] {
        let [a, b, c, d] = [
            s.load_bytes(&self.nibbles[0]),
            s.load_bytes(&self.nibbles[1]),
            s.load_bytes(&self.nibbles[2]),
            s.load_bytes(&self.nibbles[3]),
        ];
        [
            s.low_nibbles(a),
            s.low_nibbles(b),
            s.low_nibbles(c),
            s.low_nibbles(d),
            s.high_nibbles(a),
            s.high_nibbles(b),
            s.high_nibbles(c),
            s.high_nibbles(d),
        ]
    }
    #[inline(always)]
    fn dot<S: Simd>(s: S, acc: S::I, w: S::B, a: [i8; 4]) -> S::I {
        s.dot_nibbles(acc, w, a)
    }
    #[inline(always)]
    fn scales(&self) -> &[u16; LANES] {
        &self.scales
    }
    #[inline(always)]
    fn minimums(&self) -> &[u16; LANES] {
        &self.minimums
    }
}

impl Block for ByteBlock {
    #[inline(always)]
    fn weights<S: Simd>(&self, s: S) -> [S::B; 8] {
        let w = &self.bytes;
        [
            s.load_bytes(&w[0]),
            s.load_bytes(&w[1]),
            s.load_bytes(&w[2]),
            s.load_bytes(&w[3]),
            s.load_bytes(&w[4]),
            s.load_bytes(&w[5]),
            s.load_bytes(&w[6]),
            s.load_bytes(&w[7]),
        ]
    }
    #[inline(always)]
    fn dot<S: Simd>(s: S, acc: S::I, w: S::B, a: [i8; 4]) -> S::I {
        s.dot_bytes(acc, w, a)
    }
    #[inline(always)]
    fn scales(&self) -> &[u16; LANES] {
        &self.scales
    }
    #[inline(always)]
    fn minimums(&self) -> &[u16; LANES] {
        &self.scales
    }
}

impl MatmulPart<'_> {
    #[inline(always)]
    fn quantised<S: Simd, B: Block, const MINIMUM: bool, const ZERO: i32>(
        &self,
        s: S,
        blocks: &[B],
    ) {
        let per_row = self.x.cols() / QUANT_BLOCK;
        for group in self.first_group..self.end_group {
            let blocks = &blocks[group * per_row..][..per_row];
            let (mut row, rows) = (0, self.x.rows());
            // As many rows share one unpacking of the weights as the registers hold.
            while S::WIDE && row + 8 <= rows {
                self.tile::<S, B, MINIMUM, ZERO, 8>(s, blocks, group, row);
                row += 8;
            }
            while row + 4 <= rows {
                self.tile::<S, B, MINIMUM, ZERO, 4>(s, blocks, group, row);
                row += 4;
            }
            while row + 2 <= rows {
                self.tile::<S, B, MINIMUM, ZERO, 2>(s, blocks, group, row);
                row += 2;
            }
            if row < rows {
                self.tile::<S, B, MINIMUM, ZERO, 1>(s, blocks, group, row);
            }
        }
    }

    /// `R` activation rows × 16 outputs. Per output, blocks in ascending order.
    #[inline(always)]
    fn tile<S: Simd, B: Block, const MINIMUM: bool, const ZERO: i32, const R: usize>(
        &self,
        s: S,
        blocks: &[B],
        group: usize,
        row: usize,
    ) {
        let per_row = blocks.len();
        let mut acc = [s.splat(0.0); R];
        let quants: [&[[i8; 4]]; R] =
            std::array::from_fn(|r| &self.x.quants[(row + r) * per_row * 8..][..per_row * 8]);
        let scales: [&[BlockScale]; R] =
            std::array::from_fn(|r| &self.x.blocks[(row + r) * per_row..][..per_row]);
        for (k, block) in blocks.iter().enumerate() {
            if row == 0 && R <= 4 {
                prefetch((&raw const *block).wrapping_add(BLOCKS_AHEAD), size_of::<B>());
            }
            let weights = block.weights(s);
            let a: [&[[i8; 4]; 8]; R] =
                std::array::from_fn(|r| quants[r][k * 8..][..8].try_into().expect("eight fours"));
            let a_scales: [BlockScale; R] = std::array::from_fn(|r| scales[r][k]);
            let mut isum = a_scales.map(|a| s.isplat(-ZERO * a.sum));
            for v in 0..8 {
                // Rows innermost: their sums don't wait for each other.
                for r in 0..R {
                    isum[r] = B::dot(s, isum[r], weights[v], a[r][v]);
                }
            }
            let weight_scale = s.load_f16(block.scales());
            for r in 0..R {
                let product = s.mul(weight_scale, s.splat(a_scales[r].scale));
                acc[r] = s.fma(product, s.to_f32(isum[r]), acc[r]);
            }
            if MINIMUM {
                let minimum = s.load_f16(block.minimums());
                for r in 0..R {
                    acc[r] = s.fma(minimum, s.splat(a_scales[r].scaled_sum), acc[r]);
                }
            }
        }
        for (r, &acc) in acc.iter().enumerate() {
            self.store(s, group, row + r, acc);
        }
    }

    #[inline(always)]
    fn store<S: Simd>(&self, s: S, group: usize, row: usize, x: S::F) {
        let outputs = self.matrix.rows;
        let len = (outputs - group * LANES).min(LANES);
        // SAFETY: the columns of this part's groups in any row, inside `out` as `matmul` asserts.
        let out = unsafe { self.out.slice(row * outputs + group * LANES, len) };
        match <&mut [f32; LANES]>::try_from(&mut *out) {
            Ok(out) => s.store(x, out),
            Err(_) => out.copy_from_slice(&crate::simd::to_array(s, x)[..len]),
        }
    }

    /// Float weights: 16 virtual lanes over the inputs, then the tree.
    #[inline(always)]
    fn floats<S: Simd>(&self, s: S, values: &[f32]) {
        let (outputs, cols) = (self.matrix.rows, self.matrix.cols);
        for row in 0..self.x.rows() {
            let Tail(x) = self.x.row(row);
            for output in self.first_group * LANES..(self.end_group * LANES).min(outputs) {
                let sum = dot(s, x, &values[output * cols..][..cols]);
                // SAFETY: one element of this part's columns, inside `out`.
                unsafe { self.out.slice(row * outputs + output, 1)[0] = sum };
            }
        }
    }
}

#[inline(always)]
fn dot<S: Simd>(s: S, x: &[f32], y: &[f32]) -> f32 {
    let mut acc = s.splat(0.0);
    let ((x, x_tail), (y, y_tail)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x.iter().zip(y) {
        acc = s.fma(s.load(x), s.load(y), acc);
    }
    if !x_tail.is_empty() {
        acc = s.fma(load_padded(s, x_tail, 0.0), load_padded(s, y_tail, 0.0), acc);
    }
    tree_sum(s, acc)
}
