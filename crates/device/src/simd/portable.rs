use super::{LANES, Simd};

/// The lanes as arrays: what the other implementations must equal, bit for bit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

type F = [f32; LANES];
type I = [i32; LANES];

#[inline(always)]
fn zip(a: F, b: F, op: impl Fn(f32, f32) -> f32) -> F {
    std::array::from_fn(|i| op(a[i], b[i]))
}

#[inline(always)]
fn dot(acc: I, w: [u8; 64], a: [i8; 4]) -> I {
    std::array::from_fn(|lane| {
        (0..4).fold(acc[lane], |sum, j| sum + i32::from(w[4 * lane + j]) * i32::from(a[j]))
    })
}

impl Simd for Portable {
    const WIDE: bool = false;
    const BYTE_ZERO: i32 = 0;

    type F = F;
    type I = I;
    type B = [u8; 64];

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> F {
        *x
    }
    #[inline(always)]
    fn store(self, x: F, out: &mut [f32; LANES]) {
        *out = x;
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn select_less(self, a: F, b: F, x: F, y: F) -> F {
        std::array::from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn round(self, x: F) -> F {
        x.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn exp2_int(self, n: F) -> F {
        n.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn to_bytes(self, x: F) -> [i8; LANES] {
        x.map(|x| x as i8)
    }
    #[inline(always)]
    fn to_f16(self, x: F) -> [u16; LANES] {
        x.map(|x| half::f16::from_f32(x).to_bits())
    }
    #[inline(always)]
    fn largest(self, x: F) -> f32 {
        x.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    fn sum_bytes(self, x: &[i8; LANES]) -> i32 {
        x.iter().map(|&x| i32::from(x)).sum()
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> F {
        x.map(|bits| half::f16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; LANES]) -> F {
        x.map(|bits| f32::from_bits(u32::from(bits) << 16))
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> F {
        x.map(f32::from)
    }
    #[inline(always)]
    fn isplat(self, x: i32) -> I {
        [x; LANES]
    }
    #[inline(always)]
    fn load_ints(self, x: &[i32; LANES]) -> I {
        *x
    }
    #[inline(always)]
    fn to_f32(self, x: I) -> F {
        x.map(|x| x as f32)
    }
    #[inline(always)]
    fn load_bytes(self, x: &[u8; 64]) -> [u8; 64] {
        *x
    }
    #[inline(always)]
    fn store_bytes(self, x: [u8; 64], out: &mut [u8; 64]) {
        *out = x;
    }
    #[inline(always)]
    fn low_nibbles(self, x: [u8; 64]) -> [u8; 64] {
        x.map(|byte| byte & 15)
    }
    #[inline(always)]
    fn high_nibbles(self, x: [u8; 64]) -> [u8; 64] {
        x.map(|byte| byte >> 4)
    }
    #[inline(always)]
    fn dot_small_bytes(self, acc: I, w: [u8; 64], a: [i8; 4]) -> I {
        dot(acc, w, a)
    }
    #[inline(always)]
    fn dot_bytes(self, acc: I, w: [u8; 64], a: [i8; 4]) -> I {
        dot(acc, w, a)
    }
}
