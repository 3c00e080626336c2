//! Storage formats of weights, as model files name them.

use crate::quantize::QUANT_BLOCK;

/// How a tensor's weights are stored: GGUF's names and block formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
pub enum Format {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// Weights of a K format's block.
pub(crate) const SUPER_BLOCK: usize = 256;

impl Format {
    pub const ALL: [Format; 11] = [
        Format::F32,
        Format::F16,
        Format::BF16,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
        Format::Q4_K,
        Format::Q5_K,
        Format::Q6_K,
    ];

    /// Weights that are stored together, and the bytes they take in a file.
    pub const fn block(self) -> (usize, usize) {
        match self {
            Format::F32 => (1, 4),
            Format::F16 | Format::BF16 => (1, 2),
            Format::Q4_0 => (QUANT_BLOCK, 18),
            Format::Q4_1 => (QUANT_BLOCK, 20),
            Format::Q5_0 => (QUANT_BLOCK, 22),
            Format::Q5_1 => (QUANT_BLOCK, 24),
            Format::Q8_0 => (QUANT_BLOCK, 34),
            Format::Q4_K => (SUPER_BLOCK, 144),
            Format::Q5_K => (SUPER_BLOCK, 176),
            Format::Q6_K => (SUPER_BLOCK, 210),
        }
    }
}
