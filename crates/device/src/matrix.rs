//! Weight matrices, repacked at load so that a vector lane is an output.

use std::io;

use crate::{
    element::{Brain, Element, Half, Single},
    format::Format,
    pack::{Affine, AffineSuper, Bytes, HalvesSuper, Nibbles, Pack, Quants, Scaled, SmallBytes},
    quantize::QUANT_BLOCK,
    region::{Region, WeightMemory},
    repack::repack,
    simd::{LANES, Portable},
};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    #[error("a matrix of {rows} × {cols} in {format:?} takes {expected} bytes, got {given}")]
    Length { format: Format, rows: usize, cols: usize, expected: usize, given: usize },
    #[error("{cols} columns do not divide into blocks of {block} ({format:?})")]
    Columns { format: Format, cols: usize, block: usize },
    #[error("a matrix of {rows} × {cols} has no elements")]
    Empty { rows: usize, cols: usize },
    #[error("there is no memory for a matrix of {rows} × {cols} in {format:?}: {why}")]
    Memory { format: Format, rows: usize, cols: usize, why: String },
}

/// A weight matrix of `rows` outputs × `cols` inputs.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) packed: Packed,
}

/// Quantised weights as `[row group][pack]`, floats as they are: `[row][col]`.
#[derive(Clone, Debug)]
#[allow(non_camel_case_types)]
pub(crate) enum Packed {
    F32(Region<f32>),
    F16(Region<u16>),
    BF16(Region<u16>),
    Q4_0(Region<Scaled<Nibbles, 8>>),
    Q4_1(Region<Affine<Nibbles>>),
    Q5_0(Region<Scaled<SmallBytes, 16>>),
    Q5_1(Region<Affine<SmallBytes>>),
    Q8_0(Region<Scaled<Bytes, 128>>),
    Q4_K(Region<AffineSuper<Nibbles>>),
    Q5_K(Region<AffineSuper<SmallBytes>>),
    Q6_K(Region<HalvesSuper<SmallBytes, 32>>),
}

impl Matrix {
    /// Repacks `data`, a tensor of `rows × cols` as it stands in a file, in memory of its own.
    pub fn pack(
        format: Format,
        rows: usize,
        cols: usize,
        data: &[u8],
    ) -> Result<Self, MatrixError> {
        Self::pack_in(&WeightMemory::default(), format, rows, cols, data)
    }

    /// The same, beside others of its model.
    pub fn pack_in(
        memory: &WeightMemory,
        format: Format,
        rows: usize,
        cols: usize,
        data: &[u8],
    ) -> Result<Self, MatrixError> {
        if rows == 0 || cols == 0 {
            return Err(MatrixError::Empty { rows, cols });
        }
        let (block, bytes) = format.block();
        if !cols.is_multiple_of(block) {
            return Err(MatrixError::Columns { format, cols, block });
        }
        let (expected, given) = (rows.saturating_mul(cols / block * bytes), data.len());
        if expected != given {
            return Err(MatrixError::Length { format, rows, cols, expected, given });
        }
        let packed = packed(memory, format, rows, data).map_err(|error| {
            let why = error.to_string();
            MatrixError::Memory { format, rows, cols, why }
        })?;
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

    /// Whether its weights are floats, whose products take activations as they are.
    pub fn is_float(&self) -> bool {
        matches!(self.packed, Packed::F32(_) | Packed::F16(_) | Packed::BF16(_))
    }

    /// Bytes the packed weights take.
    pub fn bytes(&self) -> usize {
        match &self.packed {
            Packed::F32(values) => size_of_val(&**values),
            Packed::F16(values) | Packed::BF16(values) => size_of_val(&**values),
            Packed::Q4_0(packs) => size_of_val(&**packs),
            Packed::Q4_1(packs) => size_of_val(&**packs),
            Packed::Q5_0(packs) => size_of_val(&**packs),
            Packed::Q5_1(packs) => size_of_val(&**packs),
            Packed::Q8_0(packs) => size_of_val(&**packs),
            Packed::Q4_K(packs) => size_of_val(&**packs),
            Packed::Q5_K(packs) => size_of_val(&**packs),
            Packed::Q6_K(packs) => size_of_val(&**packs),
        }
    }

    /// Writes row `row`, dequantised, to `out` (`cols` values): an embedding.
    ///
    /// # Panics
    ///
    /// When `row` is not below [`Matrix::rows`] or `out` has another length.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row}, {} values", out.len());
        match &self.packed {
            Packed::F32(values) => float_row::<Single>(values, row, out),
            Packed::F16(values) => float_row::<Half>(values, row, out),
            Packed::BF16(values) => float_row::<Brain>(values, row, out),
            Packed::Q4_0(packs) => packed_row(packs, row, out),
            Packed::Q4_1(packs) => packed_row(packs, row, out),
            Packed::Q5_0(packs) => packed_row(packs, row, out),
            Packed::Q5_1(packs) => packed_row(packs, row, out),
            Packed::Q8_0(packs) => packed_row(packs, row, out),
            Packed::Q4_K(packs) => packed_row(packs, row, out),
            Packed::Q5_K(packs) => packed_row(packs, row, out),
            Packed::Q6_K(packs) => packed_row(packs, row, out),
        }
    }
}

fn packed(memory: &WeightMemory, format: Format, rows: usize, data: &[u8]) -> io::Result<Packed> {
    let (_, bytes) = format.block();
    let halves = || {
        memory.region(data.len() / 2, |halves: &mut [u16]| {
            let given = data.as_chunks().0.iter().map(|&bytes| u16::from_le_bytes(bytes));
            halves.iter_mut().zip(given).for_each(|(half, given)| *half = given);
        })
    };
    let singles = || {
        memory.region(data.len() / 4, |singles: &mut [f32]| {
            let given = data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
            singles.iter_mut().zip(given).for_each(|(single, given)| *single = given);
        })
    };
    Ok(match format {
        Format::F32 => Packed::F32(singles()?),
        Format::F16 => Packed::F16(halves()?),
        Format::BF16 => Packed::BF16(halves()?),
        Format::Q4_0 => Packed::Q4_0(repack(memory, data, rows, bytes)?),
        Format::Q4_1 => Packed::Q4_1(repack(memory, data, rows, bytes)?),
        Format::Q5_0 => Packed::Q5_0(repack(memory, data, rows, bytes)?),
        Format::Q5_1 => Packed::Q5_1(repack(memory, data, rows, bytes)?),
        Format::Q8_0 => Packed::Q8_0(repack(memory, data, rows, bytes)?),
        Format::Q4_K => Packed::Q4_K(repack(memory, data, rows, bytes)?),
        Format::Q5_K => Packed::Q5_K(repack(memory, data, rows, bytes)?),
        Format::Q6_K => Packed::Q6_K(repack(memory, data, rows, bytes)?),
    })
}

fn float_row<E: Element>(values: &[E::Bits], row: usize, out: &mut [f32]) {
    let values = &values[row * out.len()..][..out.len()];
    for (values, out) in values.chunks(LANES).zip(out.chunks_mut(LANES)) {
        let mut lanes = [E::Bits::default(); LANES];
        lanes[..values.len()].copy_from_slice(values);
        out.copy_from_slice(&E::load(Portable, &lanes)[..out.len()]);
    }
}

fn packed_row<P: Pack>(packs: &[P], row: usize, out: &mut [f32]) {
    let per_row = out.len() / (P::BLOCKS * QUANT_BLOCK);
    let (packs, lane) = (&packs[row / LANES * per_row..][..per_row], row % LANES);
    for (index, out) in out.chunks_exact_mut(QUANT_BLOCK).enumerate() {
        let (pack, block) = (&packs[index / P::BLOCKS], index % P::BLOCKS);
        let quants = pack.quants(block);
        let minimum = pack.minimum(Portable, block)[lane];
        let width = QUANT_BLOCK / P::SCALES;
        for (part, out) in out.chunks_exact_mut(width).enumerate() {
            let scale = pack.scale(Portable, block, part)[lane];
            for (k, out) in out.iter_mut().enumerate() {
                let quant = i32::from(quants.get(lane, part * width + k)) - P::ZERO;
                *out = scale.mul_add(quant as f32, minimum);
            }
        }
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
        for (format, cols) in [(Format::Q4_1, 33), (Format::Q4_K, 128)] {
            let refused = Matrix::pack(format, 1, cols, &[0; 20]);
            assert!(matches!(refused, Err(MatrixError::Columns { .. })), "{format:?}");
        }
        assert!(matches!(Matrix::pack(Format::F32, 0, 8, &[]), Err(MatrixError::Empty { .. })));
    }

    /// What repacking costs beyond the file: nothing but padding for nibbles and bytes.
    #[test]
    fn packed_weights_take_about_what_the_file_does() {
        for (format, bits) in [
            (Format::BF16, 16.0),
            (Format::Q4_0, 5.0),
            (Format::Q4_1, 5.0),
            (Format::Q5_0, 8.5),
            (Format::Q5_1, 9.0),
            (Format::Q8_0, 8.5),
            (Format::Q4_K, 4.625),
            (Format::Q5_K, 8.625),
            (Format::Q6_K, 8.5625),
        ] {
            let (block, bytes) = format.block();
            let matrix = Matrix::pack(format, 16, 256, &vec![0; 16 * 256 / block * bytes]).unwrap();
            assert_eq!(matrix.bytes() as f64 * 8.0 / (16.0 * 256.0), bits, "{format:?}");
        }
    }
}
