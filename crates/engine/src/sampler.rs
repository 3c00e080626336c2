//! From logits to a token.

use baton_device::math::exp;
use baton_scheduler::SampleStep;
use baton_types::{ChoiceIndex, TokenId};
use xxhash_rust::xxh3::Xxh3;

/// Digest of the raw logits' bits.
pub(crate) fn digest(logits: &[f32]) -> u64 {
    let mut hasher = Xxh3::new();
    let mut bytes = [0; 4096];
    for chunk in logits.chunks(1024) {
        for (four, x) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(chunk) {
            *four = x.to_le_bytes();
        }
        hasher.update(&bytes[..4 * chunk.len()]);
    }
    hasher.digest()
}

/// The token `step` draws, or `None` when a logit is NaN or infinite.
///
/// Greedy takes the largest logit, the lowest id among equals. Otherwise ids in ascending order
/// share the unit interval by `e^((l − max)/temperature)`, and one draw picks.
pub(crate) fn sample(logits: &[f32], step: SampleStep, choice: ChoiceIndex) -> Option<TokenId> {
    let mut best = 0;
    let mut finite = true;
    for (id, &logit) in logits.iter().enumerate() {
        finite &= logit.is_finite();
        if logit > logits[best] {
            best = id;
        }
    }
    if !finite {
        return None;
    }
    let temperature = step.sampling.temperature;
    if temperature == 0.0 {
        return Some(TokenId(best as u32));
    }
    let weight = |logit: f32| f64::from(exp((logit - logits[best]) / temperature));
    let total = logits.iter().fold(0.0, |sum, &logit| sum + weight(logit));
    let threshold = total * uniform(step.sampling.seed, choice, step.index);
    let mut sum = 0.0;
    for (id, &logit) in logits.iter().enumerate() {
        sum += weight(logit);
        if sum > threshold {
            return Some(TokenId(id as u32));
        }
    }
    Some(TokenId(best as u32))
}

/// In [0, 1), from 53 random bits: draw 0 of `(seed, choice, token index)`.
fn uniform(seed: u64, choice: ChoiceIndex, index: u32) -> f64 {
    let counter = [index, u32::from(choice.0), 0, 0];
    let [a, b, ..] = philox(counter, [seed as u32, (seed >> 32) as u32]);
    let bits = (u64::from(a) << 32 | u64::from(b)) >> 11;
    bits as f64 / (1_u64 << 53) as f64
}

/// Philox4x32-10 (Salmon et al., 2011).
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let first = u64::from(counter[0]) * 0xD251_1F53;
        let second = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use baton_types::SamplingSpec;

    use super::*;

    fn draw(logits: &[f32], temperature: f32, seed: u64, index: u32) -> Option<u32> {
        let step = SampleStep { sampling: SamplingSpec { temperature, seed }, index };
        sample(logits, step, ChoiceIndex(0)).map(|token| token.0)
    }

    #[test]
    fn philox_gives_its_authors_known_answers() {
        let zero = [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8];
        assert_eq!(philox([0; 4], [0; 2]), zero);
        let ones = [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd];
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), ones);
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals_and_refuses_nonsense() {
        assert_eq!(draw(&[1.0, 3.0, 3.0, 2.0], 0.0, 0, 0), Some(1));
        assert_eq!(draw(&[1.0, f32::NAN], 0.0, 0, 0), None);
        assert_eq!(draw(&[1.0, f32::INFINITY], 1.0, 0, 0), None);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.0, (3.0_f32).ln(), f32::MIN];
        let mut counts = [0; 3];
        for index in 0..40_000 {
            counts[draw(&logits, 1.0, 42, index).unwrap() as usize] += 1;
        }
        assert_eq!(counts[2], 0);
        assert!((counts[1] as f64 / 40_000.0 - 0.75).abs() < 0.01, "{counts:?}");
        assert_eq!(draw(&logits, 1.0, 7, 3), draw(&logits, 1.0, 7, 3));
    }
}
