//! Which nodes have which blocks cached: one index for all, kept by what the nodes tell of their caches
//! and, until they do, by what was sent there.

use std::{collections::VecDeque, sync::Arc};

use baton_types::{BlockHash, BlockMap, KvEvents};
use smallvec::SmallVec;

/// A node's number in the index, while it is a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(u32);

/// In order. Most blocks are on few nodes.
type Holders = SmallVec<[Slot; 4]>;

/// Some of a node's events never came; what is known of its cache stays as it is until a snapshot comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "KV events after {since:?} came, but those up to {known:?} are known; the node is asked for a \
     snapshot"
)]
pub struct MissedEvents {
    pub since: Option<u64>,
    pub known: Option<u64>,
}

/// # When does a node count as having a block?
///
/// When it said so last ([`PrefixIndex::observe`]), and while a request is there whose prompt has it:
/// at once, so that requests with the same beginning follow the first. When the request is done and the
/// node has spoken twice since (its first word may have been on the way), only the node's word counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct PrefixIndex {
    holders: BlockMap<Holders>,
    nodes: Vec<Followed>,
    free: Vec<Slot>,
}

/// What is known of one node.
#[derive(Clone, Debug, Default)]
struct Followed {
    /// The number of its latest change that is known; `None` before its first snapshot.
    upto: Option<u64>,
    expected: BlockMap<Expectation>,
    /// What isn't expected any more, and what [`Followed::words`] was then.
    over: VecDeque<(u64, Arc<[BlockHash]>)>,
    /// How often it spoke.
    words: u64,
    /// Blocks it holds or is expected to.
    blocks: usize,
    /// How often events were missing.
    missed: u64,
}

/// A block that requests on the node have.
#[derive(Clone, Copy, Debug, Default)]
struct Expectation {
    requests: u32,
    /// Whether the node says that it has it.
    is_stored: bool,
}

/// How many of a prompt's leading blocks the nodes have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Matches(Vec<(Slot, u32)>);

impl PrefixIndex {
    /// A number for a node of which nothing is known.
    pub(crate) fn enter(&mut self) -> Slot {
        self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Followed::default());
            Slot(self.nodes.len() as u32 - 1)
        })
    }

    /// Forgets a node; the next may have its number.
    pub(crate) fn leave(&mut self, slot: Slot) {
        self.forget(slot);
        self.nodes[slot.0 as usize] = Followed::default();
        self.free.push(slot);
    }

    /// The node spoke, and told of its cache unless nothing changed.
    pub(crate) fn observe(
        &mut self,
        slot: Slot,
        events: Option<&KvEvents>,
    ) -> Result<(), MissedEvents> {
        let node = &mut self.nodes[slot.0 as usize];
        node.words += 1;
        let words = node.words;
        let outcome = events.map_or(Ok(()), |events| self.apply(slot, events));
        while let Some((at, _)) = self.followed(slot).over.front()
            && at + 2 <= words
        {
            let Some((_, hashes)) = self.followed(slot).over.pop_front() else { break };
            hashes.iter().for_each(|&hash| self.one_less(slot, hash));
        }
        outcome
    }

    fn apply(&mut self, slot: Slot, events: &KvEvents) -> Result<(), MissedEvents> {
        let known = self.followed(slot).upto;
        let KvEvents { since, upto, stored, removed } = events;
        match since {
            None => self.clear(slot),
            Some(since) if known.is_none_or(|known| *since > known) => {
                self.followed(slot).missed += 1;
                return Err(MissedEvents { since: Some(*since), known });
            }
            // What it said before came later.
            Some(_) if known.is_some_and(|known| *upto < known) => return Ok(()),
            Some(_) => {}
        }
        removed.iter().for_each(|&hash| self.removed(slot, hash));
        stored.iter().for_each(|&hash| self.stored(slot, hash));
        self.followed(slot).upto = Some(*upto);
        Ok(())
    }

    /// A request on the node has these blocks.
    pub(crate) fn expect(&mut self, slot: Slot, hashes: &[BlockHash]) {
        for &hash in hashes {
            let is_stored = !self.insert(slot, hash);
            let new = Expectation { requests: 0, is_stored };
            self.followed(slot).expected.entry(hash).or_insert(new).requests += 1;
        }
    }

    /// The request is done. To be said once for each [`PrefixIndex::expect`].
    pub(crate) fn is_over(&mut self, slot: Slot, hashes: Arc<[BlockHash]>) {
        let node = self.followed(slot);
        node.over.push_back((node.words, hashes));
    }

    /// How many of the leading `hashes` each node has.
    pub(crate) fn matching(&self, hashes: &[BlockHash]) -> Matches {
        let (mut matches, mut active) = (Matches::default(), Holders::new());
        for (at, hash) in hashes.iter().enumerate() {
            let holders = self.holders.get(hash).map_or(&[][..], |holders| &holders[..]);
            if at == 0 {
                active.extend_from_slice(holders);
            } else if active[..] != *holders {
                active.retain(|slot| {
                    let has = holders.binary_search(slot).is_ok();
                    if !has {
                        matches.0.push((*slot, at as u32));
                    }
                    has
                });
            }
            if active.is_empty() {
                break;
            }
        }
        matches.0.extend(active.into_iter().map(|slot| (slot, hashes.len() as u32)));
        matches.0.sort_unstable();
        matches
    }

    /// Blocks a node has, or is expected to.
    pub(crate) fn blocks(&self, slot: Slot) -> usize {
        self.nodes[slot.0 as usize].blocks
    }

    /// How often some of a node's events were missing.
    pub(crate) fn missed(&self, slot: Slot) -> u64 {
        self.nodes[slot.0 as usize].missed
    }

    fn followed(&mut self, slot: Slot) -> &mut Followed {
        &mut self.nodes[slot.0 as usize]
    }

    fn stored(&mut self, slot: Slot, hash: BlockHash) {
        if let Some(expected) = self.followed(slot).expected.get_mut(&hash) {
            expected.is_stored = true;
        } else {
            self.insert(slot, hash);
        }
    }

    fn removed(&mut self, slot: Slot, hash: BlockHash) {
        if let Some(expected) = self.followed(slot).expected.get_mut(&hash) {
            expected.is_stored = false;
        } else {
            self.remove(slot, hash);
        }
    }

    /// One request less has the block.
    fn one_less(&mut self, slot: Slot, hash: BlockHash) {
        let expected = &mut self.followed(slot).expected;
        let Some(expectation) = expected.get_mut(&hash) else { return };
        expectation.requests -= 1;
        if expectation.requests == 0 {
            let is_stored = expectation.is_stored;
            expected.remove(&hash);
            if !is_stored {
                self.remove(slot, hash);
            }
        }
    }

    /// Nothing is stored there any more, as far as the node said; what is expected still is.
    fn clear(&mut self, slot: Slot) {
        self.forget(slot);
        let node = self.followed(slot);
        node.expected.values_mut().for_each(|expected| expected.is_stored = false);
        let expected: Vec<BlockHash> = node.expected.keys().copied().collect();
        for hash in expected {
            self.insert(slot, hash);
        }
    }

    fn forget(&mut self, slot: Slot) {
        if self.followed(slot).blocks == 0 {
            return;
        }
        self.followed(slot).blocks = 0;
        self.holders.retain(|_, holders| {
            if let Ok(at) = holders.binary_search(&slot) {
                holders.remove(at);
            }
            !holders.is_empty()
        });
    }

    /// Whether the block is new there.
    fn insert(&mut self, slot: Slot, hash: BlockHash) -> bool {
        let holders = self.holders.entry(hash).or_default();
        let Err(at) = holders.binary_search(&slot) else { return false };
        holders.insert(at, slot);
        self.followed(slot).blocks += 1;
        true
    }

    fn remove(&mut self, slot: Slot, hash: BlockHash) {
        let Some(holders) = self.holders.get_mut(&hash) else { return };
        let Ok(at) = holders.binary_search(&slot) else { return };
        holders.remove(at);
        if holders.is_empty() {
            self.holders.remove(&hash);
        }
        self.followed(slot).blocks -= 1;
    }
}

impl Matches {
    /// Leading blocks a node has.
    pub(crate) fn of(&self, slot: Slot) -> u32 {
        let at = self.0.binary_search_by_key(&slot, |&(slot, _)| slot);
        at.map_or(0, |at| self.0[at].1)
    }

    /// Adds what was found under other names; a node knows blocks by one.
    pub(crate) fn merge(&mut self, other: Matches) {
        self.0.extend(other.0);
        self.0.sort_unstable_by_key(|&(slot, blocks)| (slot, std::cmp::Reverse(blocks)));
        self.0.dedup_by_key(|&mut (slot, _)| slot);
    }
}

#[cfg(test)]
mod tests;
