//! One mapping that holds every KV page of a node.

use std::{
    fmt, io,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use baton_types::{BlockId, KvLayout, LayoutError};

use crate::mapping::Mapping;

/// A page's state: `WRITER`, or the number of readers.
const WRITER: u32 = 1 << 31;

/// The KV pages of one node, in one mapping, layer-major: page `(layer, block)` starts at
/// `(layer · blocks + block) · page_bytes`.
///
/// # Who may touch a page?
///
/// Whoever holds its guard: any number of [`PageRead`]s or one [`PageWrite`], checked at run time.
/// Guards answer only "is anybody writing these bytes now"; whether a block still means what a
/// reader thinks is the block references' business (`baton-kv-cache`).
pub struct Arena {
    mapping: Mapping,
    layout: KvLayout,
    blocks: u32,
    states: Box<[AtomicU32]>,
}

#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    #[error("the KV layout is unusable: {0}")]
    Layout(#[from] LayoutError),
    #[error("a KV pool of {blocks} blocks of {block_bytes} bytes is beyond the address space")]
    TooLarge { blocks: u32, block_bytes: usize },
    #[error("a KV pool needs at least one block")]
    Empty,
    #[error("cannot reserve {bytes} bytes for the KV pool; give it fewer blocks")]
    Memory { bytes: usize, source: io::Error },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    #[error("page ({layer}, {block}) is outside the arena of {layers} layers × {blocks} blocks")]
    Outside { layer: u32, block: u32, layers: u32, blocks: u32 },
    #[error("page ({layer}, {block}) is being written")]
    BeingWritten { layer: u32, block: u32 },
    #[error("page ({layer}, {block}) is being read by {readers}")]
    BeingRead { layer: u32, block: u32, readers: u32 },
}

impl Arena {
    /// Maps `blocks` blocks, zeroed. Pages cost memory when they are first touched.
    pub fn new(layout: KvLayout, blocks: u32) -> Result<Self, ArenaError> {
        layout.validate()?;
        if blocks == 0 {
            return Err(ArenaError::Empty);
        }
        let block_bytes = layout.block_bytes();
        let bytes = block_bytes
            .checked_mul(blocks as usize)
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or(ArenaError::TooLarge { blocks, block_bytes })?;
        let mapping = Mapping::new(bytes).map_err(|source| ArenaError::Memory { bytes, source })?;
        let states =
            (0..layout.layers as usize * blocks as usize).map(|_| AtomicU32::new(0)).collect();
        Ok(Arena { mapping, layout, blocks, states })
    }

    /// Takes all memory now, in huge pages where the system has them: a step reads all of a long context, and finds
    /// its way there through a table of as many entries as there are pages. A system that knows neither goes on
    /// as it was.
    pub fn prefault(&self) -> Result<(), ArenaError> {
        let advised = self.mapping.advise_huge().and_then(|()| self.mapping.populate());
        advised.map_err(|source| ArenaError::Memory { bytes: self.mapping.bytes(), source })
    }

    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// The page's bytes, `layout().page_bytes()` of them, for as long as the guard lives.
    pub fn read(&self, layer: u32, block: BlockId) -> Result<PageRead<'_>, PageError> {
        let index = self.index(layer, block)?;
        self.lock_read(index).map_err(|()| PageError::BeingWritten { layer, block: block.0 })?;
        Ok(PageRead { arena: self, index })
    }

    /// The page's bytes to write, for as long as the guard lives.
    pub fn write(&self, layer: u32, block: BlockId) -> Result<PageWrite<'_>, PageError> {
        let index = self.index(layer, block)?;
        match self.states[index].compare_exchange(0, WRITER, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(PageWrite { arena: self, index }),
            Err(WRITER) => Err(PageError::BeingWritten { layer, block: block.0 }),
            Err(readers) => Err(PageError::BeingRead { layer, block: block.0, readers }),
        }
    }

    fn index(&self, layer: u32, block: BlockId) -> Result<usize, PageError> {
        if layer >= self.layout.layers || block.0 >= self.blocks {
            let (layers, blocks) = (self.layout.layers, self.blocks);
            return Err(PageError::Outside { layer, block: block.0, layers, blocks });
        }
        Ok(layer as usize * self.blocks as usize + block.0 as usize)
    }

    fn lock_read(&self, index: usize) -> Result<(), ()> {
        let state = &self.states[index];
        let mut seen = state.load(Ordering::Relaxed);
        while seen < WRITER - 1 {
            match state.compare_exchange_weak(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return Ok(()),
                Err(now) => seen = now,
            }
        }
        Err(())
    }

    /// Ends a read whose guard was forgotten.
    pub(crate) fn unlock_read(&self, layer: u32, block: BlockId) {
        if let Ok(index) = self.index(layer, block) {
            self.states[index].fetch_sub(1, Ordering::Release);
        }
    }

    /// The bytes of a page whose read guard the caller's caller has taken and forgotten.
    pub(crate) fn page_locked(&self, layer: u32, block: BlockId) -> &[u8] {
        let index = layer as usize * self.blocks as usize + block.0 as usize;
        debug_assert_ne!(self.states[index].load(Ordering::Relaxed) & !WRITER, 0, "not locked");
        let (page, len) = (self.page(index), self.layout.page_bytes());
        // SAFETY: inside the mapping: its read lock was taken by these coordinates, which checked
        // them; and while it is held nobody writes.
        unsafe { std::slice::from_raw_parts(page.as_ptr(), len) }
    }

    fn page(&self, index: usize) -> NonNull<u8> {
        debug_assert!(index < self.states.len());
        // SAFETY: `index` came from `Arena::index`, so the page lies inside the mapping.
        unsafe { self.mapping.base().add(index * self.layout.page_bytes()) }
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("layout", &self.layout)
            .field("blocks", &self.blocks)
            .field("bytes", &self.mapping.bytes())
            .finish_non_exhaustive()
    }
}

/// The right to read one page: while it lives, nobody writes there.
pub struct PageRead<'a> {
    arena: &'a Arena,
    index: usize,
}

impl Deref for PageRead<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let (page, len) = (self.arena.page(self.index), self.arena.layout.page_bytes());
        // SAFETY: the page is inside the mapping, and its state counts this reader, so there is no
        // writer until the guard is dropped.
        unsafe { std::slice::from_raw_parts(page.as_ptr(), len) }
    }
}

impl Drop for PageRead<'_> {
    fn drop(&mut self) {
        self.arena.states[self.index].fetch_sub(1, Ordering::Release);
    }
}

impl fmt::Debug for PageRead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageRead({})", self.index)
    }
}

/// The right to write one page: while it lives, nobody else reads or writes there.
pub struct PageWrite<'a> {
    arena: &'a Arena,
    index: usize,
}

impl Deref for PageWrite<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let (page, len) = (self.arena.page(self.index), self.arena.layout.page_bytes());
        // SAFETY: the page is inside the mapping, and its state says that only this guard may
        // touch it.
        unsafe { std::slice::from_raw_parts(page.as_ptr(), len) }
    }
}

impl DerefMut for PageWrite<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let (page, len) = (self.arena.page(self.index), self.arena.layout.page_bytes());
        // SAFETY: as for `deref`; the guard itself is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(page.as_ptr(), len) }
    }
}

impl Drop for PageWrite<'_> {
    fn drop(&mut self) {
        self.arena.states[self.index].store(0, Ordering::Release);
    }
}

impl fmt::Debug for PageWrite<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageWrite({})", self.index)
    }
}

#[cfg(test)]
mod tests {
    use baton_types::KvDtype;

    use super::*;

    fn arena() -> Arena {
        let layout = KvLayout {
            layers: 2,
            kv_heads: 1,
            head_dim: 16,
            block_tokens: 16,
            dtype: KvDtype::F16,
        };
        Arena::new(layout, 3).expect("a small arena")
    }

    #[test]
    fn memory_that_was_taken_at_once_is_as_empty_and_stays_as_it_is_written() {
        let arena = arena();
        arena.write(1, BlockId(0)).unwrap().fill(7);
        arena.prefault().unwrap();
        assert!(arena.read(1, BlockId(0)).unwrap().iter().all(|&byte| byte == 7));
        assert!(arena.read(1, BlockId(2)).unwrap().iter().all(|&byte| byte == 0));
    }

    #[test]
    fn many_readers_or_one_writer() {
        let arena = arena();
        let (a, b) = (arena.read(1, BlockId(2)).unwrap(), arena.read(1, BlockId(2)).unwrap());
        assert_eq!(
            arena.write(1, BlockId(2)).unwrap_err(),
            PageError::BeingRead { layer: 1, block: 2, readers: 2 }
        );
        drop((a, b));
        let mut page = arena.write(1, BlockId(2)).unwrap();
        page.fill(7);
        assert_eq!(
            arena.read(1, BlockId(2)).unwrap_err(),
            PageError::BeingWritten { layer: 1, block: 2 }
        );
        assert!(arena.write(1, BlockId(2)).is_err());
        assert!(arena.read(0, BlockId(2)).is_ok_and(|page| page.iter().all(|&byte| byte == 0)));
        drop(page);
        assert!(arena.read(1, BlockId(2)).is_ok_and(|page| page.iter().all(|&byte| byte == 7)));
    }

    #[test]
    fn pages_outside_are_refused() {
        let arena = arena();
        assert!(matches!(arena.read(2, BlockId(0)), Err(PageError::Outside { .. })));
        assert!(matches!(arena.write(0, BlockId(3)), Err(PageError::Outside { .. })));
    }

    #[test]
    fn an_impossible_pool_is_refused() {
        let layout = *arena().layout();
        assert!(matches!(Arena::new(layout, 0), Err(ArenaError::Empty)));
    }
}
