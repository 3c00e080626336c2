//! Products of activations and packed weights.

#[cfg(target_arch = "x86_64")]
pub(crate) mod tiles;

use crate::{
    element::{Brain, Element, Half, Single},
    matrix::{Matrix, Packed},
    pack::{Pack, Quants},
    pool::ThreadPool,
    prefetch::prefetch,
    quantize::{Activations, BlockScale, QUANT_BLOCK},
    simd::{Kernel, LANES, Simd, load_padded, tree_sum},
};

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
    assert!(!matrix.is_float() || x.has_values(), "float weights, and rows that were only rounded");
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
        let rows = self.x.rows();
        #[cfg(target_arch = "x86_64")]
        // SAFETY: who made lanes with tiles has them.
        let tiles = (S::TILES && rows >= tiles::FEWEST)
            .then(|| unsafe { tiles::Tiles::configure(P::SCALES, rows) });
        for group in self.first_group..self.end_group {
            let packs = &packs[group * per_row..][..per_row];
            let mut row = 0;
            #[cfg(target_arch = "x86_64")]
            if let Some(tiles) = &tiles {
                row = self.tiled(s, tiles, packs, group);
            }
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
                if row == 0 {
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

    /// What [`MatmulPart::store`] stored; missing outputs are 0.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn load<S: Simd>(&self, s: S, group: usize, row: usize) -> S::F {
        let outputs = self.matrix.rows;
        let len = (outputs - group * LANES).min(LANES);
        // SAFETY: as in `store`.
        load_padded(s, unsafe { self.out.slice(row * outputs + group * LANES, len) }, 0.0)
    }

    /// Float weights. As many products side by side as the registers hold, for each is one chain.
    #[inline(always)]
    fn floats<S: Simd, E: Element>(&self, s: S, values: &[E::Bits]) {
        let end = (self.end_group * LANES).min(self.matrix.rows);
        let side = if S::WIDE { 4 } else { 2 };
        let mut row = 0;
        while row < self.x.rows() {
            let rows = if row + side <= self.x.rows() { side } else { 1 };
            let mut output = self.first_group * LANES;
            while output < end {
                let outputs = if output + side <= end { side } else { 1 };
                match (rows, outputs) {
                    (4, 4) => self.float_tile::<S, E, 4, 4>(s, values, row, output),
                    (4, _) => self.float_tile::<S, E, 4, 1>(s, values, row, output),
                    (2, 2) => self.float_tile::<S, E, 2, 2>(s, values, row, output),
                    (2, _) => self.float_tile::<S, E, 2, 1>(s, values, row, output),
                    (_, 4) => self.float_tile::<S, E, 1, 4>(s, values, row, output),
                    (_, 2) => self.float_tile::<S, E, 1, 2>(s, values, row, output),
                    _ => self.float_tile::<S, E, 1, 1>(s, values, row, output),
                }
                output += outputs;
            }
            row += rows;
        }
    }

    /// `R` activation rows × `O` outputs.
    #[inline(always)]
    fn float_tile<S: Simd, E: Element, const R: usize, const O: usize>(
        &self,
        s: S,
        values: &[E::Bits],
        row: usize,
        output: usize,
    ) {
        let (outputs, cols) = (self.matrix.rows, self.matrix.cols);
        let x = std::array::from_fn(|r| self.x.row(row + r));
        let y = std::array::from_fn(|o| &values[(output + o) * cols..][..cols]);
        for (r, products) in dots::<S, E, R, O>(s, x, y).iter().enumerate() {
            // SAFETY: elements of this part's columns in any row, inside `out` as `matmul` asserts.
            let out = unsafe { self.out.slice((row + r) * outputs + output, O) };
            out.copy_from_slice(products);
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
            isum[r] = s.isplat((P::Quants::zero::<S>() - P::ZERO) * sum);
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

/// Each of `x` times each of `y`: 16 virtual lanes over the inputs, then the tree.
#[inline(always)]
fn dots<S: Simd, E: Element, const R: usize, const O: usize>(
    s: S,
    x: [&[f32]; R],
    y: [&[E::Bits]; O],
) -> [[f32; O]; R] {
    let mut acc = [[s.splat(0.0); O]; R];
    let (x, y) = (x.map(|x| x.as_chunks::<LANES>()), y.map(|y| y.as_chunks::<LANES>()));
    for k in 0..x[0].0.len() {
        let mut weights = [s.splat(0.0); O];
        for o in 0..O {
            weights[o] = E::load(s, &y[o].0[k]);
        }
        for r in 0..R {
            let x = s.load(&x[r].0[k]);
            for o in 0..O {
                acc[r][o] = s.fma(x, weights[o], acc[r][o]);
            }
        }
    }
    let mut out = [[0.0; O]; R];
    for r in 0..R {
        let x = load_padded(s, x[r].1, 0.0);
        for o in 0..O {
            let mut tail = [E::Bits::default(); LANES];
            tail[..y[o].1.len()].copy_from_slice(y[o].1);
            if !y[o].1.is_empty() {
                acc[r][o] = s.fma(x, E::load(s, &tail), acc[r][o]);
            }
            out[r][o] = tree_sum(s, acc[r][o]);
        }
    }
    out
}
