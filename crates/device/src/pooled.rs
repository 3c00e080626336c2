//! Kernels of single rows, on all threads of a pool: of a prompt there are hundreds of rows, and what one thread does
//! alone is what all others wait for.

use std::ops::Range;

use crate::{
    elementwise::{Activation, Add, GateMul, RmsNorm, Rope},
    kernels::Kernels,
    matmul::Output,
    pool::ThreadPool,
    quantize::{Activations, Quantize},
};

/// Values that are worth handing to another thread.
const PER_TASK: usize = 8 << 10;
/// Tasks a thread takes, so that one that comes late takes fewer.
const TASKS_EACH: usize = 3;

/// Kernels on a pool's threads. Rows are computed as [`Kernels`] does, so the bits are the same.
#[derive(Debug)]
pub struct Pooled<'a> {
    kernels: Kernels,
    pool: &'a mut ThreadPool,
}

impl Kernels {
    /// The same kernels on all threads of `pool`.
    pub fn on<'a>(&self, pool: &'a mut ThreadPool) -> Pooled<'a> {
        Pooled { kernels: *self, pool }
    }
}

impl Pooled<'_> {
    /// As [`Kernels::quantize`].
    pub fn quantize(&mut self, x: &[f32], cols: usize, out: &mut Activations) {
        let rows = x.len() / cols;
        out.resize(rows, cols);
        let quants = out.quants.len() / rows.max(1);
        let blocks = out.blocks.len() / rows.max(1);
        let kept = out.values.len() / rows.max(1);
        let values = Output(out.values.as_mut_ptr());
        let (all_quants, all_blocks) =
            (Output(out.quants.as_mut_ptr()), Output(out.blocks.as_mut_ptr()));
        let kernels = self.kernels;
        self.rows(rows, cols, &|part: Range<usize>| {
            let len = part.len();
            // SAFETY: these rows are this task's alone, in vectors that `resize` made long enough.
            let (values, quants, blocks) = unsafe {
                (
                    values.slice(part.start * kept, len * kept),
                    all_quants.slice(part.start * quants, len * quants),
                    all_blocks.slice(part.start * blocks, len * blocks),
                )
            };
            let x = &x[part.start * cols..part.end * cols];
            kernels.run(Quantize { x, values, quants, blocks });
        });
    }

    /// As [`Kernels::rms_norm`].
    pub fn rms_norm(&mut self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert_eq!(x.len(), out.len(), "outputs");
        let (kernels, width) = (self.kernels, weight.len());
        self.split(out, width, |part, out| {
            kernels.run(RmsNorm { x: &x[part], weight, eps, out });
        });
    }

    /// As [`Kernels::gate_mul`], rows of `width`.
    pub fn gate_mul(&mut self, activation: Activation, width: usize, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len(), "gate and up");
        let kernels = self.kernels;
        self.split(gate, width, |part, gate| {
            kernels.run(GateMul { activation, gate, up: &up[part] });
        });
    }

    /// `x += y`, rows of `width`.
    pub fn add(&mut self, width: usize, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len(), "both");
        let kernels = self.kernels;
        self.split(x, width, |part, x| kernels.run(Add { x, y: &y[part] }));
    }

    /// As [`Kernels::rope`].
    pub fn rope(
        &mut self,
        x: &mut [f32],
        heads: usize,
        head_dim: usize,
        positions: &[u32],
        table: &[(f32, f32)],
    ) {
        let (kernels, width) = (self.kernels, heads * head_dim);
        assert_eq!(x.len(), positions.len() * width, "rows");
        self.split(x, width, |part, x| {
            let positions = &positions[part.start / width..part.end / width];
            kernels.run(Rope { x, head_dim, heads, positions, table });
        });
    }

    /// Whole rows of `out`, and which of its values they are.
    fn split(
        &mut self,
        out: &mut [f32],
        width: usize,
        part: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) {
        assert!(out.len().is_multiple_of(width), "rows of {width}");
        let (rows, out) = (out.len() / width, Output(out.as_mut_ptr()));
        self.rows(rows, width, &|rows| {
            let values = rows.start * width..rows.end * width;
            // SAFETY: these rows are this task's alone, inside `out`.
            part(values.clone(), unsafe { out.slice(values.start, values.len()) });
        });
    }

    /// Splits `rows` rows of `width`.
    fn rows(&mut self, rows: usize, width: usize, part: &(dyn Fn(Range<usize>) + Sync)) {
        let worth = (rows * width / PER_TASK).min(rows);
        let tasks = worth.clamp(1, self.pool.threads() * TASKS_EACH);
        if tasks == 1 {
            return part(0..rows);
        }
        let each = rows.div_ceil(tasks);
        self.pool.run(rows.div_ceil(each), &|task| {
            part(task * each..((task + 1) * each).min(rows));
        });
    }
}
