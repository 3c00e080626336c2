//! Which block of the KV arena holds what, and who may use it. Pure: it deals in block ids and
//! hashes; the bytes live in the arena.
//!
//! A [`KvCache`] is a cheap handle on one node's block pool. Every use of a block is a [`BlockRef`],
//! a guard that gives its reference back when dropped, so that a block is free exactly when nobody
//! holds it (`no-leak`) and is never handed out again while anybody does (`no-stale-page`).
//! A full block may be *published* under its chained hash; when its last reference goes it stays
//! cached, least recently used first out, until somebody needs the room. What becomes findable, and
//! what ceases to be, is told to whoever follows the cache ([`KvCache::events`]).

mod cache;
mod hash;
mod journal;
mod lru;
mod pool;

pub use cache::{BlockRef, KvCache};
pub use hash::{HashChain, block_hashes};
pub use pool::{PoolFull, Usage};
