//! Element types that are stored narrower than they are computed with.

use crate::simd::{LANES, Simd};

/// A float as it lies in memory.
pub(crate) trait Element {
    /// Its default is 0.0.
    type Bits: Copy + Default;
    /// Widens 16 of them to f32, exactly.
    fn load<S: Simd>(s: S, x: &[Self::Bits; LANES]) -> S::F;
}

/// IEEE 754 binary32.
pub(crate) struct Single;
/// IEEE 754 binary16.
pub(crate) struct Half;
/// bfloat16: the upper half of a binary32.
pub(crate) struct Brain;

impl Element for Single {
    type Bits = f32;
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[f32; LANES]) -> S::F {
        s.load(x)
    }
}

impl Element for Half {
    type Bits = u16;
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[u16; LANES]) -> S::F {
        s.load_f16(x)
    }
}

impl Element for Brain {
    type Bits = u16;
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[u16; LANES]) -> S::F {
        s.load_bf16(x)
    }
}
