//! Products of activations and packed weights.

use crate::{
    element::{Brain, Element, Half, Single},
    matrix::{Matrix, Packed},
    pack::{Pack, Quants},
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
            Packed::F32(values) => self.floats::<S, Single>(s, values),
            Packed::F16(values) => self.floats::<S, Half>(s, values),
            Packed::BF16(values) => self.floats::<S, Brain>(s, values),
            Packed::Q4_0(packs) => self.quantised(s, packs),
            Packed::Q4_1(packs) => self.quantised(s, packs),
            Packed::Q5_0(packs) => self.quantised(s, packs),
            Packed::Q5_1(packs) => self.quantised(s, packs),
            Packed::Q8_0(packs) => self.quantised(s, packs),
            Packed::Q4_K(packs) => self.quantised(s, packs),
            Packed::Q5_K(packs) => self.quantised(s, packs),
            Packed::Q6_K(packs) => self.quantised(s, packs),
        }
    }
}

impl MatmulPart<'_> {
    #[inline(always)]
    fn quantised<S: Simd, P: Pack>(&self, s: S, packs: &[P]) {
        let per_row = self.x.cols() / (P::BLOCKS * QUANT_BLOCK);
        for group in self.first_group..self.end_group {
            let packs = &packs[group * per_row..][..per_row];
            let (mut row, rows) = (0, self.x.rows());
            // As many rows share one unpacking of the weights as the registers hold.
            while S::WIDE && row + 8 <= rows {
                self.tile::<S, P, 8>(s, packs, group, row);
                row += 8;
            }
            while row + 4 <= rows {
                self.tile::<S, P, 4>(s, packs, group, row);
                row += 4;
            }
            while row + 2 <= rows {
                self.tile::<S, P, 2>(s, packs, group, row);
                row += 2;
            }
            if row < rows {
                self.tile::<S, P, 1>(s, packs, group, row);
            }
        }
    }

    /// `R` activation rows × 16 outputs. Per output, blocks in ascending order.
    #[inline(always)]
    fn tile<S: Simd, P: Pack, const R: usize>(&self, s: S, packs: &[P], group: usize, row: usize) {
        let per_row = packs.len() * P::BLOCKS;
        let mut acc = [s.splat(0.0); R];
        let quants: [&[[i8; 4]]; R] =
            std::array::from_fn(|r| &self.x.quants[(row + r) * per_row * 8..][..per_row * 8]);
        let scales: [&[BlockScale]; R] =
            std::array::from_fn(|r| &self.x.blocks[(row + r) * per_row..][..per_row]);
        for (index, pack) in packs.iter().enumerate() {
            for block in 0..P::BLOCKS {
                let k = index * P::BLOCKS + block;
                if row == 0 && R <= 4 {
                    let ahead = (&raw const *pack.quants(block)).cast::<u8>();
                    let distance = BLOCKS_AHEAD * size_of::<P>() / P::BLOCKS;
                    prefetch(ahead.wrapping_add(distance), size_of::<P>() / P::BLOCKS);
                }
                let a: [&[[i8; 4]; 8]; R] = std::array::from_fn(|r| {
                    quants[r][k * 8..][..8].try_into().expect("eight fours")
                });
                add_block(s, pack, block, a, std::array::from_fn(|r| scales[r][k]), &mut acc);
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
    fn floats<S: Simd, E: Element>(&self, s: S, values: &[E::Bits]) {
        let (outputs, cols) = (self.matrix.rows, self.matrix.cols);
        for row in 0..self.x.rows() {
            let Tail(x) = self.x.row(row);
            for output in self.first_group * LANES..(self.end_group * LANES).min(outputs) {
                let sum = dot::<S, E>(s, x, &values[output * cols..][..cols]);
                // SAFETY: one element of this part's columns, inside `out`.
                unsafe { self.out.slice(row * outputs + output, 1)[0] = sum };
            }
        }
    }
}

/// Adds one 32-block's products of `R` activation rows to their sums: a scale's quants, one part
/// after the other, then the minimum.
#[inline(always)]
fn add_block<S: Simd, P: Pack, const R: usize>(
    s: S,
    pack: &P,
    block: usize,
    a: [&[[i8; 4]; 8]; R],
    a_scales: [BlockScale; R],
    acc: &mut [S::F; R],
) {
    let weights = pack.quants(block).vectors(s);
    for part in 0..P::SCALES {
        let mut isum = [s.isplat(0); R];
        for r in 0..R {
            let [first, second] = a_scales[r].half_sums;
            let sum = if P::SCALES == 1 { first + second } else { [first, second][part] };
            isum[r] = s.isplat(-P::ZERO * sum);
        }
        for v in part * 8 / P::SCALES..(part + 1) * 8 / P::SCALES {
            // Rows innermost: their sums don't wait for each other.
            for r in 0..R {
                isum[r] = P::Quants::dot(s, isum[r], weights[v], a[r][v]);
            }
        }
        let weight_scale = pack.scale(s, block, part);
        for r in 0..R {
            let product = s.mul(weight_scale, s.splat(a_scales[r].scale));
            acc[r] = s.fma(product, s.to_f32(isum[r]), acc[r]);
        }
    }
    if P::MINIMUM {
        let minimum = pack.minimum(s, block);
        for r in 0..R {
            acc[r] = s.fma(minimum, s.splat(a_scales[r].scaled_sum), acc[r]);
        }
    }
}

#[inline(always)]
fn dot<S: Simd, E: Element>(s: S, x: &[f32], y: &[E::Bits]) -> f32 {
    let mut acc = s.splat(0.0);
    let ((x, x_tail), (y, y_tail)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x.iter().zip(y) {
        acc = s.fma(s.load(x), E::load(s, y), acc);
    }
    if !x_tail.is_empty() {
        let mut y = [E::Bits::default(); LANES];
        y[..y_tail.len()].copy_from_slice(y_tail);
        acc = s.fma(load_padded(s, x_tail, 0.0), E::load(s, &y), acc);
    }
    tree_sum(s, acc)
}
