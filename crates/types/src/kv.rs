use std::fmt;

use serde::{Deserialize, Serialize};

/// The element type keys and values are rounded to before any use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvDtype {
    F16,
    F32,
}

impl KvDtype {
    pub const fn bytes(self) -> usize {
        match self {
            KvDtype::F16 => 2,
            KvDtype::F32 => 4,
        }
    }
}

impl fmt::Display for KvDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KvDtype::F16 => "f16",
            KvDtype::F32 => "f32",
        })
    }
}

/// The shape of one KV page, a (layer, block) piece of the arena:
/// `k: [kv head][head dim][slot]`, then `v: [kv head][slot][head dim]`.
///
/// Keys are stored with the slot innermost, so that a vector lane is a token when a query meets a
/// block; see ARCHITECTURE.md, *Memory*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KvLayout {
    pub layers: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    /// Tokens in a block: a multiple of 16.
    pub block_tokens: u32,
    pub dtype: KvDtype,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error("KV layout has {field} = 0; it must be at least 1")]
    Zero { field: &'static str },
    #[error("KV block size is {given} tokens; it must be a multiple of 16, at most 256")]
    BlockTokens { given: u32 },
    #[error("KV layout has {field} = {given}; at most {max} is supported")]
    TooLarge { field: &'static str, given: u32, max: u32 },
}

impl KvLayout {
    /// Bytes of the keys, or of the values, in one page.
    pub const fn half_page_bytes(&self) -> usize {
        self.kv_heads as usize
            * self.head_dim as usize
            * self.block_tokens as usize
            * self.dtype.bytes()
    }

    /// Bytes of one (layer, block) page: the unit of transfer.
    pub const fn page_bytes(&self) -> usize {
        2 * self.half_page_bytes()
    }

    /// Bytes of one block through all layers.
    pub const fn block_bytes(&self) -> usize {
        self.layers as usize * self.page_bytes()
    }

    /// Refuses shapes whose sizes would overflow or that no kernel takes; called on every layout
    /// that comes from a file or from the network.
    pub fn validate(&self) -> Result<(), LayoutError> {
        for (field, given, max) in [
            ("layers", self.layers, 4096),
            ("kv_heads", self.kv_heads, 4096),
            ("head_dim", self.head_dim, 4096),
        ] {
            if given == 0 {
                return Err(LayoutError::Zero { field });
            }
            if given > max {
                return Err(LayoutError::TooLarge { field, given, max });
            }
        }
        let given = self.block_tokens;
        if given == 0 || !given.is_multiple_of(16) || given > 256 {
            return Err(LayoutError::BlockTokens { given });
        }
        Ok(())
    }
}

impl fmt::Display for KvLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} layers × {} kv heads × {} × {} tokens, {}",
            self.layers, self.kv_heads, self.head_dim, self.block_tokens, self.dtype
        )
    }
}

/// Names everything that decides a token's bits: kernel family and version, backend mode, cache
/// dtype, weights hash. Nothing pairs, migrates, replays or reuses prefixes across different ids.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NumericsId(pub u128);

impl fmt::Display for NumericsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for NumericsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Blocks that hold `tokens` tokens.
pub const fn blocks_for(tokens: usize, block_tokens: u32) -> usize {
    tokens.div_ceil(block_tokens as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_and_block_sizes_follow_the_shape() {
        let layout = KvLayout {
            layers: 30,
            kv_heads: 3,
            head_dim: 64,
            block_tokens: 16,
            dtype: KvDtype::F16,
        };
        assert_eq!(layout.page_bytes(), 12_288);
        assert_eq!(layout.block_bytes(), 30 * 12_288);
        assert_eq!(layout.validate(), Ok(()));
        assert!(KvLayout { block_tokens: 24, ..layout }.validate().is_err());
        assert!(KvLayout { layers: 0, ..layout }.validate().is_err());
        assert!(KvLayout { head_dim: u32::MAX, ..layout }.validate().is_err());
    }
}
