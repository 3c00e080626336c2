//! Rotary positions: the angles each position turns a head's pairs by, and how they are stretched
//! over contexts longer than the trained one.

use std::f64::consts::TAU;

use baton_device::math;

/// How the angles of the pairs are slowed down.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scaling {
    None,
    /// All pairs alike (Chen et al., 2023).
    Linear {
        factor: f64,
    },
    /// Llama 3.1's: fast pairs as they are, slow ones by `factor`, those between smoothly.
    Llama3 {
        factor: f64,
        low_frequency: f64,
        high_frequency: f64,
        original_context: f64,
    },
    /// YaRN (Peng et al., 2023, §3.2 and 3.4): as Llama 3's, by pair index, and scores sharpened.
    Yarn {
        factor: f64,
        fast: f64,
        slow: f64,
        original_context: f64,
        amplitude: Option<f64>,
    },
    /// Every pair by its own divisor, `[head_dim / 2]`.
    Divisors(Vec<f32>),
}

/// The angles of one kind of layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rope {
    /// Radians a position, `[head_dim / 2]`.
    frequencies: Vec<f64>,
    /// What cosines and sines are multiplied by.
    amplitude: f64,
}

impl Rope {
    /// `base^(−2i/d)` for pair `i` (Su et al., 2021, §3.2.2), slowed down by `scaling`.
    pub(crate) fn new(head_dim: usize, base: f32, scaling: &Scaling) -> Self {
        let base = f64::from(base);
        let plain = |i: usize| math::powf(base, -2.0 * i as f64 / head_dim as f64);
        let share = |i: usize| scaling.slowed_by(i, plain(i), head_dim, base);
        let frequencies = (0..head_dim / 2).map(|i| plain(i) / share(i)).collect();
        let amplitude = match *scaling {
            Scaling::Yarn { factor, amplitude, .. } => {
                amplitude.unwrap_or_else(|| 0.1 * math::ln(factor) + 1.0)
            }
            _ => 1.0,
        };
        Rope { frequencies, amplitude }
    }

    /// `[position][head_dim / 2]` pairs of cosine and sine.
    pub(crate) fn table(&self, positions: u32) -> Vec<(f32, f32)> {
        let angles = |position| self.frequencies.iter().map(move |f| f64::from(position) * f);
        (0..positions)
            .flat_map(angles)
            .map(|angle| {
                let (sin, cos) = math::sin_cos(angle);
                ((cos * self.amplitude) as f32, (sin * self.amplitude) as f32)
            })
            .collect()
    }
}

impl Scaling {
    /// What pair `i`, of `frequency` unscaled, is divided by.
    fn slowed_by(&self, i: usize, frequency: f64, head_dim: usize, base: f64) -> f64 {
        match *self {
            Scaling::None => 1.0,
            Scaling::Linear { factor } => factor,
            Scaling::Llama3 { factor, low_frequency, high_frequency, original_context } => {
                let turns = original_context * frequency / TAU;
                let kept = (turns - low_frequency) / (high_frequency - low_frequency);
                blend(kept, factor)
            }
            Scaling::Yarn { factor, fast, slow, original_context, .. } => {
                // The pair that turns so many times over the original context.
                let pair = |turns: f64| {
                    let turned = math::ln(original_context / (turns * TAU)) / math::ln(base);
                    head_dim as f64 / 2.0 * turned
                };
                let first = pair(fast).floor().max(0.0);
                let last = pair(slow).ceil().min(head_dim as f64 - 1.0);
                blend(1.0 - (i as f64 - first) / (last - first).max(1e-3), factor)
            }
            Scaling::Divisors(ref divisors) => f64::from(divisors[i]),
        }
    }
}

/// The divisor of a pair that keeps a share `kept` of its speed; the rest is `factor` slower.
fn blend(kept: f64, factor: f64) -> f64 {
    let kept = kept.clamp(0.0, 1.0);
    1.0 / (kept + (1.0 - kept) / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divisors(scaling: &Scaling, head_dim: usize, base: f32) -> Vec<f64> {
        let (plain, scaled) =
            (Rope::new(head_dim, base, &Scaling::None), Rope::new(head_dim, base, scaling));
        plain.frequencies.iter().zip(&scaled.frequencies).map(|(a, b)| a / b).collect()
    }

    fn close(given: &[f64], expected: &[f64]) {
        assert_eq!(given.len(), expected.len());
        for (given, expected) in given.iter().zip(expected) {
            assert!((given - expected).abs() < 1e-9 * expected, "{given} against {expected}");
        }
    }

    /// Head dim 16, base 500 000, factor 8, 1 and 4 turns, 8192 tokens: wavelengths from 6.28 to
    /// 6.1e5 tokens, of which 8192/4 to 8192 is the smooth part.
    #[test]
    fn llama_3_slows_the_slow_pairs_alone() {
        let scaling = Scaling::Llama3 {
            factor: 8.0,
            low_frequency: 1.0,
            high_frequency: 4.0,
            original_context: 8192.0,
        };
        // Pair 4 turns 8192 / (2π·500000^0.5) = 1.843 802 times.
        let kept: f64 = (8192.0 / (TAU * 500_000_f64.sqrt()) - 1.0) / 3.0;
        let between = 1.0 / (kept + (1.0 - kept) / 8.0);
        close(&divisors(&scaling, 16, 500_000.0), &[1.0, 1.0, 1.0, 1.0, between, 8.0, 8.0, 8.0]);
    }

    /// Qwen2.5's: head dim 128, base 1e6, factor 4 over 32768.
    #[test]
    fn yarn_slows_by_pair_and_sharpens() {
        let scaling = Scaling::Yarn {
            factor: 4.0,
            fast: 32.0,
            slow: 1.0,
            original_context: 32_768.0,
            amplitude: None,
        };
        let divisors = divisors(&scaling, 128, 1e6);
        // 64·ln(32768/(32·2π))/ln 1e6 = 23.59…, 64·ln(32768/2π)/ln 1e6 = 39.65….
        close(&divisors[..24], &[1.0; 24]);
        close(&divisors[40..], &[4.0; 24]);
        assert!(divisors[23..=40].is_sorted() && divisors[31] > 1.2 && divisors[31] < 2.5);
        let amplitude = Rope::new(128, 1e6, &scaling).amplitude;
        assert!((amplitude - (0.1 * 4_f64.ln() + 1.0)).abs() < 1e-12);
    }

    #[test]
    fn linear_and_given_divisors_divide() {
        close(&divisors(&Scaling::Linear { factor: 8.0 }, 8, 1e4), &[8.0; 4]);
        let given = Scaling::Divisors(vec![1.0, 2.0, 4.0, 32.0]);
        close(&divisors(&given, 8, 1e4), &[1.0, 2.0, 4.0, 32.0]);
        assert_eq!(Rope::new(8, 1e4, &given).table(1), [(1.0, 0.0); 4]);
    }
}
