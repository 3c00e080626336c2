//! The latest changes of what a pool can find, for those who follow it from elsewhere.

use std::collections::VecDeque;

use baton_types::{BlockHash, BlockMap, KvEvents};

#[derive(Clone, Copy, Debug)]
struct Change {
    hash: BlockHash,
    is_stored: bool,
}

/// As many changes as the pool has blocks: whoever has missed more is told in fewer words what there
/// is than what changed.
#[derive(Debug)]
pub(crate) struct Journal {
    capacity: usize,
    /// The latest, oldest first.
    changes: VecDeque<Change>,
    /// The number of the latest; the first there ever was has 1.
    last: u64,
}

impl Journal {
    pub(crate) fn new(capacity: usize) -> Self {
        Journal { capacity, changes: VecDeque::new(), last: 0 }
    }

    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn stored(&mut self, hash: BlockHash) {
        self.note(Change { hash, is_stored: true });
    }

    pub(crate) fn removed(&mut self, hash: BlockHash) {
        self.note(Change { hash, is_stored: false });
    }

    fn note(&mut self, change: Change) {
        if self.changes.len() == self.capacity {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
        self.last += 1;
    }

    /// What changed after `since`; `None` if not all of that is known any more.
    pub(crate) fn since(&self, since: Option<u64>) -> Option<KvEvents> {
        let missed = usize::try_from(self.last.checked_sub(since?)?).ok()?;
        let known = self.changes.len().checked_sub(missed)?;
        let mut latest = BlockMap::default();
        for Change { hash, is_stored } in self.changes.range(known..) {
            latest.insert(*hash, *is_stored);
        }
        let mut events = KvEvents { since, upto: self.last, ..KvEvents::default() };
        for (hash, is_stored) in latest {
            let list = if is_stored { &mut events.stored } else { &mut events.removed };
            list.push(hash);
        }
        Some(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(mut hashes: Vec<BlockHash>) -> Vec<u128> {
        hashes.sort_unstable();
        hashes.into_iter().map(|hash| hash.0).collect()
    }

    #[test]
    fn a_block_is_told_of_as_it_is_at_last() {
        let mut journal = Journal::new(8);
        journal.stored(BlockHash(1));
        journal.stored(BlockHash(2));
        journal.removed(BlockHash(1));
        journal.removed(BlockHash(9));
        journal.stored(BlockHash(9));
        let events = journal.since(Some(0)).unwrap();
        assert_eq!((events.since, events.upto), (Some(0), 5));
        assert_eq!((sorted(events.stored), sorted(events.removed)), (vec![2, 9], vec![1]));
        assert!(journal.since(Some(5)).unwrap().is_empty());
    }

    #[test]
    fn who_missed_too_much_or_knows_the_future_gets_no_changes() {
        let mut journal = Journal::new(2);
        (0..3).for_each(|hash| journal.stored(BlockHash(hash)));
        assert_eq!(journal.since(None), None);
        assert_eq!(journal.since(Some(0)), None, "the first change is forgotten");
        assert_eq!(sorted(journal.since(Some(1)).unwrap().stored), [1, 2]);
        assert_eq!(journal.since(Some(4)), None, "another incarnation's number");
    }
}
