//! The numerics contract read literally, one scalar operation at a time. Shares no code with the
//! kernels, `math::exp` apart.

use baton_device::Format;
use half::{bf16, f16};

use crate::random::Random;

/// Formats whose products are of integers.
pub(crate) fn is_quantised(format: Format) -> bool {
    !matches!(format, Format::F32 | Format::F16 | Format::BF16)
}

/// Bytes of one row of `cols` weights in a GGUF file.
pub(crate) fn row_bytes(format: Format, cols: usize) -> usize {
    let (block, bytes) = format.block();
    cols / block * bytes
}

/// Where a block's f16 scales (and minimums) are.
pub(crate) fn halves(format: Format) -> &'static [usize] {
    match format {
        Format::F32 | Format::F16 | Format::BF16 => &[],
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => &[0],
        Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
        Format::Q6_K => &[208],
    }
}

/// A matrix as it lies in a GGUF file.
pub(crate) fn random_matrix(
    random: &mut Random,
    format: Format,
    rows: usize,
    cols: usize,
) -> Vec<u8> {
    let elements = rows * cols;
    match format {
        Format::F32 => (0..elements).flat_map(|_| random.unit().to_le_bytes()).collect(),
        Format::F16 => (0..elements).flat_map(|_| random.half().to_le_bytes()).collect(),
        Format::BF16 => {
            (0..elements).flat_map(|_| bf16::from_f32(random.unit()).to_le_bytes()).collect()
        }
        _ => (0..elements / format.block().0).flat_map(|_| random_block(random, format)).collect(),
    }
}

fn random_block(random: &mut Random, format: Format) -> Vec<u8> {
    // The extremes are common: −128 is where saturating instructions go wrong.
    let mut byte = || match random.below(8) {
        0 => 0x80,
        1 => 0x7f,
        2 => 0xff,
        _ => random.bits() as u8,
    };
    let mut block: Vec<u8> = (0..format.block().1).map(|_| byte()).collect();
    for &at in halves(format) {
        block[at..at + 2].copy_from_slice(&random.half().to_le_bytes());
    }
    block
}

/// Weights under one scale: 32, or 16 of them. `minimum` is added to each.
struct WeightBlock {
    d: f32,
    m: Option<f32>,
    q: Vec<i32>,
}

fn half_at(data: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([data[at], data[at + 1]]).to_f32()
}

/// Bits `at..at + count` of a byte.
fn bits(byte: u8, at: usize, count: usize) -> i32 {
    i32::from(byte >> at) & ((1 << count) - 1)
}

/// Q4_K's and Q5_K's six-bit scale and minimum of block `j`.
fn shares(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = match j {
        0..4 => (bits(packed[j], 0, 6), bits(packed[j + 4], 0, 6)),
        _ => (
            bits(packed[j + 4], 0, 4) | (bits(packed[j - 4], 6, 2) << 4),
            bits(packed[j + 4], 4, 4) | (bits(packed[j], 6, 2) << 4),
        ),
    };
    (scale as f32, minimum as f32)
}

fn weight_blocks(format: Format, row: &[u8]) -> Vec<WeightBlock> {
    row.chunks_exact(format.block().1).flat_map(|block| file_block(format, block)).collect()
}

/// One block of a file, as the blocks that have their own scales.
fn file_block(format: Format, b: &[u8]) -> Vec<WeightBlock> {
    let nibble = |at: usize, k: usize| bits(b[at + k % 16], k / 16 * 4, 4);
    let fifth = |at: usize, k: usize| bits(b[at + k / 8], k % 8, 1) << 4;
    let one = |d: f32, m: Option<f32>, q: &dyn Fn(usize) -> i32| {
        vec![WeightBlock { d, m, q: (0..32).map(q).collect() }]
    };
    let affine = |quant: &dyn Fn(usize, usize) -> i32| {
        let block = |j| {
            let (scale, minimum) = shares(&b[4..16], j);
            let q = (0..32).map(|k| quant(j, k)).collect();
            WeightBlock { d: half_at(b, 0) * scale, m: Some(-(half_at(b, 2) * minimum)), q }
        };
        (0..8).map(block).collect()
    };
    match format {
        Format::Q4_0 => one(half_at(b, 0), None, &|k| nibble(2, k) - 8),
        Format::Q4_1 => one(half_at(b, 0), Some(half_at(b, 2)), &|k| nibble(4, k)),
        Format::Q5_0 => one(half_at(b, 0), None, &|k| (nibble(6, k) | fifth(2, k)) - 16),
        Format::Q5_1 => one(half_at(b, 0), Some(half_at(b, 2)), &|k| nibble(8, k) | fifth(4, k)),
        Format::Q8_0 => one(half_at(b, 0), None, &|k| i32::from(b[2 + k] as i8)),
        Format::Q4_K => affine(&|j, k| bits(b[16 + j / 2 * 32 + k], j % 2 * 4, 4)),
        Format::Q5_K => affine(&|j, k| {
            bits(b[48 + j / 2 * 32 + k], j % 2 * 4, 4) | (bits(b[16 + k], j, 1) << 4)
        }),
        Format::Q6_K => (0..16)
            .map(|part| {
                let six = |input: usize| {
                    let (half, j, k) = (input / 128, input % 128 / 32, input % 32);
                    let low = bits(b[half * 64 + j % 2 * 32 + k], j / 2 * 4, 4);
                    (low | (bits(b[128 + half * 32 + k], 2 * j, 2) << 4)) - 32
                };
                let scale = f32::from(b[192 + part] as i8);
                let q = (0..16).map(|k| six(16 * part + k)).collect();
                WeightBlock { d: half_at(b, 208) * scale, m: None, q }
            })
            .collect(),
        Format::F32 | Format::F16 | Format::BF16 => unreachable!("not quantised"),
    }
}

/// One row of weights as numbers.
pub(crate) fn dequantise(format: Format, row: &[u8]) -> Vec<f32> {
    match format {
        Format::F32 => row
            .chunks_exact(4)
            .map(|x| f32::from_le_bytes(x.try_into().expect("four bytes")))
            .collect(),
        Format::F16 => row.chunks_exact(2).map(|x| half_at(x, 0)).collect(),
        Format::BF16 => {
            row.chunks_exact(2).map(|x| bf16::from_le_bytes([x[0], x[1]]).to_f32()).collect()
        }
        _ => weight_blocks(format, row)
            .iter()
            .flat_map(|WeightBlock { d, m, q }| {
                q.iter().map(move |&q| d * q as f32 + m.unwrap_or(0.0))
            })
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

/// Activations as kernels take them, exactly.
pub(crate) fn rounded(x: &[f32]) -> Vec<f64> {
    let values = |block: ActivationBlock| block.q.map(|q| f64::from(q) * f64::from(block.d));
    activation_blocks(x).into_iter().flat_map(values).collect()
}

/// One element of a product.
pub(crate) fn dot(format: Format, row: &[u8], x: &[f32]) -> f32 {
    if !is_quantised(format) {
        let mut lanes = [0.0_f32; 16];
        for (k, (w, x)) in dequantise(format, row).iter().zip(x).enumerate() {
            lanes[k % 16] = w.mul_add(*x, lanes[k % 16]);
        }
        return tree(lanes);
    }
    let activations = activation_blocks(x);
    let mut acc = 0.0_f32;
    let mut input = 0;
    for w in weight_blocks(format, row) {
        let a = &activations[input / 32];
        let q = &a.q[input % 32..][..w.q.len()];
        let product: i32 = w.q.iter().zip(q).map(|(w, a)| w * a).sum();
        acc = (w.d * a.d).mul_add(product as f32, acc);
        if let Some(m) = w.m {
            acc = m.mul_add(a.d * q.iter().sum::<i32>() as f32, acc);
        }
        input += w.q.len();
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
