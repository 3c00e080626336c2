//! A doubly linked list over block ids, in two arrays: every operation is O(1) and none allocates.

use baton_types::BlockId;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Links {
    older: u32,
    newer: u32,
}

/// Cached blocks nobody holds, oldest first. A block is on it at most once.
#[derive(Debug)]
pub(crate) struct Lru {
    links: Vec<Links>,
    oldest: u32,
    newest: u32,
    len: u32,
}

impl Lru {
    pub(crate) fn new(blocks: u32) -> Self {
        let links = vec![Links { older: NONE, newer: NONE }; blocks as usize];
        Lru { links, oldest: NONE, newest: NONE, len: 0 }
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn oldest(&self) -> Option<BlockId> {
        (self.oldest != NONE).then_some(BlockId(self.oldest))
    }

    /// Appends `block`, which must not be on the list, as the newest.
    pub(crate) fn push_newest(&mut self, block: BlockId) {
        self.link(self.newest, block.0, NONE);
    }

    /// Puts `block`, which must not be on the list, right before `newer`, which must.
    pub(crate) fn push_before(&mut self, block: BlockId, newer: BlockId) {
        self.link(self.links[newer.0 as usize].older, block.0, newer.0);
    }

    /// Takes `block`, which must be on the list, off it.
    pub(crate) fn remove(&mut self, block: BlockId) {
        let Links { older, newer } = self.links[block.0 as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].older = older,
        }
        self.len -= 1;
    }

    fn link(&mut self, older: u32, block: u32, newer: u32) {
        self.links[block as usize] = Links { older, newer };
        match older {
            NONE => self.oldest = block,
            older => self.links[older as usize].newer = block,
        }
        match newer {
            NONE => self.newest = block,
            newer => self.links[newer as usize].older = block,
        }
        self.len += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(mut lru: Lru) -> Vec<u32> {
        let mut order = Vec::new();
        while let Some(block) = lru.oldest() {
            lru.remove(block);
            order.push(block.0);
        }
        assert_eq!(lru.len(), 0);
        order
    }

    #[test]
    fn blocks_leave_oldest_first() {
        let mut lru = Lru::new(5);
        for block in [3, 1, 4] {
            lru.push_newest(BlockId(block));
        }
        lru.push_before(BlockId(0), BlockId(1));
        lru.push_before(BlockId(2), BlockId(3));
        assert_eq!(lru.len(), 5);
        lru.remove(BlockId(1));
        assert_eq!(drain(lru), [2, 3, 0, 4]);
    }
}
