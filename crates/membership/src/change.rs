use std::{sync::Arc, time::Duration};

use baton_types::{Generation, NodeHello, NodeId};

/// What became different about the cluster, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Joined {
        hello: Arc<NodeHello>,
    },
    /// The node takes no new requests from now on.
    Draining {
        node: NodeId,
        generation: Generation,
    },
    /// Its stream was lost; it may come back within its lease.
    Absent {
        node: NodeId,
        generation: Generation,
    },
    /// The same generation, back after it was absent.
    Back {
        node: NodeId,
        generation: Generation,
    },
    /// This generation is gone for good as far as its requests are concerned.
    Left {
        node: NodeId,
        generation: Generation,
        why: Departure,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It said goodbye, or was lost while draining.
    Goodbye,
    /// It said nothing for its whole lease.
    Expired { silent: Duration },
    /// Another generation has its name now.
    Replaced { by: Generation },
}
