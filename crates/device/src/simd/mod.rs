//! Sixteen virtual lanes: the machine all kernels are written for.
//!
//! An operation on a lane is one IEEE 754 operation, or one fused multiply-add, in every
//! implementation; [`Portable`] says which. `max` and `min` are x86's: the second operand when the
//! comparison fails, so also when either is NaN.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use portable::Portable;

/// Lanes in a vector, and slots in the smallest block.
pub(crate) const LANES: usize = 16;

/// A token that the lanes' instructions can be run on this machine. Made by [`crate::Kernels`]
/// after asking the CPU, and used inside a function compiled for those instructions.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "tiles are that one's"))]
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// The registers hold 32 vectors of lanes; else 8.
    const WIDE: bool;
    /// Products of many rows are made in AMX's tiles.
    const TILES: bool = false;
    /// What `dot_bytes` takes off every byte: 128 where only signed bytes can be multiplied by
    /// signed ones, else 0. The same weights for everyone: `Σ a` makes up for it.
    const BYTE_ZERO: i32;

    /// 16 × f32.
    type F: Copy;
    /// 16 × i32.
    type I: Copy;
    /// 64 bytes: four to a lane.
    type B: Copy;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &[f32; LANES]) -> Self::F;
    fn store(self, x: Self::F, out: &mut [f32; LANES]);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a > b ? a : b`.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b`.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? x : y`.
    fn select_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    fn round(self, x: Self::F) -> Self::F;
    /// 2^n for integral n in -126..=127.
    fn exp2_int(self, n: Self::F) -> Self::F;
    /// Integral values in −128..=127 as bytes.
    fn to_bytes(self, x: Self::F) -> [i8; LANES];
    /// Rounded to half precision, ties to even; NaN stays NaN and is quiet.
    fn to_f16(self, x: Self::F) -> [u16; LANES];
    /// The largest lane; none is NaN, nor −0.
    fn largest(self, x: Self::F) -> f32;
    /// The sum of 16 bytes.
    fn sum_bytes(self, x: &[i8; LANES]) -> i32;

    /// Widens 16 halves, exactly.
    fn load_f16(self, x: &[u16; LANES]) -> Self::F;
    /// Widens 16 bfloat16s, exactly.
    fn load_bf16(self, x: &[u16; LANES]) -> Self::F;
    /// 16 small integers.
    fn load_i8(self, x: &[i8; LANES]) -> Self::F;

    fn isplat(self, x: i32) -> Self::I;
    fn load_ints(self, x: &[i32; LANES]) -> Self::I;
    /// To f32; exact below 2^24.
    fn to_f32(self, x: Self::I) -> Self::F;
    fn load_bytes(self, x: &[u8; 64]) -> Self::B;
    fn store_bytes(self, x: Self::B, out: &mut [u8; 64]);
    /// The low nibble of every byte.
    fn low_nibbles(self, x: Self::B) -> Self::B;
    /// The high nibble of every byte.
    fn high_nibbles(self, x: Self::B) -> Self::B;
    /// Each lane: `acc + Σ w[4i + j] · a[j]`, `w` unsigned below 128, exact.
    fn dot_small_bytes(self, acc: Self::I, w: Self::B, a: [i8; 4]) -> Self::I;
    /// Each lane: `acc + Σ (w[4i + j] − BYTE_ZERO) · a[j]`, `w` unsigned, exact.
    fn dot_bytes(self, acc: Self::I, w: Self::B, a: [i8; 4]) -> Self::I;
}

/// A kernel body, written once and compiled for every implementation of the lanes.
pub(crate) trait Kernel {
    type Output;

    /// Must be `#[inline(always)]`, as everything it calls that takes the lanes.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Lanes as an array, for tails and for reductions.
#[inline(always)]
pub(crate) fn to_array<S: Simd>(s: S, x: S::F) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    s.store(x, &mut out);
    out
}

/// The sum of the lanes by the fixed tree: lane i + lane i+8, then +4, +2, +1.
#[inline(always)]
pub(crate) fn tree_sum<S: Simd>(s: S, x: S::F) -> f32 {
    let mut lanes = to_array(s, x);
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Up to 16 values, the missing lanes filled.
#[inline(always)]
pub(crate) fn load_padded<S: Simd>(s: S, x: &[f32], fill: f32) -> S::F {
    let mut lanes = [fill; LANES];
    lanes[..x.len()].copy_from_slice(x);
    s.load(&lanes)
}
