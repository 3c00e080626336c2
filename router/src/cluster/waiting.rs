//! Who waits for a place, by model: batches last, the rest first come first served.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use baton_policy::Priority;
use baton_types::ModelId;
use tokio::sync::Notify;

/// A place in line: the lesser goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) priority: Priority,
    pub(super) number: u64,
}

/// The queues. Only the first of each is woken when something changed: it alone may be placed.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queues: BTreeMap<ModelId, BTreeMap<Rank, Arc<Notify>>>,
}

impl Waiting {
    /// How many go before `rank`.
    pub(super) fn before(&self, model: &ModelId, rank: Rank) -> usize {
        self.queues.get(model).map_or(0, |queue| queue.range(..rank).count())
    }

    /// Queues up as `rank`; the bell rings when it is worth looking again.
    pub(super) fn enter(&mut self, model: &ModelId, rank: Rank) -> Arc<Notify> {
        let queue = self.queues.entry(model.clone()).or_default();
        Arc::clone(queue.entry(rank).or_default())
    }

    /// Leaves; whoever is first now is woken.
    pub(super) fn leave(&mut self, model: &ModelId, rank: Rank) {
        let Entry::Occupied(mut queue) = self.queues.entry(model.clone()) else { return };
        queue.get_mut().remove(&rank);
        match queue.get().values().next() {
            Some(first) => first.notify_one(),
            None => drop(queue.remove()),
        }
    }

    pub(super) fn wake_first(&self) {
        for first in self.queues.values().filter_map(|queue| queue.values().next()) {
            first.notify_one();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.queues.values().map(BTreeMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn rank(number: u64) -> Rank {
        Rank { priority: Priority::Interactive, number }
    }

    fn rings(bell: &Arc<Notify>) -> bool {
        Box::pin(bell.notified()).as_mut().enable()
    }

    #[test]
    fn the_first_of_each_model_is_woken_and_the_next_when_it_leaves() {
        let (a, b) = (ModelId::from("a"), ModelId::from("b"));
        let mut waiting = Waiting::default();
        let late = waiting.enter(&a, rank(5));
        let early = waiting.enter(&a, rank(2));
        let other = waiting.enter(&b, rank(9));
        assert_eq!(
            (waiting.before(&a, rank(5)), waiting.before(&a, rank(2)), waiting.before(&b, rank(9))),
            (1, 0, 0)
        );
        waiting.wake_first();
        assert_eq!((rings(&early), rings(&late), rings(&other)), (true, false, true));
        waiting.leave(&a, rank(2));
        assert_eq!((rings(&late), waiting.len()), (true, 2));
        waiting.leave(&a, rank(5));
        waiting.leave(&a, rank(5));
        assert_eq!(waiting.len(), 1);
    }

    #[test]
    fn whoever_somebody_waits_for_passes_those_of_batches() {
        let model = ModelId::from("a");
        let in_batch = |number| Rank { priority: Priority::Batch, number };
        let mut waiting = Waiting::default();
        let batch = waiting.enter(&model, in_batch(1));
        let interactive = waiting.enter(&model, rank(7));
        waiting.wake_first();
        assert_eq!((rings(&interactive), rings(&batch)), (true, false));
        assert_eq!(
            (waiting.before(&model, rank(7)), waiting.before(&model, in_batch(1))),
            (0, 1),
            "a batch's lines don't count as queued before others"
        );
        waiting.leave(&model, rank(7));
        assert!(rings(&batch));
    }
}
