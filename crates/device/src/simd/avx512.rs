use std::arch::x86_64::*;

use super::{LANES, Simd, avx2::sum_bytes};

/// The lanes as one 512-bit register; integer products by VNNI, or with `TILES` by AMX.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512<const TILES: bool = false>(());

impl<const TILES: bool> Avx512<TILES> {
    /// # Safety
    ///
    /// The CPU has AVX-512 F, BW, DQ, VL and VNNI; with `TILES` AMX's tiles of bytes, too, granted to this process.
    pub(crate) unsafe fn assume() -> Self {
        Avx512(())
    }
}

/// One intrinsic, or a few, on values.
macro_rules! simd {
    ($($body:tt)*) => {
        // SAFETY: an `Avx512` exists only where the CPU has these instructions; loads and stores
        // go through references of the register's size.
        unsafe { $($body)* }
    };
}

const ROUND: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

impl<const TILES: bool> Simd for Avx512<TILES> {
    const WIDE: bool = true;
    const TILES: bool = TILES;
    const BYTE_ZERO: i32 = 0;

    type F = __m512;
    type I = __m512i;
    type B = __m512i;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        simd!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> __m512 {
        simd!(_mm512_loadu_ps(x.as_ptr()))
    }
    #[inline(always)]
    fn store(self, x: __m512, out: &mut [f32; LANES]) {
        simd!(_mm512_storeu_ps(out.as_mut_ptr(), x));
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        simd!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        simd!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        simd!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        simd!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        simd!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        simd!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        simd!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn select_less(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        simd!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x))
    }
    #[inline(always)]
    fn round(self, x: __m512) -> __m512 {
        simd!(_mm512_roundscale_ps::<ROUND>(x))
    }
    #[inline(always)]
    fn exp2_int(self, n: __m512) -> __m512 {
        simd!({
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        })
    }
    #[inline(always)]
    fn to_bytes(self, x: __m512) -> [i8; LANES] {
        let mut out = [0; LANES];
        simd!({
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x));
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
        });
        out
    }
    #[inline(always)]
    fn to_f16(self, x: __m512) -> [u16; LANES] {
        let mut out = [0; LANES];
        simd!(_mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtps_ph::<ROUND>(x)));
        out
    }
    #[inline(always)]
    fn largest(self, x: __m512) -> f32 {
        simd!(_mm512_reduce_max_ps(x))
    }
    #[inline(always)]
    fn sum_bytes(self, x: &[i8; LANES]) -> i32 {
        simd!(sum_bytes(x))
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> __m512 {
        simd!(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; LANES]) -> __m512 {
        simd!({
            let halves = _mm256_loadu_si256(x.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        })
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> __m512 {
        simd!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))))
    }
    #[inline(always)]
    fn isplat(self, x: i32) -> __m512i {
        simd!(_mm512_set1_epi32(x))
    }
    #[inline(always)]
    fn load_ints(self, x: &[i32; LANES]) -> __m512i {
        simd!(_mm512_loadu_si512(x.as_ptr().cast()))
    }
    #[inline(always)]
    fn to_f32(self, x: __m512i) -> __m512 {
        simd!(_mm512_cvtepi32_ps(x))
    }
    #[inline(always)]
    fn load_bytes(self, x: &[u8; 64]) -> __m512i {
        simd!(_mm512_loadu_si512(x.as_ptr().cast()))
    }
    #[inline(always)]
    fn store_bytes(self, x: __m512i, out: &mut [u8; 64]) {
        simd!(_mm512_storeu_si512(out.as_mut_ptr().cast(), x));
    }
    #[inline(always)]
    fn low_nibbles(self, x: __m512i) -> __m512i {
        simd!(_mm512_and_si512(x, _mm512_set1_epi8(15)))
    }
    #[inline(always)]
    fn high_nibbles(self, x: __m512i) -> __m512i {
        simd!(_mm512_and_si512(_mm512_srli_epi16::<4>(x), _mm512_set1_epi8(15)))
    }
    #[inline(always)]
    fn dot_small_bytes(self, acc: __m512i, w: __m512i, a: [i8; 4]) -> __m512i {
        self.dot_bytes(acc, w, a)
    }
    #[inline(always)]
    fn dot_bytes(self, acc: __m512i, w: __m512i, a: [i8; 4]) -> __m512i {
        let four = i32::from_le_bytes(a.map(|x| x as u8));
        simd!(_mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(four)))
    }
}
