//! Why requests were placed as they were: the latest of them, for `baton explain`.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use baton_policy::{Path, Placement, Prediction, Won};
use baton_proto::{convert::micros, v1};
use baton_types::{NodeId, RequestId, SequenceKey, Slo};

use crate::request::Standing;

/// Requests that are known.
const KNOWN: usize = 1000;

/// Everything by its request; the oldest is forgotten for a new one.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    decisions: HashMap<RequestId, Vec<v1::Decision>>,
    order: VecDeque<RequestId>,
}

/// A placement, when it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noted<'a> {
    pub(crate) key: SequenceKey,
    /// 1 for the sequence's first.
    pub(crate) attempt: u32,
    pub(crate) waited: Duration,
    pub(crate) standing: &'a Standing,
    pub(crate) placement: &'a Placement,
    /// It was decoded there, and moved.
    pub(crate) moved_from: Option<&'a NodeId>,
}

impl Ledger {
    pub(crate) fn note(&self, noted: Noted<'_>) {
        let request = noted.key.request;
        let mut book = self.lock();
        if !book.decisions.contains_key(&request) {
            if book.order.len() >= KNOWN
                && let Some(oldest) = book.order.pop_front()
            {
                book.decisions.remove(&oldest);
            }
            book.order.push_back(request);
        }
        book.decisions.entry(request).or_default().push(decision(noted));
    }

    /// What came of a sequence's last attempt.
    pub(crate) fn ended(&self, key: SequenceKey, timings: &v1::Timings) {
        let mut book = self.lock();
        let decisions = book.decisions.get_mut(&key.request);
        let choice = u32::from(key.choice.0);
        let mut own = decisions.into_iter().flatten().filter(|told| told.choice == choice);
        if let Some(last) = own.next_back() {
            last.ttft_us = (timings.ttft_us > 0).then_some(timings.ttft_us);
            last.tpot_us = (timings.tpot_us > 0).then_some(timings.tpot_us);
        }
    }

    /// None if it isn't among the latest.
    pub(crate) fn explain(&self, request: RequestId) -> Option<Vec<v1::Decision>> {
        self.lock().decisions.get(&request).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn decision(noted: Noted<'_>) -> v1::Decision {
    let Noted { key, attempt, waited, standing, placement, moved_from } = noted;
    let Slo { ttft, tpot } = standing.slo;
    let reasons = &placement.reasons;
    let others = placement.alternatives.iter();
    v1::Decision {
        choice: key.choice.0.into(),
        attempt,
        class: standing.name.to_string(),
        tenant: standing.tenant.id.0.to_string(),
        ttft_objective_us: ttft.map(micros),
        tpot_objective_us: tpot.map(micros),
        waited_us: micros(waited),
        chosen: Some(path(&placement.path, &placement.predicted)),
        won: match reasons.won {
            Won::Alone => v1::Won::Alone,
            Won::Attainment => v1::Won::Attainment,
            Won::Cost => v1::Won::Cost,
            Won::Draw => v1::Won::Draw,
            Won::Policy => v1::Won::Policy,
        }
        .into(),
        candidates: reasons.candidates,
        near_equal: reasons.near_equal,
        queue_us: micros(reasons.queue),
        prefill_cached_tokens: reasons.prefill_cached_tokens,
        decode_cached_tokens: reasons.decode_cached_tokens,
        alternatives: others.map(|other| path(&other.path, &other.predicted)).collect(),
        ttft_us: None,
        tpot_us: None,
        moved_from: moved_from.map(ToString::to_string).unwrap_or_default(),
    }
}

fn path(path: &Path, predicted: &Prediction) -> v1::Path {
    let name = |placed: Option<&baton_policy::Placed>| {
        placed.map(|placed| placed.node.to_string()).unwrap_or_default()
    };
    v1::Path {
        prefill_node: name(path.prefill()),
        decode_node: name(path.decode()),
        ttft_us: micros(predicted.ttft),
        exposed_transfer_us: micros(predicted.exposed_transfer),
        tpot_us: micros(predicted.tpot),
        attainment: predicted.attainment,
        loss: predicted.loss,
        cost_us: micros(predicted.cost),
    }
}
