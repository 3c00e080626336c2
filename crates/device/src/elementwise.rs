//! Norms, activations, residuals, rotary positions.

use crate::{
    math::exp_lanes,
    simd::{Kernel, LANES, Simd, load_padded, to_array, tree_sum},
};

/// `out = (x · 1/√(mean(x²) + eps)) · weight`, row by row (Zhang & Sennrich, 2019).
pub(crate) struct RmsNorm<'a> {
    /// `[n][weight.len()]`.
    pub(crate) x: &'a [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) eps: f32,
    pub(crate) out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.weight.len();
        assert_eq!(self.x.len(), self.out.len(), "outputs");
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let mut squares = s.splat(0.0);
            let (chunks, tail) = x.as_chunks::<LANES>();
            for chunk in chunks {
                let x = s.load(chunk);
                squares = s.fma(x, x, squares);
            }
            if !tail.is_empty() {
                let x = load_padded(s, tail, 0.0);
                squares = s.fma(x, x, squares);
            }
            let mean = tree_sum(s, squares) / width as f32;
            let scale = 1.0 / (mean + self.eps).sqrt();
            for ((out, &x), &weight) in out.iter_mut().zip(x).zip(self.weight) {
                *out = (x * scale) * weight;
            }
        }
    }
}

/// What a gated feed-forward layer does to its gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · σ(x)`.
    Silu,
    /// The tanh form of GELU (Hendrycks & Gimpel, 2016): `x · σ(√(8/π) · (x + 0.044715·x³))`.
    GeluTanh,
}

/// `gate = activation(gate) · up`.
pub(crate) struct GateMul<'a> {
    pub(crate) activation: Activation,
    pub(crate) gate: &'a mut [f32],
    pub(crate) up: &'a [f32],
}

impl Kernel for GateMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert_eq!(self.gate.len(), self.up.len(), "gate and up");
        match self.activation {
            Activation::Silu => gate_mul::<S, false>(s, self.gate, self.up),
            Activation::GeluTanh => gate_mul::<S, true>(s, self.gate, self.up),
        }
    }
}

#[inline(always)]
fn gate_mul<S: Simd, const GELU: bool>(s: S, gate: &mut [f32], up: &[f32]) {
    let (gates, gate_tail) = gate.as_chunks_mut::<LANES>();
    let (ups, up_tail) = up.as_chunks::<LANES>();
    for (gate, up) in gates.iter_mut().zip(ups) {
        s.store(gated::<S, GELU>(s, s.load(gate), s.load(up)), gate);
    }
    let (gate, up) = (load_padded(s, gate_tail, 0.0), load_padded(s, up_tail, 0.0));
    let tail = gated::<S, GELU>(s, gate, up);
    gate_tail.copy_from_slice(&to_array(s, tail)[..gate_tail.len()]);
}

/// `gate / (1 + e^−z) · up`, where `z` is what the activation gives the sigmoid.
// A function, not a closure: those can't be forced inline, and outside a function that has the
// instructions every operation is a call.
#[inline(always)]
fn gated<S: Simd, const GELU: bool>(s: S, gate: S::F, up: S::F) -> S::F {
    let z = if GELU { gelu_argument(s, gate) } else { gate };
    let denominator = s.add(s.splat(1.0), exp_lanes(s, s.sub(s.splat(0.0), z)));
    s.mul(s.div(gate, denominator), up)
}

#[inline(always)]
fn gelu_argument<S: Simd>(s: S, x: S::F) -> S::F {
    const SQRT_8_OVER_PI: f32 = 1.595_769;
    let cubic = s.fma(s.splat(0.044_715), s.mul(x, x), s.splat(1.0));
    s.mul(s.splat(SQRT_8_OVER_PI), s.mul(x, cubic))
}

/// Rotary positions: neighbours are a pair (Su et al., 2021).
pub(crate) struct Rope<'a> {
    /// `[n][heads][head_dim]`.
    pub(crate) x: &'a mut [f32],
    pub(crate) head_dim: usize,
    pub(crate) heads: usize,
    /// Position of each of the `n` rows.
    pub(crate) positions: &'a [u32],
    /// `[position][head_dim / 2]` pairs of cosine and sine.
    pub(crate) table: &'a [(f32, f32)],
}

impl Kernel for Rope<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let half = self.head_dim / 2;
        let rows = self.x.chunks_exact_mut(self.heads * self.head_dim);
        for (row, &position) in rows.zip(self.positions) {
            let angles = &self.table[position as usize * half..][..half];
            for head in row.chunks_exact_mut(self.head_dim) {
                for (pair, &(cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                    let [a, b] = *pair;
                    *pair = [a * cos - b * sin, a * sin + b * cos];
                }
            }
        }
    }
}

/// `x += y` for every row of `y.len()`.
pub(crate) struct Add<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) y: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        assert!(self.x.len().is_multiple_of(self.y.len()), "rows of {}", self.y.len());
        for row in self.x.chunks_exact_mut(self.y.len().max(1)) {
            for (x, &y) in row.iter_mut().zip(self.y) {
                *x += y;
            }
        }
    }
}
