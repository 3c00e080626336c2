use baton_device::{Activation, Isa, Kernels, math};
use proptest::prelude::*;

use crate::{
    random::Random,
    reference::{difference, rms_norm},
};

fn kernels(isa: Isa) -> Kernels {
    Kernels::new(isa).expect("an available instruction set")
}

/// Cosines and sines of `positions` positions.
fn angles(positions: usize, head_dim: usize) -> Vec<(f32, f32)> {
    let pairs = (0..positions).flat_map(|position| {
        (0..head_dim / 2).map(move |i| {
            let frequency = math::powf(10_000.0, -2.0 * i as f64 / head_dim as f64);
            let (sin, cos) = math::sin_cos(position as f64 * frequency);
            (cos as f32, sin as f32)
        })
    });
    pairs.collect()
}

proptest! {
    /// same-tokens: the norm is the contract's, to the bit.
    #[test]
    fn norms_are_the_contract_to_the_bit(n in 1..5_usize, width in 1..200_usize, seed: u64) {
        let random = &mut Random(seed);
        let (x, weight) = (random.values(n * width), random.values(width));
        let expected: Vec<f32> =
            x.chunks_exact(width).flat_map(|x| rms_norm(x, &weight, 1e-5)).collect();
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; x.len()];
            kernels(isa).rms_norm(&x, &weight, 1e-5, &mut out);
            prop_assert_eq!(difference(&out, &expected), None, "{:?}", isa);
        }
    }

    /// same-tokens: activations give the same bits everywhere, in whatever lane or tail a value
    /// falls, close to the truth.
    #[test]
    fn activations_are_the_same_everywhere_and_right(
        activation in prop::sample::select([Activation::Silu, Activation::GeluTanh].as_slice()),
        len in 1..200_usize,
        seed: u64,
    ) {
        let random = &mut Random(seed);
        let (gate, up) = (random.values(len), random.values(len));
        let gate_mul = |isa, gate: &[f32], up: &[f32]| {
            let mut out = gate.to_vec();
            kernels(isa).gate_mul(activation, &mut out, up);
            out
        };
        let expected = gate_mul(Isa::Portable, &gate, &up);
        for isa in Isa::available() {
            prop_assert_eq!(difference(&gate_mul(isa, &gate, &up), &expected), None, "{:?}", isa);
            for i in 0..len {
                let one = gate_mul(isa, &gate[i..=i], &up[i..=i]);
                prop_assert_eq!(difference(&one, &expected[i..=i]), None, "{:?} at {}", isa, i);
            }
        }
        for ((&out, &gate), &up) in expected.iter().zip(&gate).zip(&up) {
            let (gate, up) = (f64::from(gate), f64::from(up));
            let z = match activation {
                Activation::Silu => gate,
                Activation::GeluTanh => {
                    (8.0 / std::f64::consts::PI).sqrt() * (gate + 0.044_715 * gate.powi(3))
                }
            };
            // A rounded exponent is off by a share of its size.
            let bound = match activation {
                Activation::Silu => 1e-6,
                Activation::GeluTanh => 1e-6 + 3e-7 * z.abs(),
            };
            let truth = gate / (1.0 + (-z).exp()) * up;
            prop_assert!((f64::from(out) - truth).abs() <= bound * truth.abs() + 1e-30);
        }
    }

    /// Rotary positions: the same bits everywhere, each row by its own position, and equal to the
    /// rotation of neighbouring pairs in double precision.
    #[test]
    fn rope_rotates_neighbours_by_their_rows_position(
        positions in prop::collection::vec(0..300_u32, 1..6),
        heads in 1..4_usize,
        pairs in 1..40_usize,
        seed: u64,
    ) {
        let head_dim = 2 * pairs;
        let table = angles(300, head_dim);
        let x = Random(seed).values(positions.len() * heads * head_dim);
        for isa in Isa::available() {
            let mut out = x.clone();
            kernels(isa).rope(&mut out, heads, head_dim, &positions, &table);
            for (i, (out, x)) in out.chunks_exact(2).zip(x.chunks_exact(2)).enumerate() {
                let position = positions[i / (heads * pairs)];
                let (cos, sin) = table[position as usize * pairs + i % pairs];
                let expected = [x[0] * cos - x[1] * sin, x[0] * sin + x[1] * cos];
                prop_assert_eq!(difference(out, &expected), None, "{:?}", isa);
            }
        }
    }

    #[test]
    fn rows_add(rows in 0..4_usize, width in 1..100_usize, seed: u64) {
        let random = &mut Random(seed);
        let (x, y) = (random.values(rows * width), random.values(width));
        let expected: Vec<f32> = x.iter().zip(y.iter().cycle()).map(|(x, y)| x + y).collect();
        for isa in Isa::available() {
            let mut out = x.clone();
            kernels(isa).add(&mut out, &y);
            prop_assert_eq!(difference(&out, &expected), None, "{:?}", isa);
        }
    }

    /// e^x within 2.4e-7 of the truth, relatively, wherever the result is normal.
    #[test]
    fn exp_is_close(x in -87.3_f32..88.3) {
        let truth = f64::from(x).exp();
        prop_assert!((f64::from(math::exp(x)) - truth).abs() <= 2.4e-7 * truth);
    }

    /// ln, e^x and powers in double precision, within 1e-13, relatively.
    #[test]
    fn double_precision_is_close(x in 1e-30..1e30_f64, y in -300.0..300.0_f64, p in -2.0..2.0_f64) {
        prop_assert!((math::ln(x) - x.ln()).abs() <= 1e-13 * x.ln().abs().max(1.0));
        prop_assert!((math::exp_f64(y) / y.exp() - 1.0).abs() <= 1e-13);
        // The error of the exponent, an absolute one, is a relative error of the power.
        prop_assert!((math::powf(x, p) / x.powf(p) - 1.0).abs() <= 1e-12);
    }

    /// sin and cos of every angle a rotary position can have, within 1e-11.
    #[test]
    fn angles_are_close(x in -1_048_576.0..1_048_576.0_f64) {
        let (sin, cos) = math::sin_cos(x);
        prop_assert!((sin - x.sin()).abs() <= 1e-11 && (cos - x.cos()).abs() <= 1e-11);
    }
}
