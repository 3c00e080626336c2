use std::arch::x86_64::*;

use super::{LANES, Simd};

/// The lanes as two 256-bit registers: lanes 0–7 and 8–15.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    ///
    /// The CPU has AVX2, FMA and F16C.
    pub(crate) unsafe fn assume() -> Self {
        Avx2(())
    }
}

/// One intrinsic, or a few, on values.
macro_rules! simd {
    ($($body:tt)*) => {
        // SAFETY: an `Avx2` exists only where the CPU has these instructions; loads and stores go
        // through references of the registers' size.
        unsafe { $($body)* }
    };
}

const ROUND: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

type F = [__m256; 2];
type I = [__m256i; 2];

#[inline(always)]
fn each<T: Copy, U>(a: [T; 2], op: impl Fn(T) -> U) -> [U; 2] {
    [op(a[0]), op(a[1])]
}

#[inline(always)]
fn zip<T: Copy, U>(a: [T; 2], b: [T; 2], op: impl Fn(T, T) -> U) -> [U; 2] {
    [op(a[0], b[0]), op(a[1], b[1])]
}

/// The sum of 16 bytes.
///
/// # Safety
///
/// The CPU has AVX2.
#[inline(always)]
pub(super) unsafe fn sum_bytes(x: &[i8; LANES]) -> i32 {
    simd!({
        // Sums of absolute differences are of unsigned bytes: these are 128 too much each.
        let bytes = _mm_loadu_si128(x.as_ptr().cast());
        let bytes = _mm_xor_si128(bytes, _mm_set1_epi8(i8::MIN));
        let halves = _mm_sad_epu8(bytes, _mm_setzero_si128());
        let both = _mm_add_epi32(halves, _mm_unpackhi_epi64(halves, halves));
        _mm_cvtsi128_si32(both) - 128 * LANES as i32
    })
}

impl Simd for Avx2 {
    const WIDE: bool = false;
    const BYTE_ZERO: i32 = 0;

    type F = F;
    type I = I;
    type B = I;

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        simd!([_mm256_set1_ps(x); 2])
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> F {
        simd!([_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))])
    }
    #[inline(always)]
    fn store(self, x: F, out: &mut [f32; LANES]) {
        simd!({
            _mm256_storeu_ps(out.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), x[1]);
        });
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        zip(a, b, |a, b| simd!(_mm256_add_ps(a, b)))
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        zip(a, b, |a, b| simd!(_mm256_sub_ps(a, b)))
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        zip(a, b, |a, b| simd!(_mm256_mul_ps(a, b)))
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        zip(a, b, |a, b| simd!(_mm256_div_ps(a, b)))
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        simd!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        zip(a, b, |a, b| simd!(_mm256_max_ps(a, b)))
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        zip(a, b, |a, b| simd!(_mm256_min_ps(a, b)))
    }
    #[inline(always)]
    fn select_less(self, a: F, b: F, x: F, y: F) -> F {
        let less = zip(a, b, |a, b| simd!(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b)));
        simd!([_mm256_blendv_ps(y[0], x[0], less[0]), _mm256_blendv_ps(y[1], x[1], less[1])])
    }
    #[inline(always)]
    fn round(self, x: F) -> F {
        each(x, |x| simd!(_mm256_round_ps::<ROUND>(x)))
    }
    #[inline(always)]
    fn exp2_int(self, n: F) -> F {
        each(n, |n| {
            simd!({
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            })
        })
    }
    #[inline(always)]
    fn to_bytes(self, x: F) -> [i8; LANES] {
        let mut out = [0; LANES];
        simd!({
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
            // Packing works in 128-bit halves: bring the quarters back into order.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(
                _mm256_castsi256_si128(words),
                _mm256_extracti128_si256::<1>(words),
            );
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
        });
        out
    }
    #[inline(always)]
    fn to_f16(self, x: F) -> [u16; LANES] {
        let mut out = [0_u16; LANES];
        for (out, x) in out.as_chunks_mut::<8>().0.iter_mut().zip(x) {
            simd!(_mm_storeu_si128(
                out.as_mut_ptr().cast(),
                _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)
            ));
        }
        out
    }
    #[inline(always)]
    fn largest(self, x: F) -> f32 {
        simd!({
            let eight = _mm256_max_ps(x[0], x[1]);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }
    #[inline(always)]
    fn sum_bytes(self, x: &[i8; LANES]) -> i32 {
        simd!(sum_bytes(x))
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> F {
        simd!([
            _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(8).cast())),
        ])
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; LANES]) -> F {
        simd!({
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().add(8).cast()));
            each([low, high], |x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x)))
        })
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> F {
        simd!([
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(x.as_ptr().cast()))),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(x.as_ptr().add(8).cast()))),
        ])
    }
    #[inline(always)]
    fn isplat(self, x: i32) -> I {
        simd!([_mm256_set1_epi32(x); 2])
    }
    #[inline(always)]
    fn load_ints(self, x: &[i32; LANES]) -> I {
        simd!(
            [_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(8).cast()),]
        )
    }
    #[inline(always)]
    fn to_f32(self, x: I) -> F {
        each(x, |x| simd!(_mm256_cvtepi32_ps(x)))
    }
    #[inline(always)]
    fn load_bytes(self, x: &[u8; 64]) -> I {
        simd!([
            _mm256_loadu_si256(x.as_ptr().cast()),
            _mm256_loadu_si256(x.as_ptr().add(32).cast()),
        ])
    }
    #[inline(always)]
    fn store_bytes(self, x: I, out: &mut [u8; 64]) {
        for (i, x) in x.into_iter().enumerate() {
            simd!(_mm256_storeu_si256(out.as_mut_ptr().add(32 * i).cast(), x));
        }
    }
    #[inline(always)]
    fn low_nibbles(self, x: I) -> I {
        each(x, |x| simd!(_mm256_and_si256(x, _mm256_set1_epi8(15))))
    }
    #[inline(always)]
    fn high_nibbles(self, x: I) -> I {
        each(x, |x| simd!(_mm256_and_si256(_mm256_srli_epi16::<4>(x), _mm256_set1_epi8(15))))
    }
    #[inline(always)]
    fn dot_small_bytes(self, acc: I, w: I, a: [i8; 4]) -> I {
        let four = i32::from_le_bytes(a.map(|x| x as u8));
        zip(acc, w, |acc, w| {
            simd!({
                // Pairs of 127 · 127 fit 16 bits: nothing saturates.
                let pairs = _mm256_maddubs_epi16(w, _mm256_set1_epi32(four));
                _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            })
        })
    }
    #[inline(always)]
    fn dot_bytes(self, acc: I, w: I, a: [i8; 4]) -> I {
        let even = (i32::from(a[0]) & 0xffff) | (i32::from(a[2]) << 16);
        let odd = (i32::from(a[1]) & 0xffff) | (i32::from(a[3]) << 16);
        zip(acc, w, |acc, w| {
            simd!({
                // Pairs of 255 · 127 don't fit 16 bits: widen first.
                let evens = _mm256_and_si256(w, _mm256_set1_epi16(255));
                let odds = _mm256_srli_epi16::<8>(w);
                let evens = _mm256_madd_epi16(evens, _mm256_set1_epi32(even));
                let odds = _mm256_madd_epi16(odds, _mm256_set1_epi32(odd));
                _mm256_add_epi32(acc, _mm256_add_epi32(evens, odds))
            })
        })
    }
}
