//! How quantised weights lie in memory: 16 rows side by side, a vector lane an output.
//!
//! A [`Pack`] is one file block of 16 rows: 32 inputs, or 256 in the K formats. Whatever the file's
//! format was, a weight is `scale · (quant − ZERO) + minimum`, the scale and the minimum exact in
//! f32. The product and the dequantised row are written once over that.

use crate::{
    format::SUPER_BLOCK,
    quantize::QUANT_BLOCK,
    region::Zeroed,
    simd::{LANES, Simd},
};

/// Quants of 32 inputs × 16 outputs: unsigned integers.
pub(crate) trait Quants: Zeroed {
    /// The eight vectors of four inputs each.
    fn vectors<S: Simd>(&self, s: S) -> [S::B; 8];
    /// What `dot` takes off every quant.
    fn zero<S: Simd>() -> i32;
    /// Each lane: `acc + Σ (w[4i + j] − zero) · a[j]`, exact.
    fn dot<S: Simd>(s: S, acc: S::I, w: S::B, a: [i8; 4]) -> S::I;
    fn get(&self, lane: usize, input: usize) -> u8;
    fn set(&mut self, lane: usize, quants: &[u8; QUANT_BLOCK]);
}

/// Quants below 16. Byte `4·lane + j` of vector `v`: input `4v + j` low, input `16 + 4v + j` high.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Nibbles([[u8; 64]; 4]);

/// Quants below 128. Byte `4·lane + j` of vector `v`: input `4v + j`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct SmallBytes([[u8; 64]; 8]);

/// Any bytes, in the same order.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Bytes([[u8; 64]; 8]);

impl Quants for Nibbles {
    #[inline(always)]
    fn vectors<S: Simd>(&self, s: S) -> [S::B; 8] {
        let [a, b, c, d] = &self.0;
        let (a, b) = (s.load_bytes(a), s.load_bytes(b));
        let (c, d) = (s.load_bytes(c), s.load_bytes(d));
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
    fn zero<S: Simd>() -> i32 {
        0
    }
    #[inline(always)]
    fn dot<S: Simd>(s: S, acc: S::I, w: S::B, a: [i8; 4]) -> S::I {
        s.dot_small_bytes(acc, w, a)
    }
    #[inline(always)]
    fn get(&self, lane: usize, input: usize) -> u8 {
        (self.0[input % 16 / 4][4 * lane + input % 4] >> (input / 16 * 4)) & 15
    }
    fn set(&mut self, lane: usize, quants: &[u8; QUANT_BLOCK]) {
        for k in 0..16 {
            self.0[k / 4][4 * lane + k % 4] = quants[k] | (quants[16 + k] << 4);
        }
    }
}

/// Both layouts of one byte a quant; they differ in the product alone.
macro_rules! byte_quants {
    ($name:ident, $zero:expr, $dot:ident) => {
        impl Quants for $name {
            #[inline(always)]
            fn vectors<S: Simd>(&self, s: S) -> [S::B; 8] {
                let w = &self.0;
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
            fn zero<S: Simd>() -> i32 {
                $zero
            }
            #[inline(always)]
            fn dot<S: Simd>(s: S, acc: S::I, w: S::B, a: [i8; 4]) -> S::I {
                s.$dot(acc, w, a)
            }
            #[inline(always)]
            fn get(&self, lane: usize, input: usize) -> u8 {
                self.0[input / 4][4 * lane + input % 4]
            }
            fn set(&mut self, lane: usize, quants: &[u8; QUANT_BLOCK]) {
                for (k, &quant) in quants.iter().enumerate() {
                    self.0[k / 4][4 * lane + k % 4] = quant;
                }
            }
        }
    };
}

byte_quants!(SmallBytes, 0, dot_small_bytes);
byte_quants!(Bytes, S::BYTE_ZERO, dot_bytes);

// SAFETY: integers.
unsafe impl Zeroed for Nibbles {}
// SAFETY: integers.
unsafe impl Zeroed for SmallBytes {}
// SAFETY: integers.
unsafe impl Zeroed for Bytes {}
// SAFETY: integers, and quants that may be zeros.
unsafe impl<Q: Zeroed, const ZERO: i32> Zeroed for Scaled<Q, ZERO> {}
// SAFETY: as above.
unsafe impl<Q: Zeroed> Zeroed for Affine<Q> {}
// SAFETY: as above.
unsafe impl<Q: Zeroed> Zeroed for AffineSuper<Q> {}
// SAFETY: as above.
unsafe impl<Q: Zeroed, const ZERO: i32> Zeroed for HalvesSuper<Q, ZERO> {}

/// One file block of 16 rows; zero bytes are a block of zeros.
pub(crate) trait Pack: Zeroed {
    type Quants: Quants;
    /// 32-blocks in it.
    const BLOCKS: usize;
    /// Scales of one 32-block: 1, or 2 when each half has its own.
    const SCALES: usize;
    /// What quants stand above their weights.
    const ZERO: i32;
    /// There are minimums, and `ZERO` is 0.
    const MINIMUM: bool;

    fn quants(&self, block: usize) -> &Self::Quants;
    /// Scales of the 16 outputs; `part` is below `SCALES`.
    fn scale<S: Simd>(&self, s: S, block: usize, part: usize) -> S::F;
    /// Minimums of the 16 outputs.
    fn minimum<S: Simd>(&self, s: S, block: usize) -> S::F;
}

/// f16 scales.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Scaled<Q, const ZERO: i32> {
    pub(crate) quants: Q,
    pub(crate) scales: [u16; LANES],
}

/// f16 scales and minimums.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Affine<Q> {
    pub(crate) quants: Q,
    pub(crate) scales: [u16; LANES],
    pub(crate) minimums: [u16; LANES],
}

const SUPER_BLOCKS: usize = SUPER_BLOCK / QUANT_BLOCK;

/// Each of eight blocks has an integer share of the f16 scale and of the f16 minimum.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct AffineSuper<Q> {
    pub(crate) quants: [Q; SUPER_BLOCKS],
    pub(crate) scales: [u16; LANES],
    pub(crate) minimums: [u16; LANES],
    pub(crate) scale_shares: [[i8; LANES]; SUPER_BLOCKS],
    pub(crate) minimum_shares: [[i8; LANES]; SUPER_BLOCKS],
}

/// Each half of eight blocks has an integer share of the f16 scale.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct HalvesSuper<Q, const ZERO: i32> {
    pub(crate) quants: [Q; SUPER_BLOCKS],
    pub(crate) scales: [u16; LANES],
    pub(crate) scale_shares: [[[i8; LANES]; 2]; SUPER_BLOCKS],
}

impl<Q: Quants, const ZERO: i32> Pack for Scaled<Q, ZERO> {
    type Quants = Q;
    const BLOCKS: usize = 1;
    const SCALES: usize = 1;
    const ZERO: i32 = ZERO;
    const MINIMUM: bool = false;

    #[inline(always)]
    fn quants(&self, _: usize) -> &Q {
        &self.quants
    }
    #[inline(always)]
    fn scale<S: Simd>(&self, s: S, _: usize, _: usize) -> S::F {
        s.load_f16(&self.scales)
    }
    #[inline(always)]
    fn minimum<S: Simd>(&self, s: S, _: usize) -> S::F {
        s.splat(0.0)
    }
}

impl<Q: Quants> Pack for Affine<Q> {
    type Quants = Q;
    const BLOCKS: usize = 1;
    const SCALES: usize = 1;
    const ZERO: i32 = 0;
    const MINIMUM: bool = true;

    #[inline(always)]
    fn quants(&self, _: usize) -> &Q {
        &self.quants
    }
    #[inline(always)]
    fn scale<S: Simd>(&self, s: S, _: usize, _: usize) -> S::F {
        s.load_f16(&self.scales)
    }
    #[inline(always)]
    fn minimum<S: Simd>(&self, s: S, _: usize) -> S::F {
        s.load_f16(&self.minimums)
    }
}

// A share has at most 8 bits and an f16 11: their products are exact.
impl<Q: Quants> Pack for AffineSuper<Q> {
    type Quants = Q;
    const BLOCKS: usize = SUPER_BLOCKS;
    const SCALES: usize = 1;
    const ZERO: i32 = 0;
    const MINIMUM: bool = true;

    #[inline(always)]
    fn quants(&self, block: usize) -> &Q {
        &self.quants[block]
    }
    #[inline(always)]
    fn scale<S: Simd>(&self, s: S, block: usize, _: usize) -> S::F {
        s.mul(s.load_f16(&self.scales), s.load_i8(&self.scale_shares[block]))
    }
    #[inline(always)]
    fn minimum<S: Simd>(&self, s: S, block: usize) -> S::F {
        s.mul(s.load_f16(&self.minimums), s.load_i8(&self.minimum_shares[block]))
    }
}

impl<Q: Quants, const ZERO: i32> Pack for HalvesSuper<Q, ZERO> {
    type Quants = Q;
    const BLOCKS: usize = SUPER_BLOCKS;
    const SCALES: usize = 2;
    const ZERO: i32 = ZERO;
    const MINIMUM: bool = false;

    #[inline(always)]
    fn quants(&self, block: usize) -> &Q {
        &self.quants[block]
    }
    #[inline(always)]
    fn scale<S: Simd>(&self, s: S, block: usize, half: usize) -> S::F {
        s.mul(s.load_f16(&self.scales), s.load_i8(&self.scale_shares[block][half]))
    }
    #[inline(always)]
    fn minimum<S: Simd>(&self, s: S, _: usize) -> S::F {
        s.splat(0.0)
    }
}
