//! The names blocks are found by.

use baton_types::{BlockHash, NumericsId, TokenId};

/// Domain separation: changes whenever the meaning of a block hash does.
const CONTEXT: &str = "baton kv block hash v1";

/// The chain of block hashes of one sequence: `h_i = hash128(h_{i-1}, tokens_i)`.
///
/// The hash is BLAKE3 keyed by the numerics id and the tenant's salt, cut to 128 bits. Two equal
/// hashes therefore mean the same tokens in the same places, computed by the same numerics, for the
/// same tenant.
#[derive(Clone, Debug)]
pub struct HashChain {
    key: [u8; 32],
    last: Option<BlockHash>,
}

impl HashChain {
    /// The chain before any block.
    pub fn root(numerics: NumericsId, cache_salt: u64) -> Self {
        let mut material = [0; 24];
        material[..16].copy_from_slice(&numerics.0.to_le_bytes());
        material[16..].copy_from_slice(&cache_salt.to_le_bytes());
        HashChain { key: blake3::derive_key(CONTEXT, &material), last: None }
    }

    /// Appends one full block of tokens and returns its hash.
    pub fn extend(&mut self, block: &[TokenId]) -> BlockHash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        // A first block's input is shorter than any other's, so no value of `last` stands for it.
        if let Some(last) = self.last {
            hasher.update(&last.0.to_le_bytes());
        }
        for tokens in block.chunks(64) {
            let mut bytes = [0; 256];
            for (four, token) in bytes.chunks_exact_mut(4).zip(tokens) {
                four.copy_from_slice(&token.0.to_le_bytes());
            }
            hasher.update(&bytes[..4 * tokens.len()]);
        }
        let mut low = [0; 16];
        low.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        let hash = BlockHash(u128::from_le_bytes(low));
        self.last = Some(hash);
        hash
    }

    /// The hash of the last block appended: the next one's parent.
    pub fn last(&self) -> Option<BlockHash> {
        self.last
    }
}

/// The hashes of the full blocks of `tokens`, in order; a partial last block has none.
pub fn block_hashes(
    numerics: NumericsId,
    cache_salt: u64,
    tokens: &[TokenId],
    block_tokens: u32,
) -> Vec<BlockHash> {
    let mut chain = HashChain::root(numerics, cache_salt);
    tokens.chunks_exact(block_tokens as usize).map(|block| chain.extend(block)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: impl IntoIterator<Item = u32>) -> Vec<TokenId> {
        ids.into_iter().map(TokenId).collect()
    }

    #[test]
    fn a_hash_depends_on_everything_before_it_and_on_the_root() {
        let numerics = NumericsId(7);
        let base = block_hashes(numerics, 1, &tokens(0..48), 16);
        assert_eq!(base.len(), 3);

        let same_middle = block_hashes(numerics, 1, &tokens((100..116).chain(16..48)), 16);
        for (ours, theirs) in base.iter().zip(&same_middle) {
            assert_ne!(ours, theirs);
        }
        assert_ne!(base, block_hashes(numerics, 2, &tokens(0..48), 16));
        assert_ne!(base, block_hashes(NumericsId(8), 1, &tokens(0..48), 16));
    }

    #[test]
    fn partial_blocks_have_no_hash_and_do_not_disturb_the_full_ones() {
        let all = block_hashes(NumericsId(7), 1, &tokens(0..48), 16);
        for len in 0..48 {
            let some = block_hashes(NumericsId(7), 1, &tokens(0..len), 16);
            assert_eq!(some, all[..(len / 16) as usize], "{len} tokens");
        }
    }

    #[test]
    fn the_hash_is_frozen() {
        let hash = block_hashes(NumericsId(7), 1, &tokens(0..80), 80);
        assert_eq!(format!("{:?}", hash[0]), "f9fadb02e7b1f2879a10aa11ce9c02a9");
    }
}
