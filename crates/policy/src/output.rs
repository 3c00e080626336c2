//! How long outputs are.

use std::collections::BTreeMap;

use baton_types::ModelId;

use crate::ClassId;

/// Lengths of the outputs that ended lately, by model and class.
#[derive(Clone, Debug)]
pub struct OutputLengths {
    /// How long they are reckoned to be until some have ended.
    pub guess: u32,
    lengths: BTreeMap<(ModelId, ClassId), Lengths>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Lengths {
    outputs: u32,
    mean: f64,
    variance: f64,
    /// The share of outputs that have more tokens than each of the [`edge`]s.
    longer: [f32; EDGES],
}

/// What an output is reckoned to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// In the mean: what time is reckoned by.
    pub tokens: u32,
    /// What memory is reckoned by: most outputs are no longer.
    pub most: u32,
}

/// What the latest output counts for, when there are many.
const WEIGHT: f64 = 0.02;
/// What it counts for in the shares of long ones, which are rare.
const TAIL_WEIGHT: f64 = 0.002;
/// So many outputs are thought to have been as [`prior`] says.
const PRIOR: f64 = 4.0;
/// Eight for each doubling, to 65,536 tokens.
const EDGES: usize = 128;
/// Models and classes that are known at once.
const MAX_CLASSES: usize = 1024;

impl Default for OutputLengths {
    fn default() -> Self {
        OutputLengths { guess: 128, lengths: BTreeMap::new() }
    }
}

/// Where an edge is, in tokens.
fn edge(index: usize) -> f64 {
    (index as f64 / 8.0).exp2() - 1.0
}

/// The share of outputs longer than `tokens` before any is known: with a mean of `guess`, and a long
/// tail.
fn prior(tokens: u32, guess: u32) -> f64 {
    (1.0 + f64::from(tokens) / f64::from(guess.max(1))).powi(-2)
}

impl OutputLengths {
    /// An output of `tokens` has ended.
    pub fn observe(&mut self, model: &ModelId, class: ClassId, tokens: u32) {
        let key = (model.clone(), class);
        if !self.lengths.contains_key(&key) && self.lengths.len() >= MAX_CLASSES {
            return;
        }
        let none = Lengths { outputs: 0, mean: 0.0, variance: 0.0, longer: [0.0; EDGES] };
        let lengths = self.lengths.entry(key).or_insert(none);
        lengths.outputs = lengths.outputs.saturating_add(1);
        let weight = WEIGHT.max(1.0 / f64::from(lengths.outputs));
        let difference = f64::from(tokens) - lengths.mean;
        lengths.mean += weight * difference;
        lengths.variance = (1.0 - weight) * (lengths.variance + weight * difference * difference);
        let weight = TAIL_WEIGHT.max(1.0 / f64::from(lengths.outputs)) as f32;
        for (index, share) in lengths.longer.iter_mut().enumerate() {
            let is_longer = f64::from(tokens) > edge(index);
            *share += weight * (f32::from(u8::from(is_longer)) - *share);
        }
    }

    pub(crate) fn known(&self, model: &ModelId, class: ClassId) -> Option<&Lengths> {
        self.lengths.get(&(model.clone(), class))
    }

    /// The share of outputs that have more than `tokens`.
    pub(crate) fn longer(&self, known: Option<&Lengths>, tokens: u32) -> f64 {
        let prior = prior(tokens, self.guess);
        let Some(lengths) = known else { return prior };
        let place = (8.0 * (f64::from(tokens) + 1.0).log2()).min((EDGES - 1) as f64);
        let (below, part) = (place.floor() as usize, place.fract());
        let share = |index: usize| f64::from(lengths.longer[index.min(EDGES - 1)]);
        let seen = share(below) * (1.0 - part) + share(below + 1) * part;
        let outputs = f64::from(lengths.outputs).min(1.0 / TAIL_WEIGHT);
        (outputs * seen + PRIOR * prior) / (outputs + PRIOR)
    }

    /// How many tokens an output of at most `most` that has `age` of them will still have, in the mean.
    pub(crate) fn more(&self, model: &ModelId, class: ClassId, age: u32, most: u32) -> f64 {
        let known = self.known(model, class);
        let there = self.longer(known, age).max(f64::MIN_POSITIVE);
        let (mut sum, mut at, mut width) = (0.0, age, 4_u32);
        while at < most {
            let width_here = width.min(most - at);
            let middle = at + width_here / 2;
            sum += (self.longer(known, middle) / there).min(1.0) * f64::from(width_here);
            (at, width) = (at + width_here, width + width / 2);
        }
        sum.max(1.0)
    }

    /// What an output of at most `max` tokens will probably be, if outputs are `guess` long as long
    /// as none has ended.
    pub fn expected(&self, model: &ModelId, class: ClassId, max: u32, guess: u32) -> Expected {
        let known = self.lengths.get(&(model.clone(), class));
        let (mean, most) = match known {
            // A few say little.
            Some(lengths) if lengths.outputs >= 16 => {
                (lengths.mean, lengths.mean + lengths.variance.sqrt())
            }
            _ => (f64::from(guess), f64::from(guess)),
        };
        let tokens = |mean: f64| (mean.ceil() as u32).clamp(1, max.max(1));
        Expected { tokens: tokens(mean), most: tokens(most) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_expected_as_they_were_lately() {
        let (model, other) = (ModelId::from("m"), ModelId::from("n"));
        let mut lengths = OutputLengths::default();
        let guess = |lengths: &OutputLengths, model: &ModelId, max| {
            let Expected { tokens, most } = lengths.expected(model, ClassId::default(), max, 128);
            (tokens, most)
        };
        assert_eq!(guess(&lengths, &model, 1000), (128, 128));
        for at in 0..200 {
            let tokens = if at % 2 == 0 { 30 } else { 50 };
            lengths.observe(&model, ClassId::default(), tokens);
        }
        let (tokens, most) = guess(&lengths, &model, 1000);
        assert!((39..=42).contains(&tokens) && (48..=52).contains(&most), "{tokens} {most}");
        assert_eq!(guess(&lengths, &model, 10), (10, 10), "never more than may come");
        assert_eq!(guess(&lengths, &other, 1000), (128, 128));
        for _ in 0..400 {
            lengths.observe(&model, ClassId::default(), 400);
        }
        assert!(guess(&lengths, &model, 1000).0 > 390, "the old ones are forgotten");
    }
}
