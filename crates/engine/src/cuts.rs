//! What is left of a distribution: top-k, typical-p, top-p, min-p.

use std::cmp::Ordering;

use baton_device::math::ln;
use baton_types::SamplingSpec;

/// How many of the likeliest tokens a cut looks at before it sorts the whole vocabulary.
const HEAD: usize = 512;

/// The candidates that are left; kept from one draw to the next.
#[derive(Debug, Default)]
pub(crate) struct Cuts {
    kept: Vec<Candidate>,
}

/// A token and its weight: its probability times what the weights sum up to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) id: u32,
    logit: f32,
    pub(crate) weight: f64,
}

impl Cuts {
    /// What the cuts of `spec` leave of the distribution, the likeliest first or not.
    pub(crate) fn keep(
        &mut self,
        logits: &[f32],
        spec: &SamplingSpec,
        weight: impl Fn(f32) -> f64,
    ) -> &mut [Candidate] {
        let all = logits.len();
        // Only the likeliest few are sorted, if the cuts lie among them.
        let heads = match spec.top_k as usize {
            0 if spec.typical_p < 1.0 => vec![all],
            0 => vec![HEAD.min(all), all],
            top_k => vec![top_k.min(all)],
        };
        for &head in &heads {
            self.likeliest(logits, head, &weight);
            if spec.typical_p < 1.0 {
                typical(&mut self.kept, spec.typical_p);
            }
            let is_last = Some(&head) == heads.last();
            let total = match is_last {
                true => self.kept.iter().fold(0.0, |sum, candidate| sum + candidate.weight),
                false => logits.iter().fold(0.0, |sum, &logit| sum + weight(logit)),
            };
            let is_reached = nucleus(&mut self.kept, spec.top_p, total);
            let highest = self.kept.first().map_or(0.0, |candidate| candidate.weight);
            let before = self.kept.len();
            self.kept.retain(|candidate| candidate.weight >= f64::from(spec.min_p) * highest);
            if is_last || is_reached || self.kept.len() < before {
                break;
            }
        }
        &mut self.kept
    }

    /// The `count` likeliest, in order.
    fn likeliest(&mut self, logits: &[f32], count: usize, weight: &impl Fn(f32) -> f64) {
        self.kept.clear();
        self.kept.extend((0..).zip(logits).map(|(id, &logit)| Candidate {
            id,
            logit,
            weight: 0.0,
        }));
        if count < self.kept.len() {
            self.kept.select_nth_unstable_by(count, likelier);
            self.kept.truncate(count);
        }
        self.kept.sort_unstable_by(likelier);
        for candidate in &mut self.kept {
            candidate.weight = weight(candidate.logit);
        }
    }
}

/// By falling logit; equals by ascending id.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Whether `spec` leaves anything out.
pub(crate) fn are_wanted(spec: &SamplingSpec) -> bool {
    spec.top_k != 0 || spec.top_p < 1.0 || spec.min_p > 0.0 || spec.typical_p < 1.0
}

/// Leaves the tokens whose information is closest to the distribution's entropy, as many as reach
/// `mass`, the likeliest first.
fn typical(kept: &mut Vec<Candidate>, mass: f32) {
    let total = kept.iter().fold(0.0, |sum, candidate| sum + candidate.weight);
    kept.retain(|candidate| candidate.weight > 0.0);
    let information = |candidate: &Candidate| -ln(candidate.weight / total);
    let entropy = kept.iter().fold(0.0, |sum, c| sum + c.weight / total * information(c));
    let off = |candidate: &Candidate| (information(candidate) - entropy).abs();
    kept.sort_unstable_by(|a, b| off(a).total_cmp(&off(b)).then(a.id.cmp(&b.id)));
    nucleus(kept, mass, total);
    kept.sort_unstable_by(likelier);
}

/// Leaves the first tokens that together reach `mass` of `total`. False if all together don't.
fn nucleus(kept: &mut Vec<Candidate>, mass: f32, total: f64) -> bool {
    if mass >= 1.0 {
        return false;
    }
    let mut sum = 0.0;
    let reached = kept.iter().position(|candidate| {
        sum += candidate.weight;
        sum >= f64::from(mass) * total
    });
    match reached {
        Some(last) => kept.truncate(last + 1),
        None => return false,
    }
    true
}
