//! Read locks on all pages of a ragged step at once, without a guard for each.

use baton_types::BlockId;

use crate::{
    arena::{Arena, PageError},
    attention::AttentionSequence,
};

/// Holds read locks on every page of the sequences, in one layer.
pub(crate) struct ReadLocks<'a> {
    arena: &'a Arena,
    layer: u32,
    sequences: &'a [AttentionSequence<'a>],
    /// How many have been taken, in order.
    taken: usize,
}

impl<'a> ReadLocks<'a> {
    pub(crate) fn take(
        arena: &'a Arena,
        layer: u32,
        sequences: &'a [AttentionSequence<'a>],
    ) -> Result<Self, PageError> {
        let mut locks = ReadLocks { arena, layer, sequences, taken: 0 };
        for block in Self::blocks(arena, sequences) {
            std::mem::forget(arena.read(layer, block)?);
            locks.taken += 1;
        }
        Ok(locks)
    }

    pub(crate) fn arena(&self) -> &'a Arena {
        self.arena
    }

    /// The blocks the rows look at, sequence by sequence.
    fn blocks<'b>(
        arena: &Arena,
        sequences: &'b [AttentionSequence<'b>],
    ) -> impl Iterator<Item = BlockId> + use<'b> {
        let block_tokens = arena.layout().block_tokens;
        sequences.iter().flat_map(move |sequence| {
            let used = sequence.end().div_ceil(block_tokens as usize);
            sequence.blocks[..used].iter().copied()
        })
    }
}

impl Drop for ReadLocks<'_> {
    fn drop(&mut self) {
        for block in Self::blocks(self.arena, self.sequences).take(self.taken) {
            self.arena.unlock_read(self.layer, block);
        }
    }
}
