use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
};

use crate::BlockHash;

/// A map from blocks' hashes. Those are hashes already, so little is done to them before they choose
/// a slot: enough that nobody can choose blocks that meet in one, for the seed is the map's own.
pub type BlockMap<V> = HashMap<BlockHash, V, BlockHashState>;

/// Makes a [`BlockMap`]'s hashers.
#[derive(Clone, Debug)]
pub struct BlockHashState {
    seed: u64,
}

/// Folds a block's hash to 64 bits.
#[derive(Clone, Debug)]
pub struct BlockHasher {
    seed: u64,
    folded: u64,
}

impl Default for BlockHashState {
    fn default() -> Self {
        BlockHashState { seed: RandomState::new().hash_one(0_u64) }
    }
}

impl BuildHasher for BlockHashState {
    type Hasher = BlockHasher;

    fn build_hasher(&self) -> BlockHasher {
        BlockHasher { seed: self.seed, folded: 0 }
    }
}

impl Hasher for BlockHasher {
    fn write_u128(&mut self, hash: u128) {
        let low = hash as u64 ^ self.seed;
        let high = (hash >> 64) as u64 ^ self.seed.rotate_left(32) ^ self.folded;
        self.folded = fold(low, high);
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(16) {
            let mut word = [0; 16];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u128(u128::from_le_bytes(word));
        }
    }

    /// Once more: a product's bits are only as good as its factors, and one of them may be a seed with
    /// few bits set.
    fn finish(&self) -> u64 {
        fold(self.folded ^ self.seed, SPREAD)
    }
}

/// 2⁶⁴ over the golden ratio, odd.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn hashes_that_differ_in_little_are_spread_over_slots_and_tags() {
        let mut seed = 0x1234_5678_9abc_def1_u64;
        for _ in 0..500 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Also such as a shift leaves few bits of.
            for seed in [seed, seed << 20, seed >> 20] {
                check(&BlockHashState { seed });
            }
        }
        check(&BlockHashState::default());
    }

    fn check(state: &BlockHashState) {
        for shift in [0, 40, 64, 100] {
            let folded: Vec<u64> =
                (0..4096_u128).map(|n| state.hash_one(BlockHash(n << shift))).collect();
            // As hashbrown uses them: low bits choose the slot, the top seven are its tag.
            for of in [|hash: &u64| hash & 0xfff, |hash: &u64| hash >> 52] {
                let distinct: BTreeSet<u64> = folded.iter().map(of).collect();
                assert!(
                    distinct.len() > 1500,
                    "{} of 4096, shifted by {shift}, seed {:x}",
                    distinct.len(),
                    state.seed
                );
            }
        }
    }
}
