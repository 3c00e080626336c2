use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use baton_types::{BlockHash, BlockId, KvEvents};

use crate::pool::{Pool, PoolFull, Usage};

/// A handle on one node's block pool and its prefix index. Clones share the pool.
///
/// # When is a block written?
///
/// Only by whoever reserved it, and only before publishing it. A published block is full and never
/// changes again while it is findable; it leaves the index before it is handed out anew.
#[derive(Clone)]
pub struct KvCache {
    pool: Arc<Mutex<Pool>>,
    block_tokens: u32,
}

/// One reference to one block. The block is neither reused nor evicted while any lives.
pub struct BlockRef {
    pool: Arc<Mutex<Pool>>,
    id: BlockId,
}

impl KvCache {
    /// A pool of `blocks` blocks, all free, of `block_tokens` tokens each.
    pub fn new(blocks: u32, block_tokens: u32) -> Self {
        KvCache { pool: Arc::new(Mutex::new(Pool::new(blocks))), block_tokens }
    }

    pub fn block_tokens(&self) -> u32 {
        self.block_tokens
    }

    /// `n` blocks to write, or none at all. Evicts the least recently used cached blocks when there
    /// aren't enough unused ones.
    pub fn reserve(&self, n: usize) -> Result<Vec<BlockRef>, PoolFull> {
        let mut blocks = Vec::with_capacity(n.min(u16::MAX.into()));
        self.reserve_into(n, &mut blocks)?;
        Ok(blocks)
    }

    /// [`KvCache::reserve`], appended to a table that is already there. On error `table` is as it
    /// was.
    pub fn reserve_into(&self, n: usize, table: &mut Vec<BlockRef>) -> Result<(), PoolFull> {
        let mut pool = lock(&self.pool);
        pool.room_for(n)?;
        for _ in 0..n {
            let id = pool.take().expect("room for n blocks was checked under this lock");
            table.push(self.guard(id));
        }
        Ok(())
    }

    /// As many of `n` blocks as there is room for, appended to `table`. For whoever collects a
    /// large reservation bit by bit, so that smaller ones can't overtake it for ever.
    pub fn reserve_up_to(&self, n: usize, table: &mut Vec<BlockRef>) {
        let mut pool = lock(&self.pool);
        table.extend((0..n).map_while(|_| pool.take()).map(|id| self.guard(id)));
    }

    /// The longest published prefix of a chain of hashes, with a reference to each of its blocks.
    pub fn lookup(&self, hashes: &[BlockHash]) -> Vec<BlockRef> {
        let mut pool = lock(&self.pool);
        hashes.iter().map_while(|&hash| pool.find(hash)).map(|id| self.guard(id)).collect()
    }

    /// Makes a full block findable. `parent` is the hash of the block before it in its sequence.
    ///
    /// The first publisher wins: when `hash` is already published, or `block` already is under
    /// another hash, nothing changes.
    pub fn publish(&self, hash: BlockHash, parent: Option<BlockHash>, block: &BlockRef) {
        debug_assert!(Arc::ptr_eq(&self.pool, &block.pool), "{block:?} is of another pool");
        lock(&self.pool).publish(hash, parent, block.id);
    }

    pub fn usage(&self) -> Usage {
        lock(&self.pool).usage()
    }

    /// What was published and what evicted after the change numbered `since`: to be asked with the
    /// `upto` of the answer before. A snapshot for whoever asks for the first time, with `None`, and
    /// for whoever has missed more changes than there are blocks.
    pub fn events(&self, since: Option<u64>) -> KvEvents {
        let told = lock(&self.pool).told(since);
        told.netted(since)
    }

    fn guard(&self, id: BlockId) -> BlockRef {
        BlockRef { pool: Arc::clone(&self.pool), id }
    }
}

impl fmt::Debug for KvCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvCache")
            .field("block_tokens", &self.block_tokens)
            .field("usage", &self.usage())
            .finish()
    }
}

impl BlockRef {
    pub fn id(&self) -> BlockId {
        self.id
    }
}

impl Clone for BlockRef {
    fn clone(&self) -> Self {
        lock(&self.pool).retain(self.id);
        BlockRef { pool: Arc::clone(&self.pool), id: self.id }
    }
}

impl Drop for BlockRef {
    fn drop(&mut self) {
        lock(&self.pool).release(self.id);
    }
}

impl fmt::Debug for BlockRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockRef({})", self.id.0)
    }
}

/// No pool operation calls foreign code, so a poisoned lock says that some other thread is already
/// reporting a bug; guards must still be able to give back what they hold.
fn lock(pool: &Mutex<Pool>) -> MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(blocks: &[BlockRef]) -> Vec<u32> {
        blocks.iter().map(|block| block.id().0).collect()
    }

    fn chain(hashes: &[u128]) -> Vec<BlockHash> {
        hashes.iter().copied().map(BlockHash).collect()
    }

    /// Reserves and publishes one block per hash, each the next one's parent.
    fn publish_chain(cache: &KvCache, hashes: &[u128]) -> Vec<BlockRef> {
        let blocks = cache.reserve(hashes.len()).unwrap();
        let mut parent = None;
        for (&hash, block) in hashes.iter().zip(&blocks) {
            cache.publish(BlockHash(hash), parent, block);
            parent = Some(BlockHash(hash));
        }
        blocks
    }

    #[test]
    fn reserving_is_all_or_nothing() {
        let cache = KvCache::new(4, 16);
        let held = cache.reserve(3).unwrap();
        assert_eq!(cache.reserve(2).unwrap_err(), PoolFull { needed: 2, free: 1 });
        assert_eq!(cache.usage(), Usage { total: 4, free: 1, cached: 0, held: 3 });
        drop(held);
        assert_eq!(cache.usage(), Usage { total: 4, free: 4, cached: 0, held: 0 });
    }

    #[test]
    fn a_block_is_free_when_its_last_reference_goes() {
        let cache = KvCache::new(1, 16);
        let first = cache.reserve(1).unwrap();
        let second = first.clone();
        drop(first);
        assert_eq!(cache.usage().held, 1);
        drop(second);
        assert_eq!(cache.usage().held, 0);
    }

    #[test]
    fn lookups_find_the_longest_published_prefix() {
        let cache = KvCache::new(4, 16);
        let blocks = publish_chain(&cache, &[1, 2, 3]);
        let expect = ids(&blocks);
        drop(blocks);
        assert_eq!(cache.usage().cached, 3);
        assert_eq!(ids(&cache.lookup(&chain(&[1, 2, 9, 3]))), expect[..2]);
        assert!(cache.lookup(&chain(&[9, 1])).is_empty());
        assert_eq!(cache.usage(), Usage { total: 4, free: 4, cached: 3, held: 0 });
    }

    #[test]
    fn the_first_publisher_wins() {
        let cache = KvCache::new(4, 16);
        let first = publish_chain(&cache, &[1]);
        let second = publish_chain(&cache, &[1]);
        assert_eq!(ids(&cache.lookup(&chain(&[1]))), ids(&first));
        cache.publish(BlockHash(7), None, &first[0]);
        assert!(cache.lookup(&chain(&[7])).is_empty());
        drop((first, second));
        assert_eq!(cache.usage(), Usage { total: 4, free: 4, cached: 1, held: 0 });
    }

    #[test]
    fn a_recycled_block_is_not_found_any_more() {
        let cache = KvCache::new(2, 16);
        drop(publish_chain(&cache, &[1, 2]));
        let held = cache.reserve(2).unwrap();
        assert!(cache.lookup(&chain(&[1, 2])).is_empty());
        drop(held);
        assert_eq!(cache.usage().cached, 0);
    }

    #[test]
    fn eviction_takes_the_least_recently_used_chain_from_its_end() {
        let cache = KvCache::new(4, 16);
        let (old, new) = (publish_chain(&cache, &[1, 2]), publish_chain(&cache, &[3, 4]));
        drop((old, new));
        drop(cache.lookup(&chain(&[1, 2])));
        let _one = cache.reserve(1).unwrap();
        assert_eq!(cache.lookup(&chain(&[3, 4])).len(), 1);
        assert_eq!(cache.lookup(&chain(&[1, 2])).len(), 2);
    }
}
