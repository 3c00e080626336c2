use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use baton_types::BlockId;

/// Bytes of one slot: a page must have at least this many for each token of its block.
pub const SLOT_BYTES: usize = size_of::<u128>();

/// Somebody else reads or writes the page in a way that excludes this access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the page is in use by somebody else")]
pub struct PageBusy;

/// The simulated engine's KV arena: one 128-bit digest for every (layer, block, slot).
pub trait KvSlots: Send {
    /// Writes the slots from `slot` on, all in one page.
    fn store(
        &self,
        layer: u32,
        block: BlockId,
        slot: u32,
        digests: &[u128],
    ) -> Result<(), PageBusy>;

    /// Reads the slots from `slot` on, all in one page.
    fn load(
        &self,
        layer: u32,
        block: BlockId,
        slot: u32,
        digests: &mut [u128],
    ) -> Result<(), PageBusy>;
}

/// An arena in ordinary memory, for tests and simulations. Clones share it.
#[derive(Clone, Debug)]
pub struct MemorySlots {
    digests: Arc<Mutex<Vec<u128>>>,
    blocks: u32,
    block_tokens: u32,
}

impl MemorySlots {
    pub fn new(layers: u32, blocks: u32, block_tokens: u32) -> Self {
        let slots = layers as usize * blocks as usize * block_tokens as usize;
        MemorySlots { digests: Arc::new(Mutex::new(vec![0; slots])), blocks, block_tokens }
    }

    /// Copies one page into another arena of the same page shape: a transfer.
    pub fn copy_page(&self, layer: u32, block: BlockId, to: &MemorySlots, to_block: BlockId) {
        let slots = self.block_tokens as usize;
        let page = self.lock()[self.at(layer, block, 0)..][..slots].to_vec();
        to.lock()[to.at(layer, to_block, 0)..][..slots].copy_from_slice(&page);
    }

    /// Changes one slot, as a fault would.
    pub fn corrupt(&self, layer: u32, block: BlockId, slot: u32) {
        self.lock()[self.at(layer, block, slot)] ^= 1;
    }

    fn at(&self, layer: u32, block: BlockId, slot: u32) -> usize {
        let page = layer as usize * self.blocks as usize + block.0 as usize;
        page * self.block_tokens as usize + slot as usize
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u128>> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KvSlots for MemorySlots {
    fn store(
        &self,
        layer: u32,
        block: BlockId,
        slot: u32,
        digests: &[u128],
    ) -> Result<(), PageBusy> {
        self.lock()[self.at(layer, block, slot)..][..digests.len()].copy_from_slice(digests);
        Ok(())
    }

    fn load(
        &self,
        layer: u32,
        block: BlockId,
        slot: u32,
        digests: &mut [u128],
    ) -> Result<(), PageBusy> {
        digests.copy_from_slice(&self.lock()[self.at(layer, block, slot)..][..digests.len()]);
        Ok(())
    }
}
