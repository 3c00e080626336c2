//! The pool's state, behind [`crate::KvCache`]'s lock.
//!
//! A block is in exactly one of three states: *held* (`refs > 0`), *cached* (`refs == 0`, published,
//! on the LRU list) or *free* (`refs == 0`, unpublished, on the free list).

use baton_types::{BlockHash, BlockHashState, BlockId, BlockMap};

use crate::{
    journal::{Journal, Told, What},
    lru::Lru,
};

/// There is no room for a reservation; nothing was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the KV pool has {free} free blocks, {needed} are needed; wait for running sequences to end \
     or give the node a larger pool"
)]
pub struct PoolFull {
    pub needed: u32,
    /// Cached blocks nobody holds are counted.
    pub free: u32,
}

/// How a pool's blocks are used: `total = held + free`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub total: u32,
    /// Nobody holds these; some of them may be cached.
    pub free: u32,
    /// Of the free ones, those that still hold a published prefix.
    pub cached: u32,
    pub held: u32,
}

/// What a block is published as.
#[derive(Clone, Copy, Debug)]
struct Published {
    hash: BlockHash,
    parent: Option<BlockHash>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    refs: u32,
    published: Option<Published>,
}

#[derive(Debug)]
pub(crate) struct Pool {
    slots: Vec<Slot>,
    free: Vec<BlockId>,
    cached: Lru,
    index: BlockMap<BlockId>,
    journal: Journal,
}

impl Pool {
    pub(crate) fn new(blocks: u32) -> Self {
        Pool {
            slots: vec![Slot::default(); blocks as usize],
            // Low ids first: a young pool touches little of its arena.
            free: (0..blocks).rev().map(BlockId).collect(),
            cached: Lru::new(blocks),
            index: BlockMap::with_capacity_and_hasher(blocks as usize, BlockHashState::default()),
            journal: Journal::new(blocks as usize),
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        let total = self.slots.len() as u32;
        let cached = self.cached.len();
        let free = self.free.len() as u32 + cached;
        Usage { total, free, cached, held: total - free }
    }

    pub(crate) fn room_for(&self, needed: usize) -> Result<(), PoolFull> {
        let free = self.usage().free;
        if needed <= free as usize {
            return Ok(());
        }
        Err(PoolFull { needed: u32::try_from(needed).unwrap_or(u32::MAX), free })
    }

    /// One block with one reference, evicting the oldest cached one when none is unused. The block
    /// leaves the index before anybody gets it.
    pub(crate) fn take(&mut self) -> Option<BlockId> {
        let block = match self.free.pop() {
            Some(block) => block,
            None => {
                let block = self.cached.oldest()?;
                self.cached.remove(block);
                if let Some(published) = self.slots[block.0 as usize].published.take() {
                    self.index.remove(&published.hash);
                    self.journal.removed(published.hash);
                }
                block
            }
        };
        self.slots[block.0 as usize].refs = 1;
        Some(block)
    }

    /// The block published as `hash`, with one more reference.
    pub(crate) fn find(&mut self, hash: BlockHash) -> Option<BlockId> {
        let block = *self.index.get(&hash)?;
        if self.slots[block.0 as usize].refs == 0 {
            self.cached.remove(block);
        }
        self.retain(block);
        Some(block)
    }

    pub(crate) fn retain(&mut self, block: BlockId) {
        self.slots[block.0 as usize].refs += 1;
    }

    pub(crate) fn release(&mut self, block: BlockId) {
        let slot = &mut self.slots[block.0 as usize];
        slot.refs -= 1;
        if slot.refs > 0 {
            return;
        }
        match slot.published {
            None => self.free.push(block),
            Some(published) => self.keep(block, published.parent),
        }
    }

    /// Puts a published block nobody holds on the LRU list. A block is useless once its parent is
    /// gone, so it goes before the parent whichever of the two was released first.
    fn keep(&mut self, block: BlockId, parent: Option<BlockHash>) {
        let parent = parent
            .and_then(|hash| self.index.get(&hash).copied())
            .filter(|&parent| parent != block && self.slots[parent.0 as usize].refs == 0);
        match parent {
            Some(parent) => self.cached.push_before(block, parent),
            None => self.cached.push_newest(block),
        }
    }

    pub(crate) fn publish(&mut self, hash: BlockHash, parent: Option<BlockHash>, block: BlockId) {
        let slot = &mut self.slots[block.0 as usize];
        if slot.published.is_none() && !self.index.contains_key(&hash) {
            slot.published = Some(Published { hash, parent });
            self.index.insert(hash, block);
            self.journal.stored(hash);
        }
    }

    /// What whoever knows the changes up to `since` doesn't.
    pub(crate) fn told(&self, since: Option<u64>) -> Told {
        let what = match self.journal.since(since) {
            Some(changes) => What::Changes(changes),
            None => What::Everything(self.index.keys().copied().collect()),
        };
        Told { upto: self.journal.last(), what }
    }
}
