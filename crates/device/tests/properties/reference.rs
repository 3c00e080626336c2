//! The numerics contract read literally, one scalar operation at a time. Shares no code with the
//! kernels, `math::exp` apart.

use baton_device::Format;
use half::f16;

use crate::random::Random;

pub(crate) const QUANTISED: [Format; 3] = [Format::Q8_0, Format::Q4_0, Format::Q4_1];
pub(crate) const FORMATS: [Format; 5] =
    [Format::F32, Format::F16, Format::Q8_0, Format::Q4_0, Format::Q4_1];

/// Bytes of one row of `cols` weights in a GGUF file.
pub(crate) fn row_bytes(format: Format, cols: usize) -> usize {
    match format {
        Format::F32 => cols * 4,
        Format::F16 => cols * 2,
        Format::Q8_0 => cols / 32 * 34,
        Format::Q4_0 => cols / 32 * 18,
        Format::Q4_1 => cols / 32 * 20,
    }
}

/// A matrix as it lies in a GGUF file.
pub(crate) fn random_matrix(
    random: &mut Random,
    format: Format,
    rows: usize,
    cols: usize,
) -> Vec<u8> {
    let mut data = Vec::new();
    match format {
        Format::F32 => data.extend((0..rows * cols).flat_map(|_| random.unit().to_le_bytes())),
        Format::F16 => data.extend((0..rows * cols).flat_map(|_| random.half().to_le_bytes())),
        Format::Q8_0 | Format::Q4_0 | Format::Q4_1 => {
            for _ in 0..rows * cols / 32 {
                data.extend(random.half().to_le_bytes());
                if format == Format::Q4_1 {
                    data.extend(random.half().to_le_bytes());
                }
                let quants = if format == Format::Q8_0 { 32 } else { 16 };
                // The extremes are common: −128 is where saturating instructions go wrong.
                data.extend((0..quants).map(|_| match random.below(8) {
                    0 => 0x80,
                    1 => 0x7f,
                    2 => 0xff,
                    _ => random.bits() as u8,
                }));
            }
        }
    }
    data
}

/// 32 quantised weights: scale, minimum, integers.
struct WeightBlock {
    d: f32,
    m: Option<f32>,
    q: [i32; 32],
}

fn half_at(data: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([data[at], data[at + 1]]).to_f32()
}

fn weight_blocks(format: Format, row: &[u8]) -> Vec<WeightBlock> {
    let nibble = |quants: &[u8], k: usize| i32::from((quants[k % 16] >> (k / 16 * 4)) & 15);
    row.chunks_exact(row_bytes(format, 32))
        .map(|block| {
            let d = half_at(block, 0);
            match format {
                Format::Q8_0 => WeightBlock {
                    d,
                    m: None,
                    q: std::array::from_fn(|k| i32::from(block[2 + k] as i8)),
                },
                Format::Q4_0 => WeightBlock {
                    d,
                    m: None,
                    q: std::array::from_fn(|k| nibble(&block[2..], k) - 8),
                },
                Format::Q4_1 => WeightBlock {
                    d,
                    m: Some(half_at(block, 2)),
                    q: std::array::from_fn(|k| nibble(&block[4..], k)),
                },
                Format::F32 | Format::F16 => unreachable!("not quantised"),
            }
        })
        .collect()
}

/// One row of weights as numbers.
pub(crate) fn dequantise(format: Format, row: &[u8]) -> Vec<f32> {
    match format {
        Format::F32 => row
            .chunks_exact(4)
            .map(|x| f32::from_le_bytes(x.try_into().expect("four bytes")))
            .collect(),
        Format::F16 => row.chunks_exact(2).map(|x| half_at(x, 0)).collect(),
        _ => weight_blocks(format, row)
            .iter()
            .flat_map(|block| block.q.map(|q| block.d * q as f32 + block.m.unwrap_or(0.0)))
            .collect(),
    }
}

/// 32 activations as integers: `x ≈ d · q`.
struct ActivationBlock {
    d: f32,
    q: [i32; 32],
}

fn activation_blocks(x: &[f32]) -> Vec<ActivationBlock> {
    x.chunks_exact(32)
        .map(|x| {
            let amax = x.iter().fold(0.0_f32, |amax, x| amax.max(x.abs()));
            let scale = if amax == 0.0 { 0.0 } else { 127.0 / amax };
            ActivationBlock {
                d: amax / 127.0,
                q: std::array::from_fn(|k| (x[k] * scale).round_ties_even() as i32),
            }
        })
        .collect()
}

/// One element of a product.
pub(crate) fn dot(format: Format, row: &[u8], x: &[f32]) -> f32 {
    if matches!(format, Format::F32 | Format::F16) {
        let mut lanes = [0.0_f32; 16];
        for (k, (w, x)) in dequantise(format, row).iter().zip(x).enumerate() {
            lanes[k % 16] = w.mul_add(*x, lanes[k % 16]);
        }
        return tree(lanes);
    }
    let mut acc = 0.0_f32;
    for (w, a) in weight_blocks(format, row).iter().zip(activation_blocks(x)) {
        let product: i32 = w.q.iter().zip(&a.q).map(|(w, a)| w * a).sum();
        acc = (w.d * a.d).mul_add(product as f32, acc);
        if let Some(m) = w.m {
            acc = m.mul_add(a.d * a.q.iter().sum::<i32>() as f32, acc);
        }
    }
    acc
}

/// The fixed tree over 16 lanes.
pub(crate) fn tree(mut lanes: [f32; 16]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut lanes = [0.0_f32; 16];
    for (i, x) in x.iter().enumerate() {
        lanes[i % 16] = x.mul_add(*x, lanes[i % 16]);
    }
    let scale = 1.0 / (tree(lanes) / x.len() as f32 + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| (x * scale) * w).collect()
}

/// Softmax attention of one query over `tokens` keys and values, in double precision.
pub(crate) fn attention_f64(q: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>]) -> Vec<f64> {
    let scale = 1.0 / (q.len() as f64).sqrt();
    let scores: Vec<f64> = keys
        .iter()
        .map(|k| k.iter().zip(q).map(|(k, q)| f64::from(*k) * f64::from(*q)).sum::<f64>() * scale)
        .collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    (0..q.len())
        .map(|d| weights.iter().zip(values).map(|(p, v)| p * f64::from(v[d])).sum::<f64>() / total)
        .collect()
}

/// Where two results differ in their bits; any NaN equals any other.
pub(crate) fn difference(a: &[f32], b: &[f32]) -> Option<String> {
    if a.len() != b.len() {
        return Some(format!("{} values against {}", a.len(), b.len()));
    }
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    let at = a.iter().zip(b).position(|(a, b)| !same(*a, *b))?;
    Some(format!("at {at}: {:e} against {:e}", a[at], b[at]))
}
