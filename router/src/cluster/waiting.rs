//! Who waits for a place, by model, first come first served.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use baton_types::ModelId;
use tokio::sync::Notify;

/// The queues. Only the first of each is woken when something changed: it alone may be placed.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queues: BTreeMap<ModelId, BTreeMap<u64, Arc<Notify>>>,
}

impl Waiting {
    /// How many came before `number`.
    pub(super) fn before(&self, model: &ModelId, number: u64) -> usize {
        self.queues.get(model).map_or(0, |queue| queue.range(..number).count())
    }

    /// Queues up under `number`; the bell rings when it is worth looking again.
    pub(super) fn enter(&mut self, model: &ModelId, number: u64) -> Arc<Notify> {
        let queue = self.queues.entry(model.clone()).or_default();
        Arc::clone(queue.entry(number).or_default())
    }

    /// Leaves; whoever is first now is woken.
    pub(super) fn leave(&mut self, model: &ModelId, number: u64) {
        let Entry::Occupied(mut queue) = self.queues.entry(model.clone()) else { return };
        queue.get_mut().remove(&number);
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

    #[test]
    fn the_first_of_each_model_is_woken_and_the_next_when_it_leaves() {
        let (a, b) = (ModelId::from("a"), ModelId::from("b"));
        let mut waiting = Waiting::default();
        let late = waiting.enter(&a, 5);
        let early = waiting.enter(&a, 2);
        let other = waiting.enter(&b, 9);
        let rings = |bell: &Arc<Notify>| Box::pin(bell.notified()).as_mut().enable();
        assert_eq!(
            (waiting.before(&a, 5), waiting.before(&a, 2), waiting.before(&b, 9)),
            (1, 0, 0)
        );
        waiting.wake_first();
        assert_eq!((rings(&early), rings(&late), rings(&other)), (true, false, true));
        waiting.leave(&a, 2);
        assert_eq!((rings(&late), waiting.len()), (true, 2));
        waiting.leave(&a, 5);
        waiting.leave(&a, 5);
        assert_eq!(waiting.len(), 1);
    }
}
