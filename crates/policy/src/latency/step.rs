use baton_types::{StepReport, StepShape};

use super::{
    regression::MOST,
    solve::{N, Vector},
};

/// In microseconds, as steps are reported: what takes less wasn't measured.
pub(super) const LEAST: f64 = 1.0;
/// Nobody has so many tokens, in a step or in a cache.
const MOST_TOKENS: f64 = (1_u64 << 24) as f64;

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Prefill,
    Decode,
    Mixed,
}

impl Kind {
    pub(super) fn of(shape: &StepShape) -> Option<Kind> {
        match (shape.prefill_tokens > 0, shape.decode_batch > 0) {
            (true, false) => Some(Kind::Prefill),
            (false, true) => Some(Kind::Decode),
            (true, true) => Some(Kind::Mixed),
            (false, false) => None,
        }
    }
}

/// A report that says something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) kind: Kind,
    /// What the coefficients are multiplied with.
    pub(super) terms: Vector,
    /// Microseconds.
    pub(super) actual: f64,
}

impl Step {
    /// `None` of what can't be: steps without work, without time, or without measure.
    pub(super) fn of(report: &StepReport) -> Option<Step> {
        let StepReport { shape, duration } = report;
        let kind = Kind::of(shape)?;
        let actual = (duration.as_secs_f64() * 1e6).min(MOST);
        if actual < LEAST {
            return None;
        }
        let prefill = [1.0, shape.prefill_tokens.into(), shape.prefill_attention];
        let decode = [1.0, shape.decode_batch.into(), shape.decode_context as f64];
        let mut terms = [0.0; N];
        for (part, at, absent) in [(prefill, 0, Kind::Decode), (decode, 3, Kind::Prefill)] {
            if kind == absent {
                continue;
            }
            let [_, tokens, pairs] = part;
            if tokens > MOST_TOKENS || !(0.0..=tokens * MOST_TOKENS).contains(&pairs) {
                return None;
            }
            terms[at..at + 3].copy_from_slice(&part);
        }
        Some(Step { kind, terms, actual })
    }
}
