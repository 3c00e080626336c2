use std::fmt;

use serde::{Deserialize, Serialize};

/// Which router process granted something. Drawn at random at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RouterId(pub u64);

/// Who may speak for a `(request, choice)`: invariant `one-owner`.
///
/// Only the request's router makes epochs, freshly for every placement, migration attempt and
/// replay, and never the same one twice. Order is by counter, then by router. Nodes compare epochs
/// and never make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    pub counter: u64,
    pub router: RouterId,
}

impl Epoch {
    pub const fn first(router: RouterId) -> Self {
        Epoch { counter: 1, router }
    }

    /// The next epoch `router` may grant, above `self` whoever granted that.
    pub const fn next(self, router: RouterId) -> Self {
        Epoch { counter: self.counter + 1, router }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:016x}", self.counter, self.router.0)
    }
}
