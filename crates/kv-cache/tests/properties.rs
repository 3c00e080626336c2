//! Random operation lists against a model: `no-leak` and `no-stale-page`.

use std::collections::{HashMap, HashSet};

use baton_kv_cache::{BlockRef, KvCache, Usage};
use baton_types::{BlockHash, BlockId, KvEvents};
use proptest::prelude::*;

const BLOCKS: u32 = 12;

#[derive(Clone, Debug)]
enum Op {
    Reserve {
        n: usize,
    },
    /// Publishes a held block as the `depth`-th of a chain.
    Publish {
        held: usize,
        chain: u8,
        depth: u8,
    },
    Lookup {
        chain: u8,
        depth: u8,
    },
    Clone {
        held: usize,
    },
    Drop {
        held: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let (held, chain, depth) = (0..32_usize, 0..3_u8, 0..6_u8);
    prop_oneof![
        3 => (0..6_usize).prop_map(|n| Op::Reserve { n }),
        4 => (held.clone(), chain.clone(), depth.clone())
            .prop_map(|(held, chain, depth)| Op::Publish { held, chain, depth }),
        2 => (chain, depth).prop_map(|(chain, depth)| Op::Lookup { chain, depth }),
        1 => held.clone().prop_map(|held| Op::Clone { held }),
        5 => held.prop_map(|held| Op::Drop { held }),
    ]
}

fn hash(chain: u8, depth: u8) -> BlockHash {
    BlockHash(u128::from(chain) << 8 | u128::from(depth))
}

/// What the pool should be, kept as plainly as possible.
struct Model {
    cache: KvCache,
    held: Vec<BlockRef>,
    /// What each block is published as, until it is handed out again.
    content: HashMap<BlockId, BlockHash>,
}

impl Model {
    fn new() -> Self {
        Model { cache: KvCache::new(BLOCKS, 16), held: Vec::new(), content: HashMap::new() }
    }

    fn held_ids(&self) -> HashSet<BlockId> {
        self.held.iter().map(BlockRef::id).collect()
    }

    fn expected(&self) -> Usage {
        let held = self.held_ids();
        let cached = self.content.keys().filter(|id| !held.contains(id)).count() as u32;
        let free = BLOCKS - held.len() as u32;
        Usage { total: BLOCKS, free, cached, held: held.len() as u32 }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Reserve { n } => self.reserve(n),
            Op::Publish { held, chain, depth } if !self.held.is_empty() => {
                let block = &self.held[held % self.held.len()];
                let parent = depth.checked_sub(1).map(|before| hash(chain, before));
                self.cache.publish(hash(chain, depth), parent, block);
                if !self.content.values().any(|&known| known == hash(chain, depth)) {
                    self.content.entry(block.id()).or_insert(hash(chain, depth));
                }
            }
            Op::Lookup { chain, depth } => self.lookup(chain, depth),
            Op::Clone { held } if !self.held.is_empty() => {
                self.held.push(self.held[held % self.held.len()].clone());
            }
            Op::Drop { held } if !self.held.is_empty() => {
                self.held.swap_remove(held % self.held.len());
            }
            Op::Publish { .. } | Op::Clone { .. } | Op::Drop { .. } => {}
        }
    }

    fn reserve(&mut self, n: usize) {
        let (before, held) = (self.expected(), self.held_ids());
        let Ok(blocks) = self.cache.reserve(n) else {
            assert!(n > before.free as usize, "{n} refused with {before:?}");
            return;
        };
        assert_eq!(blocks.len(), n);
        let mut evicted = 0;
        let mut seen = held;
        for block in &blocks {
            assert!(seen.insert(block.id()), "{block:?} was handed out while held");
            evicted += u32::from(self.content.remove(&block.id()).is_some());
        }
        let unused = before.free - before.cached;
        assert_eq!(evicted, (n as u32).saturating_sub(unused), "evicts only what it must");
        self.held.extend(blocks);
    }

    fn lookup(&mut self, chain: u8, depth: u8) {
        let hashes: Vec<_> = (0..=depth).map(|depth| hash(chain, depth)).collect();
        let found = self.cache.lookup(&hashes);
        let published =
            hashes.iter().take_while(|&hash| self.content.values().any(|known| known == hash));
        assert_eq!(found.len(), published.count(), "the longest published prefix");
        for (block, hash) in found.iter().zip(&hashes) {
            assert_eq!(self.content.get(&block.id()), Some(hash), "{block:?} is stale");
        }
        self.held.extend(found);
    }
}

proptest! {
    #[test]
    fn no_leak_and_no_stale_page(ops in prop::collection::vec(op(), 1..200)) {
        let mut model = Model::new();
        for op in ops {
            model.apply(op);
            assert_eq!(model.cache.usage(), model.expected());
        }
        model.held.clear();
        assert_eq!(model.cache.usage(), model.expected());
        assert_eq!(model.cache.reserve(BLOCKS as usize).map(|all| all.len()), Ok(BLOCKS as usize));
    }

    /// Whoever follows the events, however seldom, knows what can be found.
    #[test]
    fn events_tell_what_is_published(
        ops in prop::collection::vec((op(), prop::bool::weighted(0.2)), 1..300),
    ) {
        let (mut model, mut known, mut upto) = (Model::new(), HashSet::new(), None);
        let last = (Op::Reserve { n: 0 }, true);
        for (op, listens) in ops.into_iter().chain([last]) {
            model.apply(op);
            if !listens {
                continue;
            }
            let KvEvents { since, upto: now, stored, removed } = model.cache.events(upto);
            assert!(since.is_none() || since == upto, "{since:?} isn't what was asked");
            if since.is_none() {
                assert!(removed.is_empty(), "a snapshot says what there is");
                known.clear();
            }
            for hash in removed {
                known.remove(&hash);
            }
            known.extend(stored);
            let published: HashSet<_> = model.content.values().copied().collect();
            assert_eq!(known, published);
            upto = Some(now);
        }
    }
}
