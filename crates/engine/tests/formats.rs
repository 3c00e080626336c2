//! Every storage format against candle's own reading of it.
#![allow(clippy::unwrap_used)]

use baton_device::{Activations, Format, Isa, Kernels, Matrix, ThreadPool};
use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};

const FORMATS: [(Format, GgmlDType); 11] = [
    (Format::F32, GgmlDType::F32),
    (Format::F16, GgmlDType::F16),
    (Format::BF16, GgmlDType::BF16),
    (Format::Q4_0, GgmlDType::Q4_0),
    (Format::Q4_1, GgmlDType::Q4_1),
    (Format::Q5_0, GgmlDType::Q5_0),
    (Format::Q5_1, GgmlDType::Q5_1),
    (Format::Q8_0, GgmlDType::Q8_0),
    (Format::Q4_K, GgmlDType::Q4K),
    (Format::Q5_K, GgmlDType::Q5K),
    (Format::Q6_K, GgmlDType::Q6K),
];

const ROWS: usize = 37;
const COLS: usize = 512;

/// Waves of many sizes: blocks with large and small scales, either sign, no symmetry.
fn weights(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| {
            let t = i as f32;
            (t * 0.377).sin() * (1.5 + (t * 0.004_1).cos()) + (t * 0.013).sin() * 0.3
        })
        .collect()
}

/// The same tensor as candle reads it and as it is packed here.
fn both(format: Format, dtype: GgmlDType) -> (Vec<Vec<f32>>, Matrix) {
    let tensor = Tensor::from_vec(weights(ROWS * COLS), (ROWS, COLS), &Device::Cpu).unwrap();
    let stored = QTensor::quantize(&tensor, dtype).unwrap();
    let expected = stored.dequantize(&Device::Cpu).unwrap().to_vec2().unwrap();
    (expected, Matrix::pack(format, ROWS, COLS, &stored.data().unwrap()).unwrap())
}

#[test]
fn weights_are_candles() {
    for (format, dtype) in FORMATS {
        let (expected, matrix) = both(format, dtype);
        let mut row = vec![0.0; COLS];
        for (index, expected) in expected.iter().enumerate() {
            matrix.row(index, &mut row);
            for (ours, theirs) in row.iter().zip(expected) {
                // candle rounds the product before it adds the minimum.
                assert!((ours - theirs).abs() <= 1e-6, "{format:?}: {ours} against {theirs}");
            }
        }
    }
}

/// Eight-bit activations cost a few parts in a thousand; float weights take floats.
#[test]
fn products_are_those_of_candles_weights() {
    let kernels = Kernels::new(Isa::best()).unwrap();
    let x: Vec<f32> = weights(2 * COLS).split_off(COLS);
    for (format, dtype) in FORMATS {
        let (expected, matrix) = both(format, dtype);
        let (mut activations, mut out) = (Activations::default(), vec![0.0; ROWS]);
        kernels.quantize(&x, COLS, &mut activations);
        kernels.matmul(&mut ThreadPool::new(1), &matrix, &activations, &mut out);
        let bound = if format.block().0 == 1 { 1e-6 } else { 5e-3 };
        for (ours, row) in out.iter().zip(&expected) {
            let products = || row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            let size: f64 = products().map(f64::abs).sum();
            let error = (f64::from(*ours) - products().sum::<f64>()).abs() / size;
            assert!(error <= bound, "{format:?}: off by {error:e}, at most {bound:e}");
        }
    }
}
