use serde::{Deserialize, Serialize};

use crate::BlockHash;

/// How the published blocks of one node's cache changed: its KV events, netted.
///
/// Every change a cache goes through has a number, counted from 1 in each generation. These are those
/// after `since`, up to and with `upto`; a block that came and went meanwhile is in neither list, or in
/// the one that says what became of it. Without `since` it is a snapshot: nothing but `stored` is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvEvents {
    pub since: Option<u64>,
    pub upto: u64,
    /// In no order, and none of them in `removed`.
    pub stored: Vec<BlockHash>,
    pub removed: Vec<BlockHash>,
}

impl KvEvents {
    /// Whether they say nothing new.
    pub fn is_empty(&self) -> bool {
        self.since == Some(self.upto)
    }
}
