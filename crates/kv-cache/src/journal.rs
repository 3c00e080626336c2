//! The latest changes of what a pool can find, for those who follow it from elsewhere.

use std::collections::VecDeque;

use baton_types::{BlockHash, BlockMap, KvEvents};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    hash: BlockHash,
    is_stored: bool,
}

/// What a follower is told, as it lies in the pool.
#[derive(Debug)]
pub(crate) struct Told {
    /// The number of the latest change.
    pub(crate) upto: u64,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    Changes(Vec<Change>),
    Everything(Vec<BlockHash>),
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

    /// What changed after `since`, oldest first; `None` if not all of that is known any more.
    pub(crate) fn since(&self, since: Option<u64>) -> Option<Vec<Change>> {
        let missed = usize::try_from(self.last.checked_sub(since?)?).ok()?;
        let known = self.changes.len().checked_sub(missed)?;
        Some(self.changes.range(known..).copied().collect())
    }
}

impl Told {
    /// Of each block that changed what became of it. Takes its time, so not under the pool's lock.
    pub(crate) fn netted(self, since: Option<u64>) -> KvEvents {
        let Told { upto, what } = self;
        let mut events = KvEvents { since: None, upto, ..KvEvents::default() };
        match what {
            What::Everything(stored) => events.stored = stored,
            What::Changes(changes) => {
                events.since = since;
                let latest: BlockMap<bool> =
                    changes.into_iter().map(|change| (change.hash, change.is_stored)).collect();
                for (hash, is_stored) in latest {
                    let list = if is_stored { &mut events.stored } else { &mut events.removed };
                    list.push(hash);
                }
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(journal: &Journal, since: u64) -> Option<KvEvents> {
        let changes = journal.since(Some(since))?;
        let told = Told { upto: journal.last(), what: What::Changes(changes) };
        Some(told.netted(Some(since)))
    }

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
        let events = events(&journal, 0).unwrap();
        assert_eq!((events.since, events.upto), (Some(0), 5));
        assert_eq!((sorted(events.stored), sorted(events.removed)), (vec![2, 9], vec![1]));
        assert!(self::events(&journal, 5).unwrap().is_empty());
    }

    #[test]
    fn who_missed_too_much_or_knows_the_future_gets_no_changes() {
        let mut journal = Journal::new(2);
        (0..3).for_each(|hash| journal.stored(BlockHash(hash)));
        assert!(journal.since(None).is_none());
        assert!(journal.since(Some(0)).is_none(), "the first change is forgotten");
        assert_eq!(sorted(events(&journal, 1).unwrap().stored), [1, 2]);
        assert!(journal.since(Some(4)).is_none(), "another incarnation's number");
    }
}
