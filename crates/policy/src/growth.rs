//! How much of a decode node's pool those who are there will come to need.
//!
//! # Why isn't it enough to reserve what outputs are in the mean, and some more?
//!
//! Because those who are still there are the long ones: of outputs with long tails the ones that run at
//! any moment are far longer than the mean, and the longer one has run the more is still to come. So for
//! each moment ahead it is reckoned who will still be there, given how far each has come, and what they
//! hold then: its mean and its variance, of all together. A newcomer fits if the mean and
//! some standard deviations fit at every moment. What outputs are like is learned ([`OutputLengths`]).

use std::collections::BTreeMap;

use baton_types::ModelId;

use crate::{ClassId, OutputLengths, RequestView, ReservationId};

/// Moments, as steps ahead: at each the sequences that are still there hold what they will hold at
/// the next.
const AHEAD: [u32; MOMENTS + 1] =
    [0, 16, 32, 48, 72, 108, 162, 243, 365, 547, 820, 1230, 1845, 2768, 4152, 6228, 9342];
const MOMENTS: usize = 16;
/// Steps after which it is reckoned anew how far each has come.
const STALE: f64 = 16.0;

/// Blocks that sequences will hold at each moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Need {
    mean: [f64; MOMENTS],
    variance: [f64; MOMENTS],
}

/// One sequence on its way.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) model: ModelId,
    pub(crate) class: ClassId,
    /// In its context when it joins.
    pub(crate) tokens: u32,
    /// The most it generates.
    pub(crate) most: u32,
}

impl Sequence {
    pub(crate) fn of(request: &RequestView) -> Self {
        Sequence {
            model: request.model.clone(),
            class: request.class.id,
            tokens: request.tokens,
            most: request.max_new_tokens,
        }
    }
}

/// All sequences of one node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Growth {
    /// In order, so that sums are the same whenever they are made.
    sequences: BTreeMap<ReservationId, Growing>,
    need: Need,
    /// Tokens each had made on this node when it was last reckoned.
    reckoned_at: f64,
}

#[derive(Clone, Debug)]
struct Growing {
    sequence: Sequence,
    /// The same at its first token.
    began: Option<f64>,
    need: Need,
}

impl Need {
    /// Of one sequence that has generated `age` tokens.
    pub(crate) fn of(
        sequence: &Sequence,
        age: u32,
        outputs: &OutputLengths,
        block_tokens: u32,
    ) -> Self {
        let lengths = outputs.known(&sequence.model, sequence.class);
        let longer = |tokens| outputs.longer(lengths, tokens);
        let now = longer(age).max(f64::MIN_POSITIVE);
        let mut need = Need::default();
        for moment in 0..MOMENTS {
            let at = age.saturating_add(AHEAD[moment]);
            if moment > 0 && at >= sequence.most {
                break;
            }
            let until = age.saturating_add(AHEAD[moment + 1]).min(sequence.most);
            let held = sequence.tokens.saturating_add(until).div_ceil(block_tokens.max(1));
            let (there, held) = ((longer(at) / now).min(1.0), f64::from(held));
            need.mean[moment] = there * held;
            need.variance[moment] = there * (1.0 - there) * held * held;
        }
        need
    }

    pub(crate) fn add(&mut self, other: &Need) {
        self.change(other, 1.0);
    }

    pub(crate) fn take(&mut self, other: &Need) {
        self.change(other, -1.0);
    }

    fn change(&mut self, other: &Need, sign: f64) {
        for moment in 0..MOMENTS {
            self.mean[moment] += sign * other.mean[moment];
            self.variance[moment] += sign * other.variance[moment];
        }
    }

    /// Whether it will probably find room in `blocks`, with `more` beside it: its mean and so many standard
    /// deviations, at every moment.
    pub(crate) fn fits(&self, more: &Need, blocks: u64, deviations: f64) -> bool {
        (0..MOMENTS).all(|moment| self.fits_at(moment, more, blocks, deviations))
    }

    /// The same for the next so many steps.
    pub(crate) fn fits_within(&self, blocks: u64, deviations: f64, steps: f64) -> bool {
        let near = |moment: &usize| *moment == 0 || f64::from(AHEAD[*moment]) <= steps;
        (0..MOMENTS)
            .take_while(near)
            .all(|moment| self.fits_at(moment, &Need::default(), blocks, deviations))
    }

    fn fits_at(&self, moment: usize, more: &Need, blocks: u64, deviations: f64) -> bool {
        let mean = self.mean[moment] + more.mean[moment];
        let variance = (self.variance[moment] + more.variance[moment]).max(0.0);
        let spare = blocks as f64 - mean;
        spare >= 0.0 && spare * spare >= deviations * deviations * variance
    }

    /// In the mean at the moment when it is most.
    pub(crate) fn most(&self) -> f64 {
        self.mean.iter().copied().fold(0.0, f64::max)
    }
}

impl Growth {
    pub(crate) fn enter(&mut self, id: ReservationId, sequence: Sequence, need: Need) {
        self.need.add(&need);
        self.sequences.insert(id, Growing { sequence, began: None, need });
    }

    /// Its first token is there, after so many steps of the node.
    pub(crate) fn begin(&mut self, id: ReservationId, steps: f64) {
        if let Some(growing) = self.sequences.get_mut(&id) {
            growing.began.get_or_insert(steps);
        }
    }

    pub(crate) fn leave(&mut self, id: ReservationId) {
        if let Some(growing) = self.sequences.remove(&id) {
            self.need.take(&growing.need);
        }
        if self.sequences.is_empty() {
            // What rounding left.
            self.need = Need::default();
        }
    }

    /// Reckons anew how far each has come, unless it was done just now.
    pub(crate) fn reckon(&mut self, steps: f64, outputs: &OutputLengths, block_tokens: u32) {
        if steps < self.reckoned_at + STALE {
            return;
        }
        self.reckoned_at = steps;
        self.need = Need::default();
        for Growing { sequence, began, need } in self.sequences.values_mut() {
            let age = began.map_or(0.0, |began| (steps - began).max(0.0)) as u32;
            let age = age.min(sequence.most);
            *need = Need::of(sequence, age, outputs, block_tokens);
            self.need.add(need);
        }
    }

    /// Tokens that one has generated, if it has begun.
    pub(crate) fn age(&self, id: ReservationId, steps: f64) -> Option<f64> {
        let Growing { sequence, began, .. } = self.sequences.get(&id)?;
        began.map(|began| (steps - began).clamp(0.0, sequence.most.into()))
    }

    /// Tokens in one's context.
    pub(crate) fn tokens(&self, id: ReservationId, steps: f64) -> Option<u64> {
        let age = self.age(id, steps)?;
        Some(u64::from(self.sequences.get(&id)?.sequence.tokens) + age as u64)
    }

    /// Of all together,
    pub(crate) fn need(&self) -> Need {
        self.need
    }

    /// and of one.
    pub(crate) fn need_of(&self, id: ReservationId) -> Option<Need> {
        self.sequences.get(&id).map(|growing| growing.need)
    }

    /// Who is there, in order: what each is, and how many tokens it has generated, if it has begun.
    pub(crate) fn sequences(
        &self,
        steps: f64,
    ) -> impl Iterator<Item = (ReservationId, &Sequence, Option<f64>)> {
        self.sequences.iter().map(move |(&id, growing)| {
            let age = growing.began.map(|began| (steps - began).max(0.0));
            (id, &growing.sequence, age.map(|age| age.min(growing.sequence.most.into())))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(tokens: u32, most: u32) -> Sequence {
        Sequence { model: "m".into(), class: ClassId::default(), tokens, most }
    }

    /// Outputs of 10 tokens, and one of twenty of 1,000.
    fn outputs() -> OutputLengths {
        let mut outputs = OutputLengths::default();
        for nth in 0..2000 {
            let tokens = if nth % 20 == 0 { 1000 } else { 10 };
            outputs.observe(&"m".into(), ClassId::default(), tokens);
        }
        outputs
    }

    #[test]
    fn a_newcomer_will_probably_be_short_and_an_old_one_is_long() {
        let outputs = outputs();
        let at = |need: &Need, steps| {
            let moment = AHEAD.iter().position(|&ahead| ahead >= steps).expect("a moment");
            need.mean[moment]
        };
        let new = Need::of(&sequence(160, 4000), 0, &outputs, 16);
        assert_eq!(new.mean[0], 11.0, "prompt and the tokens of the next steps");
        assert!(at(&new, 365) < 0.1 * 34.0, "{new:?}");
        let old = Need::of(&sequence(160, 4000), 50, &outputs, 16);
        assert!(at(&old, 365) > 0.8 * 34.0, "{old:?}");
        let bounded = Need::of(&sequence(160, 60), 50, &outputs, 16);
        assert_eq!((bounded.mean[0], bounded.mean[1]), (14.0, 0.0), "it ends by then");
    }

    #[test]
    fn what_has_left_leaves_nothing_and_age_counts() {
        let (outputs, mut growth) = (outputs(), Growth::default());
        for id in 0..20 {
            let need = Need::of(&sequence(160, 4000), 0, &outputs, 16);
            growth.enter(ReservationId(id), sequence(160, 4000), need);
            growth.begin(ReservationId(id), 0.0);
        }
        let newcomer = Need::of(&sequence(160, 4000), 0, &outputs, 16);
        assert!(growth.need.fits(&newcomer, 400, 2.5), "most of them end soon: {growth:?}");
        growth.reckon(60.0, &outputs, 16);
        assert!(!growth.need.fits(&newcomer, 400, 2.5), "all are long ones");
        assert!(growth.need.fits(&newcomer, 2000, 2.5));
        for id in 0..20 {
            growth.leave(ReservationId(id));
        }
        assert_eq!(growth.need, Need::default());
    }
}
