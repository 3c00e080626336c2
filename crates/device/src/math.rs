//! Transcendental functions as our own polynomials: libm's differ between machines.

use crate::simd::{Portable, Simd};

/// e^x. At most 2 ulp off; 0 below −87.3, where the result would be subnormal; the largest finite
/// power above 88.3; NaN stays NaN.
pub fn exp(x: f32) -> f32 {
    exp_lanes(Portable, [x; 16])[0]
}

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts; the first has few enough bits that `n · LN2_HIGH` is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
const EXP_MIN: f32 = -87.3;
const EXP_MAX: f32 = 88.3;

#[inline(always)]
#[allow(clippy::excessive_precision)]
pub(crate) fn exp_lanes<S: Simd>(s: S, x: S::F) -> S::F {
    // `min` and `max` give their second operand on NaN, so NaN goes through.
    let clamped = s.max(s.splat(EXP_MIN), s.min(s.splat(EXP_MAX), x));
    let n = s.round(s.mul(clamped, s.splat(LOG2_E)));
    let r = s.fma(n, s.splat(-LN2_HIGH), clamped);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    let mut p = s.splat(1.987_569_15e-4);
    for c in [1.398_199_95e-3, 8.333_451_9e-3, 4.166_579_6e-2, 1.666_666_55e-1, 5.000_000_1e-1] {
        p = s.fma(p, r, s.splat(c));
    }
    let y = s.add(s.fma(p, s.mul(r, r), r), s.splat(1.0));
    // NaN has no exponent to build: pass it by.
    let ordered = s.select_less(clamped, s.splat(f32::INFINITY), s.splat(0.0), s.splat(1.0));
    let scale = s.exp2_int(s.select_less(s.splat(0.5), ordered, s.splat(0.0), n));
    s.select_less(x, s.splat(EXP_MIN), s.splat(0.0), s.mul(y, scale))
}

/// sin x and cos x for |x| up to 2^20 or so: what a rotary position needs. Error below 1e-14.
pub fn sin_cos(x: f64) -> (f64, f64) {
    let quarter = (x * std::f64::consts::FRAC_2_PI).round_ties_even();
    // π/2 in three parts, the first two short enough that their products are exact.
    let r = quarter.mul_add(-1.570_796_251_296_997, x);
    let r = quarter.mul_add(-7.549_789_415_861_596e-8, r);
    let r = quarter.mul_add(-5.390_302_858_158_119e-15, r);
    let z = r * r;
    let horner = |coefficients: &[f64]| coefficients.iter().fold(0.0, |p, &c| z.mul_add(p, c));
    // Taylor series; |r| ≤ π/4 leaves nothing after these terms.
    let sin_tail = horner(&[
        -1.0 / 1_307_674_368_000.0,
        1.0 / 6_227_020_800.0,
        -1.0 / 39_916_800.0,
        1.0 / 362_880.0,
        -1.0 / 5_040.0,
        1.0 / 120.0,
        -1.0 / 6.0,
    ]);
    let cos_tail = horner(&[
        1.0 / 20_922_789_888_000.0,
        -1.0 / 87_178_291_200.0,
        1.0 / 479_001_600.0,
        -1.0 / 3_628_800.0,
        1.0 / 40_320.0,
        -1.0 / 720.0,
        1.0 / 24.0,
        -0.5,
    ]);
    let (sin, cos) = ((r * z).mul_add(sin_tail, r), z.mul_add(cos_tail, 1.0));
    match (quarter as i64).rem_euclid(4) {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// ln x for positive, normal x. Relative error below 1e-14.
pub fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    // ln m = 2 artanh((m−1)/(m+1)), |t| ≤ 0.172.
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let z = t * t;
    let tail = (1..=10).rev().fold(0.0_f64, |p, k| z.mul_add(p, 1.0 / f64::from(2 * k + 1)));
    let log_mantissa = 2.0 * (t * z).mul_add(tail, t);
    (exponent as f64).mul_add(std::f64::consts::LN_2, log_mantissa)
}

/// e^x in double precision. Relative error below 1e-13 for |x| ≤ 708; beyond, as at ±708.
pub fn exp_f64(x: f64) -> f64 {
    let x = x.clamp(-708.0, 708.0);
    let n = (x * std::f64::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-6.931_471_803_691_238e-1, x);
    let r = n.mul_add(-1.908_214_929_270_587_7e-10, r);
    let p = (1..=14).rev().fold(1.0_f64, |p, k| (r / f64::from(k)).mul_add(p, 1.0));
    p * f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

/// x^y for positive x.
pub fn powf(x: f64, y: f64) -> f64 {
    exp_f64(y * ln(x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_truth() {
        let mut worst = 0.0_f64;
        let mut x = -87.0_f32;
        while x < 88.2 {
            let truth = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - truth).abs() / truth);
            x += 0.003_7;
        }
        assert!(worst < 2.4e-7, "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1000.0), 0.0);
        assert!(exp(f32::INFINITY) > 1e38);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sin_and_cos_are_close_to_the_truth() {
        for i in -2_000_000..2_000_000 {
            let x = f64::from(i) * 0.013_7;
            let (sin, cos) = sin_cos(x);
            assert!((sin - x.sin()).abs() < 1e-11, "sin {x}: {sin}");
            assert!((cos - x.cos()).abs() < 1e-11, "cos {x}: {cos}");
        }
    }

    #[test]
    fn ln_exp_and_powers_are_close_to_the_truth() {
        for i in 1..200_000 {
            let x = f64::from(i) * 0.731;
            assert!((ln(x) - x.ln()).abs() <= 1e-13 * x.ln().abs().max(1.0), "ln {x}");
            let y = (f64::from(i) - 100_000.0) * 0.006;
            assert!((exp_f64(y) / y.exp() - 1.0).abs() < 1e-13, "exp {y}");
        }
        assert!((powf(100_000.0, -0.5) / 100_000.0_f64.powf(-0.5) - 1.0).abs() < 1e-13);
    }
}
