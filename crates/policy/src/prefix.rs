use std::collections::VecDeque;

use baton_types::{BlockHash, BlockMap};

/// Which blocks a node probably has in its prefix cache: those of the prompts it was given lately.
///
/// A guess, never more: the node may have evicted them, or may not have computed them yet.
#[derive(Clone, Debug)]
pub struct PrefixRecord {
    capacity: usize,
    clock: u64,
    used: BlockMap<u64>,
    /// Every use, oldest first; of a block that was used again only the last counts.
    uses: VecDeque<(u64, BlockHash)>,
}

impl PrefixRecord {
    /// Remembers at most `capacity` blocks: those used last.
    pub fn new(capacity: usize) -> Self {
        PrefixRecord { capacity, clock: 0, used: BlockMap::default(), uses: VecDeque::new() }
    }

    /// How many of the leading `hashes` are remembered.
    pub fn matching(&self, hashes: &[BlockHash]) -> usize {
        hashes.iter().take_while(|hash| self.used.contains_key(hash)).count()
    }

    /// Notes that the node was given a prompt of these blocks. The first are remembered longest,
    /// for a later block is worth nothing without those before it.
    pub fn note(&mut self, hashes: &[BlockHash]) {
        for &hash in hashes.iter().take(self.capacity).rev() {
            self.clock += 1;
            self.used.insert(hash, self.clock);
            self.uses.push_back((self.clock, hash));
        }
        while self.used.len() > self.capacity {
            let Some((at, oldest)) = self.uses.pop_front() else { return };
            if self.used.get(&oldest) == Some(&at) {
                self.used.remove(&oldest);
            }
        }
        // Uses that don't count any more are at most as many as those that do.
        if self.uses.len() > 2 * self.capacity.max(1) {
            let used = &self.used;
            self.uses.retain(|(at, hash)| used.get(hash) == Some(at));
        }
    }

    pub fn len(&self) -> usize {
        self.used.len()
    }

    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(range: std::ops::Range<u128>) -> Vec<BlockHash> {
        range.map(BlockHash).collect()
    }

    #[test]
    fn the_longest_remembered_beginning_counts() {
        let mut record = PrefixRecord::new(8);
        record.note(&hashes(0..4));
        assert_eq!(record.matching(&hashes(0..6)), 4);
        assert_eq!(record.matching(&hashes(2..6)), 2);
        assert_eq!(record.matching(&hashes(4..6)), 0);
    }

    #[test]
    fn it_forgets_ends_of_old_prompts_first() {
        let mut record = PrefixRecord::new(8);
        record.note(&hashes(0..6));
        record.note(&hashes(10..14));
        assert_eq!((record.len(), record.matching(&hashes(0..6))), (8, 4));
        assert_eq!(record.matching(&hashes(10..14)), 4);
        record.note(&hashes(20..40));
        assert_eq!((record.len(), record.matching(&hashes(20..40))), (8, 8));
    }

    #[test]
    fn what_is_used_again_and_again_takes_no_more_room() {
        let mut record = PrefixRecord::new(8);
        for _ in 0..100 {
            record.note(&hashes(0..4));
        }
        assert!(record.uses.len() <= 16 && record.len() == 4, "{record:?}");
        record.note(&hashes(10..14));
        record.note(&hashes(0..4));
        record.note(&hashes(20..24));
        assert_eq!(record.matching(&hashes(10..14)), 0, "the oldest use went first");
        assert_eq!(record.matching(&hashes(0..4)), 4);
    }
}
