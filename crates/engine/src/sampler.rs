//! From logits to a token.
//!
//! Every sum here has one order, and every comparison breaks ties by id: the same logits give the
//! same token on every machine (`same-tokens`).

use baton_device::math::{exp, ln};
use baton_scheduler::{EngineError, SampleStep};
use baton_types::{
    ChoiceIndex, ConstraintError, SamplingSpec, SequenceKey, TokenId, TokenLogprobs, TokenMask,
};
use xxhash_rust::xxh3::Xxh3;

use crate::cuts::{self, Cuts};

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

/// Draws tokens; keeps its scratch from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    /// Logits after bias and penalties; banned tokens have −∞.
    shaped: Vec<f32>,
    /// How often each token was emitted, and whether the prompt has it.
    counts: Vec<(u32, bool)>,
    cuts: Cuts,
    mask: TokenMask,
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Undrawable {
    /// A logit is NaN or infinite.
    NotFinite,
    Constraint(ConstraintError),
}

impl Undrawable {
    pub(crate) fn blame(self, key: SequenceKey) -> EngineError {
        match self {
            Undrawable::NotFinite => EngineError::NotFinite { key },
            Undrawable::Constraint(source) => EngineError::Constraint { key, source },
        }
    }
}

impl Sampler {
    /// The token `step` draws.
    ///
    /// Greedy takes the largest logit, the lowest id among equals. Otherwise ids in ascending order
    /// share the unit interval by `e^((l − max)/temperature)`, and one draw picks.
    pub(crate) fn sample(
        &mut self,
        logits: &[f32],
        step: SampleStep<'_>,
        choice: ChoiceIndex,
    ) -> Result<(TokenId, Option<Box<TokenLogprobs>>), Undrawable> {
        if !logits.iter().all(|logit| logit.is_finite()) {
            return Err(Undrawable::NotFinite);
        }
        let token = if is_shaped(step) {
            let mut shaped = std::mem::take(&mut self.shaped);
            let done = self.shape(logits, step, &mut shaped);
            let token = done.map(|()| self.draw(&shaped, step, choice));
            self.shaped = shaped;
            token?
        } else {
            self.draw(logits, step, choice)
        };
        let told = step.sampling.logprobs.map(|top| Box::new(logprobs(logits, token, top)));
        Ok((token, told))
    }

    /// `shaped` becomes the logits after bias, penalties, ban and grammar.
    fn shape(
        &mut self,
        logits: &[f32],
        step: SampleStep<'_>,
        shaped: &mut Vec<f32>,
    ) -> Result<(), Undrawable> {
        let spec = step.sampling;
        shaped.clear();
        shaped.extend_from_slice(logits);
        for &(TokenId(id), bias) in &spec.logit_bias {
            if let Some(logit) = shaped.get_mut(id as usize) {
                *logit += bias;
            }
        }
        self.penalise(spec, step, shaped);
        let mut ban_stops = step.index < spec.min_tokens;
        if let Some(constraint) = step.constraint {
            constraint.allowed(step.output, &mut self.mask).map_err(Undrawable::Constraint)?;
            ban_stops &= !self.mask.iter().all(|token| step.stop_tokens.contains(&token));
            self.mask.apply(shaped);
        }
        if ban_stops {
            for &TokenId(id) in step.stop_tokens {
                if let Some(logit) = shaped.get_mut(id as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        Ok(())
    }

    fn penalise(&mut self, spec: &SamplingSpec, step: SampleStep<'_>, shaped: &mut [f32]) {
        let SamplingSpec { repetition_penalty, frequency_penalty, presence_penalty, .. } = *spec;
        if repetition_penalty == 1.0 && frequency_penalty == 0.0 && presence_penalty == 0.0 {
            return;
        }
        self.counts.clear();
        self.counts.resize(shaped.len(), (0, false));
        for &TokenId(id) in step.prompt {
            self.counts[id as usize].1 = true;
        }
        for &TokenId(id) in step.output {
            self.counts[id as usize].0 += 1;
        }
        for (logit, &(emitted, prompted)) in shaped.iter_mut().zip(&self.counts) {
            if emitted > 0 || prompted {
                let down = *logit > 0.0;
                *logit =
                    if down { *logit / repetition_penalty } else { *logit * repetition_penalty };
            }
            if emitted > 0 {
                *logit -= frequency_penalty * emitted as f32;
                *logit -= presence_penalty;
            }
        }
    }

    fn draw(&mut self, logits: &[f32], step: SampleStep<'_>, choice: ChoiceIndex) -> TokenId {
        let spec = step.sampling;
        let mut best = 0;
        for (id, &logit) in logits.iter().enumerate() {
            if logit > logits[best] {
                best = id;
            }
        }
        if spec.temperature == 0.0 {
            return TokenId(best as u32);
        }
        let weight = |logit: f32| match logit {
            f32::NEG_INFINITY => 0.0,
            logit => f64::from(exp((logit - logits[best]) / spec.temperature)),
        };
        let uniform = uniform(spec.seed, choice, step.index);
        if !cuts::are_wanted(spec) {
            let weights = || (0..).zip(logits.iter().map(|&logit| weight(logit)));
            return pick(weights(), uniform).unwrap_or(TokenId(best as u32));
        }
        let kept = self.cuts.keep(logits, spec, weight);
        kept.sort_unstable_by_key(|candidate| candidate.id);
        let weights = kept.iter().map(|candidate| (candidate.id, candidate.weight));
        pick(weights, uniform).unwrap_or(TokenId(best as u32))
    }
}

/// Whether any logit differs from the model's before the draw.
fn is_shaped(step: SampleStep<'_>) -> bool {
    let spec = step.sampling;
    !spec.logit_bias.is_empty()
        || spec.repetition_penalty != 1.0
        || spec.frequency_penalty != 0.0
        || spec.presence_penalty != 0.0
        || step.index < spec.min_tokens
        || step.constraint.is_some()
}

/// The token at `uniform` of the way through the weights' sum.
fn pick(weights: impl Iterator<Item = (u32, f64)> + Clone, uniform: f64) -> Option<TokenId> {
    let total = weights.clone().fold(0.0, |sum, (_, weight)| sum + weight);
    let threshold = total * uniform;
    let mut sum = 0.0;
    let mut weights = weights;
    let (id, _) = weights.find(|(_, weight)| {
        sum += weight;
        sum > threshold
    })?;
    Some(TokenId(id))
}

/// By the model's own distribution.
pub(crate) fn logprobs(logits: &[f32], token: TokenId, top: u32) -> TokenLogprobs {
    let highest = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum = logits.iter().fold(0.0, |sum, &logit| sum + f64::from(exp(logit - highest)));
    let norm = f64::from(highest) + ln(sum);
    let logprob = |logit: f32| (f64::from(logit) - norm) as f32;
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let by_logit =
        |&a: &u32, &b: &u32| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b));
    let top = (top as usize).min(order.len());
    if top > 0 && top < order.len() {
        order.select_nth_unstable_by(top - 1, by_logit);
    }
    order.truncate(top);
    order.sort_unstable_by(by_logit);
    let told = order.into_iter().map(|id| (TokenId(id), logprob(logits[id as usize])));
    TokenLogprobs { logprob: logprob(logits[token.0 as usize]), top: told.collect() }
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
    use proptest::prelude::*;

    use super::*;

    const STOP: [TokenId; 1] = [TokenId(0)];

    fn step(sampling: &SamplingSpec, index: u32) -> SampleStep<'_> {
        SampleStep { stop_tokens: &STOP, ..SampleStep::new(sampling, index) }
    }

    fn drawn(logits: &[f32], step: SampleStep<'_>) -> Option<u32> {
        let drawn = Sampler::default().sample(logits, step, ChoiceIndex(0));
        drawn.ok().map(|(token, _)| token.0)
    }

    fn draw(logits: &[f32], temperature: f32, seed: u64, index: u32) -> Option<u32> {
        let spec = SamplingSpec { temperature, seed, ..SamplingSpec::default() };
        drawn(logits, step(&spec, index))
    }

    /// Every token that `spec` draws in 2,000 tries.
    fn support(logits: &[f32], spec: &SamplingSpec) -> Vec<u32> {
        let mut seen: Vec<u32> =
            (0..2_000).filter_map(|index| drawn(logits, step(spec, index))).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    /// Logits of the given probabilities.
    fn of(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
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
        assert_ne!(draw(&logits, 0.1, 7, 3), Some(2), "a temperature below 1");
    }

    #[test]
    fn each_cut_leaves_what_it_says() {
        let logits = of(&[0.1, 0.4, 0.05, 0.25, 0.2]);
        let plain = SamplingSpec::default;
        assert_eq!(support(&logits, &plain()), [0, 1, 2, 3, 4]);
        assert_eq!(support(&logits, &SamplingSpec { top_k: 2, ..plain() }), [1, 3]);
        assert_eq!(support(&logits, &SamplingSpec { top_p: 0.6, ..plain() }), [1, 3]);
        assert_eq!(support(&logits, &SamplingSpec { top_p: 0.7, ..plain() }), [1, 3, 4]);
        assert_eq!(support(&logits, &SamplingSpec { min_p: 0.45, ..plain() }), [1, 3, 4]);
        // Of 0.4, 0.25, 0.2 it keeps 80 %: two of the three.
        let both = SamplingSpec { top_k: 3, top_p: 0.7, ..plain() };
        assert_eq!(support(&logits, &both), [1, 3]);
        // The entropy is 1.42 nats: 0.25 (1.39) is closest, then 0.2 (1.61).
        assert_eq!(support(&logits, &SamplingSpec { typical_p: 0.2, ..plain() }), [3]);
        assert_eq!(support(&logits, &SamplingSpec { typical_p: 0.4, ..plain() }), [3, 4]);
        let later = SamplingSpec { min_tokens: 2_000, ..plain() };
        assert_eq!(support(&logits, &later), [1, 2, 3, 4], "0 would end the sequence");
        let cold = SamplingSpec { top_k: 3, temperature: 0.0, ..plain() };
        assert_eq!(support(&logits, &cold), [1]);
    }

    #[test]
    fn penalties_biases_and_bans_shape_the_logits() {
        let logits = [1.0, 2.0, 1.9, -1.0];
        let greedy = || SamplingSpec::GREEDY;
        let after = |spec: SamplingSpec, prompt: &[TokenId], output: &[TokenId], index| {
            let sampling = &spec;
            drawn(
                &logits,
                SampleStep {
                    prompt,
                    output,
                    stop_tokens: &[TokenId(1)],
                    ..SampleStep::new(sampling, index)
                },
            )
        };
        let one = [TokenId(1)];
        assert_eq!(after(greedy(), &one, &one, 0), Some(1));
        assert_eq!(after(SamplingSpec { min_tokens: 3, ..greedy() }, &[], &[], 2), Some(2));
        assert_eq!(after(SamplingSpec { min_tokens: 3, ..greedy() }, &[], &[], 3), Some(1));
        let repeated = SamplingSpec { repetition_penalty: 1.5, ..greedy() };
        assert_eq!(after(repeated.clone(), &[], &[], 0), Some(1));
        assert_eq!(after(repeated.clone(), &one, &[], 0), Some(2));
        assert_eq!(after(repeated, &[], &one, 0), Some(2));
        let present = SamplingSpec { presence_penalty: 0.2, ..greedy() };
        assert_eq!(after(present.clone(), &one, &[], 0), Some(1), "the prompt is no output");
        assert_eq!(after(present, &[], &one, 0), Some(2));
        let frequent = SamplingSpec { frequency_penalty: 0.06, ..greedy() };
        assert_eq!(after(frequent.clone(), &[], &one, 0), Some(1));
        assert_eq!(after(frequent, &[], &[TokenId(1); 2], 0), Some(2));
        let bias = vec![(TokenId(3), 50.0), (TokenId(99), 100.0)];
        assert_eq!(after(SamplingSpec { logit_bias: bias, ..greedy() }, &[], &[], 0), Some(3));
    }

    #[test]
    fn logprobs_are_the_models_own() {
        let logits = of(&[0.1, 0.4, 0.2, 0.2, 0.1]);
        let bias = vec![(TokenId(0), 100.0)];
        let spec = SamplingSpec { logprobs: Some(3), logit_bias: bias, ..SamplingSpec::GREEDY };
        let (token, told) =
            Sampler::default().sample(&logits, step(&spec, 0), ChoiceIndex(0)).unwrap();
        let told = told.unwrap();
        assert_eq!(token, TokenId(0));
        let near = |a: f32, p: f32| (a - p.ln()).abs() < 1e-5;
        assert!(near(told.logprob, 0.1), "{told:?}");
        let [(a, p), (b, q), (c, r)] = told.top[..] else { panic!("{told:?}") };
        assert_eq!((a, b, c), (TokenId(1), TokenId(2), TokenId(3)));
        assert!(near(p, 0.4) && near(q, 0.2) && near(r, 0.2), "{told:?}");
        let none = SamplingSpec { logprobs: Some(0), ..SamplingSpec::GREEDY };
        let (_, told) = Sampler::default().sample(&logits, step(&none, 0), ChoiceIndex(0)).unwrap();
        assert_eq!(told.unwrap().top, []);
    }

    proptest! {
        /// Looking at the likeliest few only changes nothing.
        #[test]
        fn a_cut_is_the_same_sorted_whole(
            seed in any::<u64>(),
            spread in 0.1_f32..8.0,
            top_p in 0.05_f32..1.0,
            min_p in prop_oneof![Just(0.0_f32), 0.001_f32..0.5],
            top_k in prop_oneof![Just(0_u32), 1_u32..2_000],
        ) {
            let mut state = seed | 1;
            let logits: Vec<f32> = (0..3_000)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * spread
                })
                .collect();
            let spec = SamplingSpec { top_p, min_p, top_k, ..SamplingSpec::default() };
            let highest = logits.iter().copied().fold(f32::MIN, f32::max);
            let weight = |logit: f32| f64::from(exp(logit - highest));
            let mut cuts = Cuts::default();
            let kept = cuts.keep(&logits, &spec, weight);
            let mut kept: Vec<u32> = kept.iter().map(|candidate| candidate.id).collect();
            kept.sort_unstable();

            let mut order: Vec<u32> = (0..3_000).collect();
            order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
            if top_k > 0 {
                order.truncate(top_k as usize);
            }
            let of = |&id: &u32| weight(logits[id as usize]);
            // Which tokens are summed decides the last bits; a token there may fall either way.
            let total: f64 = order.iter().map(of).sum();
            let mut sum = 0.0;
            let count = order.iter().position(|id| { sum += of(id); sum >= f64::from(top_p) * total });
            order.truncate(count.map_or(order.len(), |last| last + 1));
            order.retain(|id| of(id) >= f64::from(min_p));
            order.sort_unstable();
            prop_assert!(kept.len().abs_diff(order.len()) <= 1, "{} and {}", kept.len(), order.len());
        }
    }
}
