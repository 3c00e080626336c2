//! Weight matrices, repacked at load so that a vector lane is an output.

use half::f16;

use crate::{quantize::QUANT_BLOCK, simd::LANES};

/// How a matrix is stored: GGUF's names and block formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
pub enum Format {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q8_0,
}

impl Format {
    /// Weights that share one scale, and the bytes they take in a GGUF file.
    pub const fn block(self) -> (usize, usize) {
        match self {
            Format::F32 => (1, 4),
            Format::F16 => (1, 2),
            Format::Q4_0 => (QUANT_BLOCK, 18),
            Format::Q4_1 => (QUANT_BLOCK, 20),
            Format::Q8_0 => (QUANT_BLOCK, 34),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    #[error("a matrix of {rows} × {cols} in {format:?} takes {expected} bytes, got {given}")]
    Length { format: Format, rows: usize, cols: usize, expected: usize, given: usize },
    #[error("{cols} columns do not divide into blocks of {block} ({format:?})")]
    Columns { format: Format, cols: usize, block: usize },
    #[error("a matrix of {rows} × {cols} has no elements")]
    Empty { rows: usize, cols: usize },
}

/// A weight matrix of `rows` outputs × `cols` inputs.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) packed: Packed,
}

/// 16 rows side by side, missing ones zero. `[row group][block]`.
#[derive(Clone, Debug)]
pub(crate) enum Packed {
    Nibbles {
        blocks: Vec<NibbleBlock>,
        zero_point: i32,
        has_minimum: bool,
    },
    Bytes {
        blocks: Vec<ByteBlock>,
    },
    /// Float rows as they are: `[row][col]`.
    Floats(Vec<f32>),
}

/// 32 inputs × 16 outputs of 4-bit weights: `scale · (nibble − zero point) + minimum`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct NibbleBlock {
    /// Byte `4·lane + j` of vector `v`: input `4v + j` low, input `16 + 4v + j` high.
    pub(crate) nibbles: [[u8; 64]; 4],
    pub(crate) scales: [u16; LANES],
    pub(crate) minimums: [u16; LANES],
}

/// 32 inputs × 16 outputs of 8-bit weights, stored as `weight + 128`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct ByteBlock {
    /// Byte `4·lane + j` of vector `v`: input `4v + j`.
    pub(crate) bytes: [[u8; 64]; 8],
    pub(crate) scales: [u16; LANES],
}

/// What unsigned bytes stand above their weights.
pub(crate) const BYTE_ZERO_POINT: i32 = 128;

impl Matrix {
    /// Repacks `data`, a tensor of `rows × cols` as it stands in a GGUF file.
    pub fn pack(
        format: Format,
        rows: usize,
        cols: usize,
        data: &[u8],
    ) -> Result<Self, MatrixError> {
        if rows == 0 || cols == 0 {
            return Err(MatrixError::Empty { rows, cols });
        }
        let (block, block_bytes) = format.block();
        if !cols.is_multiple_of(block) {
            return Err(MatrixError::Columns { format, cols, block });
        }
        let row_bytes = cols / block * block_bytes;
        let (expected, given) = (rows.saturating_mul(row_bytes), data.len());
        if expected != given {
            return Err(MatrixError::Length { format, rows, cols, expected, given });
        }
        let source = Source { data, rows, row_bytes, block_bytes, blocks: cols / block };
        let packed = match format {
            Format::F32 => Packed::Floats(
                data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
            ),
            Format::F16 => Packed::Floats(
                data.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
            ),
            Format::Q4_0 => {
                Packed::Nibbles { blocks: source.nibbles(2), zero_point: 8, has_minimum: false }
            }
            Format::Q4_1 => {
                Packed::Nibbles { blocks: source.nibbles(4), zero_point: 0, has_minimum: true }
            }
            Format::Q8_0 => Packed::Bytes { blocks: source.bytes() },
        };
        Ok(Matrix { rows, cols, packed })
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes the packed weights take.
    pub fn bytes(&self) -> usize {
        match &self.packed {
            Packed::Nibbles { blocks, .. } => size_of_val(blocks.as_slice()),
            Packed::Bytes { blocks } => size_of_val(blocks.as_slice()),
            Packed::Floats(values) => size_of_val(values.as_slice()),
        }
    }

    /// Writes row `row`, dequantised, to `out` (`cols` values): an embedding.
    ///
    /// # Panics
    ///
    /// When `row` is not below [`Matrix::rows`] or `out` has another length.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row}, {} values", out.len());
        let (group, lane) = (row / LANES, row % LANES);
        let blocks = self.cols / QUANT_BLOCK;
        match &self.packed {
            Packed::Floats(values) => out.copy_from_slice(&values[row * self.cols..][..self.cols]),
            Packed::Nibbles { blocks: packed, zero_point, .. } => {
                let packed = &packed[group * blocks..][..blocks];
                for (block, out) in packed.iter().zip(out.chunks_exact_mut(QUANT_BLOCK)) {
                    let scale = f16::from_bits(block.scales[lane]).to_f32();
                    let minimum = f16::from_bits(block.minimums[lane]).to_f32();
                    for (k, out) in out.iter_mut().enumerate() {
                        let byte = block.nibbles[k % 16 / 4][4 * lane + k % 4];
                        let nibble = if k < 16 { byte & 15 } else { byte >> 4 };
                        *out = scale.mul_add((i32::from(nibble) - zero_point) as f32, minimum);
                    }
                }
            }
            Packed::Bytes { blocks: packed } => {
                let packed = &packed[group * blocks..][..blocks];
                for (block, out) in packed.iter().zip(out.chunks_exact_mut(QUANT_BLOCK)) {
                    let scale = f16::from_bits(block.scales[lane]).to_f32();
                    for (k, out) in out.iter_mut().enumerate() {
                        let byte = block.bytes[k / 4][4 * lane + k % 4];
                        *out = scale * (i32::from(byte) - BYTE_ZERO_POINT) as f32;
                    }
                }
            }
        }
    }
}

/// A quantised tensor in GGUF's order: `[row][block]`.
struct Source<'a> {
    data: &'a [u8],
    rows: usize,
    row_bytes: usize,
    block_bytes: usize,
    blocks: usize,
}

impl Source<'_> {
    /// Calls `place(packed block, lane, GGUF block)` for every block of every row.
    fn repack<T: Clone>(&self, empty: T, place: impl Fn(&mut T, usize, &[u8])) -> Vec<T> {
        let mut packed = vec![empty; self.rows.div_ceil(LANES) * self.blocks];
        for row in 0..self.rows {
            let blocks = &mut packed[row / LANES * self.blocks..][..self.blocks];
            let data = &self.data[row * self.row_bytes..][..self.row_bytes];
            for (block, data) in blocks.iter_mut().zip(data.chunks_exact(self.block_bytes)) {
                place(block, row % LANES, data);
            }
        }
        packed
    }

    /// Q4_0 and Q4_1: `header` bytes of scale (and minimum), then 16 bytes whose low nibbles are
    /// inputs 0–15 and high nibbles inputs 16–31.
    fn nibbles(&self, header: usize) -> Vec<NibbleBlock> {
        let empty = NibbleBlock { nibbles: [[0; 64]; 4], scales: [0; 16], minimums: [0; 16] };
        self.repack(empty, |block, lane, data| {
            block.scales[lane] = u16::from_le_bytes([data[0], data[1]]);
            if header == 4 {
                block.minimums[lane] = u16::from_le_bytes([data[2], data[3]]);
            }
            for (k, &byte) in data[header..].iter().enumerate() {
                block.nibbles[k / 4][4 * lane + k % 4] = byte;
            }
        })
    }

    fn bytes(&self) -> Vec<ByteBlock> {
        let empty = ByteBlock { bytes: [[BYTE_ZERO_POINT as u8; 64]; 8], scales: [0; 16] };
        self.repack(empty, |block, lane, data| {
            block.scales[lane] = u16::from_le_bytes([data[0], data[1]]);
            for (k, &byte) in data[2..].iter().enumerate() {
                block.bytes[k / 4][4 * lane + k % 4] = byte ^ 0x80;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_shapes_are_refused_with_both_values() {
        assert_eq!(
            Matrix::pack(Format::Q8_0, 2, 32, &[0; 67]).unwrap_err(),
            MatrixError::Length {
                format: Format::Q8_0,
                rows: 2,
                cols: 32,
                expected: 68,
                given: 67
            }
        );
        assert!(matches!(
            Matrix::pack(Format::Q4_1, 1, 33, &[0; 20]),
            Err(MatrixError::Columns { .. })
        ));
        assert!(matches!(Matrix::pack(Format::F32, 0, 8, &[]), Err(MatrixError::Empty { .. })));
    }
}
