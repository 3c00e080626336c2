//! Values for a test from one seed, so that a failing case shrinks by its shape.

use half::f16;

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Uniform in −1 … 1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    }

    /// Like activations: mostly small, a few large, some zero.
    pub(crate) fn value(&mut self) -> f32 {
        match self.below(16) {
            0 => 0.0,
            1 => self.unit() * 100.0,
            2 => self.unit() * 1e-6,
            _ => self.unit(),
        }
    }

    pub(crate) fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    /// Anything an f32 can be: infinities, NaNs, subnormals and extremes are common.
    pub(crate) fn wild(&mut self) -> f32 {
        match self.below(8) {
            0 => f32::NAN,
            1 => f32::INFINITY,
            2 => f32::NEG_INFINITY,
            3 => f32::MAX,
            4 => f32::from_bits(self.below(1 << 23) as u32),
            5 => -0.0,
            6 => self.unit(),
            _ => f32::from_bits(self.bits() as u32),
        }
    }

    pub(crate) fn wild_values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.wild()).collect()
    }

    pub(crate) fn half(&mut self) -> f16 {
        f16::from_f32(self.value() * 0.05)
    }

    /// A permutation of `0..n`.
    pub(crate) fn shuffled(&mut self, n: u32) -> Vec<u32> {
        let mut all: Vec<_> = (0..n).collect();
        for i in (1..all.len()).rev() {
            all.swap(i, self.below(i + 1));
        }
        all
    }

    /// `n` as a sum of positive parts.
    pub(crate) fn parts(&mut self, n: usize) -> Vec<usize> {
        let mut parts = Vec::new();
        let mut left = n;
        while left > 0 {
            let longest = [1, 3, 20, left][self.below(4)].min(left);
            let part = 1 + self.below(longest);
            parts.push(part);
            left -= part;
        }
        parts
    }
}
