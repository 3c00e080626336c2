use std::arch::{aarch64::*, asm};

use super::{LANES, Simd};

/// The lanes as four 128-bit registers: lanes 0–3, 4–7, 8–11 and 12–15.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon(());

impl Neon {
    /// # Safety
    ///
    /// The CPU has NEON and its dot product.
    pub(crate) unsafe fn assume() -> Self {
        Neon(())
    }
}

/// One intrinsic, or a few, on values.
macro_rules! simd {
    ($($body:tt)*) => {
        // SAFETY: a `Neon` exists only where the CPU has these instructions; loads and stores go
        // through references of the registers' size.
        unsafe { $($body)* }
    };
}

type F = [float32x4_t; 4];
type I = [int32x4_t; 4];
type B = [uint8x16_t; 4];

#[inline(always)]
fn each<T>(register: impl Fn(usize) -> T) -> [T; 4] {
    [register(0), register(1), register(2), register(3)]
}

/// Each lane: `acc + Σ w[4i + j] · a[j]`, `w` signed. The intrinsic isn't stable.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(mut acc: I, w: B, a: [i8; 4]) -> I {
    // A float is loaded to where the instructions take it from.
    let a = f32::from_ne_bytes(a.map(|x| x as u8));
    // SAFETY: instructions between registers, which this function is compiled for.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {4:v}.16b, {8:v}.4b[0]",
            "sdot {1:v}.4s, {5:v}.16b, {8:v}.4b[0]",
            "sdot {2:v}.4s, {6:v}.16b, {8:v}.4b[0]",
            "sdot {3:v}.4s, {7:v}.16b, {8:v}.4b[0]",
            inout(vreg) acc[0],
            inout(vreg) acc[1],
            inout(vreg) acc[2],
            inout(vreg) acc[3],
            in(vreg) w[0],
            in(vreg) w[1],
            in(vreg) w[2],
            in(vreg) w[3],
            in(vreg) a,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

impl Simd for Neon {
    const WIDE: bool = false;
    const BYTE_ZERO: i32 = 128;

    type F = F;
    type I = I;
    type B = B;

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        simd!([vdupq_n_f32(x); 4])
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> F {
        each(|i| simd!(vld1q_f32(x.as_ptr().add(4 * i))))
    }
    #[inline(always)]
    fn store(self, x: F, out: &mut [f32; LANES]) {
        for (i, x) in x.into_iter().enumerate() {
            simd!(vst1q_f32(out.as_mut_ptr().add(4 * i), x));
        }
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        each(|i| simd!(vaddq_f32(a[i], b[i])))
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        each(|i| simd!(vsubq_f32(a[i], b[i])))
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        each(|i| simd!(vmulq_f32(a[i], b[i])))
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        each(|i| simd!(vdivq_f32(a[i], b[i])))
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        each(|i| simd!(vfmaq_f32(c[i], a[i], b[i])))
    }
    // Not `fmax` and `fmin`, which give NaN when either operand is.
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        each(|i| simd!(vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i])))
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        each(|i| simd!(vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i])))
    }
    #[inline(always)]
    fn select_less(self, a: F, b: F, x: F, y: F) -> F {
        each(|i| simd!(vbslq_f32(vcltq_f32(a[i], b[i]), x[i], y[i])))
    }
    #[inline(always)]
    fn round(self, x: F) -> F {
        each(|i| simd!(vrndnq_f32(x[i])))
    }
    #[inline(always)]
    fn exp2_int(self, n: F) -> F {
        each(|i| {
            simd!({
                let biased = vaddq_s32(vcvtq_s32_f32(n[i]), vdupq_n_s32(127));
                vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
            })
        })
    }
    #[inline(always)]
    fn to_bytes(self, x: F) -> [i8; LANES] {
        let mut out = [0; LANES];
        simd!({
            let words = each(|i| vmovn_s32(vcvtq_s32_f32(x[i])));
            let low = vmovn_s16(vcombine_s16(words[0], words[1]));
            let high = vmovn_s16(vcombine_s16(words[2], words[3]));
            vst1q_s8(out.as_mut_ptr(), vcombine_s8(low, high));
        });
        out
    }
    #[inline(always)]
    fn to_f16(self, x: F) -> [u16; LANES] {
        let mut out = [0; LANES];
        for (i, x) in x.into_iter().enumerate() {
            simd!(vst1_u16(out.as_mut_ptr().add(4 * i), vreinterpret_u16_f16(vcvt_f16_f32(x))));
        }
        out
    }
    #[inline(always)]
    fn largest(self, x: F) -> f32 {
        simd!(vmaxvq_f32(vmaxq_f32(vmaxq_f32(x[0], x[1]), vmaxq_f32(x[2], x[3]))))
    }
    #[inline(always)]
    fn sum_bytes(self, x: &[i8; LANES]) -> i32 {
        simd!(i32::from(vaddlvq_s8(vld1q_s8(x.as_ptr()))))
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> F {
        each(|i| simd!(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x.as_ptr().add(4 * i))))))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; LANES]) -> F {
        each(|i| {
            simd!({
                let halves = vmovl_u16(vld1_u16(x.as_ptr().add(4 * i)));
                vreinterpretq_f32_u32(vshlq_n_u32::<16>(halves))
            })
        })
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> F {
        simd!({
            let bytes = vld1q_s8(x.as_ptr());
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_high_s16(high)),
            ]
        })
    }
    #[inline(always)]
    fn isplat(self, x: i32) -> I {
        simd!([vdupq_n_s32(x); 4])
    }
    #[inline(always)]
    fn load_ints(self, x: &[i32; LANES]) -> I {
        each(|i| simd!(vld1q_s32(x.as_ptr().add(4 * i))))
    }
    #[inline(always)]
    fn to_f32(self, x: I) -> F {
        each(|i| simd!(vcvtq_f32_s32(x[i])))
    }
    #[inline(always)]
    fn load_bytes(self, x: &[u8; 64]) -> B {
        each(|i| simd!(vld1q_u8(x.as_ptr().add(16 * i))))
    }
    #[inline(always)]
    fn store_bytes(self, x: B, out: &mut [u8; 64]) {
        for (i, x) in x.into_iter().enumerate() {
            simd!(vst1q_u8(out.as_mut_ptr().add(16 * i), x));
        }
    }
    #[inline(always)]
    fn low_nibbles(self, x: B) -> B {
        each(|i| simd!(vandq_u8(x[i], vdupq_n_u8(15))))
    }
    #[inline(always)]
    fn high_nibbles(self, x: B) -> B {
        each(|i| simd!(vshrq_n_u8::<4>(x[i])))
    }
    #[inline(always)]
    fn dot_small_bytes(self, acc: I, w: B, a: [i8; 4]) -> I {
        // Below 128 a byte is the same signed.
        simd!(dot(acc, w, a))
    }
    #[inline(always)]
    fn dot_bytes(self, acc: I, w: B, a: [i8; 4]) -> I {
        // A byte whose top bit is turned is itself less 128, signed.
        simd!(dot(acc, each(|i| veorq_u8(w[i], vdupq_n_u8(0x80))), a))
    }
}
