//! Which sequences run where, and how they are asked to go elsewhere.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use baton_policy::Shortage;
use baton_types::{NodeId, RequestId, SequenceKey};
use tokio::sync::{mpsc, oneshot};

/// All sequences inside the router.
#[derive(Debug, Default)]
pub(crate) struct Moves(Mutex<HashMap<SequenceKey, Running>>);

#[derive(Debug)]
struct Running {
    orders: mpsc::Sender<MoveOrder>,
    /// Where it is decoded, once it is placed.
    at: Option<NodeId>,
}

/// Go elsewhere.
#[derive(Debug)]
pub(crate) struct MoveOrder {
    /// Left out: wherever it is best.
    pub(crate) to: Option<NodeId>,
    pub(crate) why: Why,
    pub(crate) answer: oneshot::Sender<Result<Moved, NotMoved>>,
}

/// Why a sequence moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Why {
    /// Somebody wants it to.
    Asked,
    /// Its node is to be empty.
    Drain,
}

impl Why {
    /// A label for the metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Why::Asked => "asked",
            Why::Drain => "drain",
        }
    }
}

/// A sequence that has changed nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) from: NodeId,
    /// Nobody: it had no pages, and is placed anew.
    pub(crate) to: Option<NodeId>,
    /// From the order to the destination's first token.
    pub(crate) took: Duration,
    /// From the last token of the one to the first of the other.
    pub(crate) gap: Duration,
}

/// Why one hasn't. It runs where it ran.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotMoved {
    #[error("it has ended")]
    Ended,
    #[error("it is on {node} already")]
    There { node: NodeId },
    #[error("{node} doesn't take part in live migration; start it with a newer version")]
    Unable { node: NodeId },
    #[error("no node can take it: {0:?}")]
    NoRoom(Shortage),
    #[error("{why}")]
    Failed { why: String },
}

/// A sequence's being known, over when dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    moves: Arc<Moves>,
    key: SequenceKey,
}

impl Moves {
    pub(crate) fn enter(self: &Arc<Self>, key: SequenceKey) -> (Entry, mpsc::Receiver<MoveOrder>) {
        let (orders, received) = mpsc::channel(1);
        self.lock().insert(key, Running { orders, at: None });
        (Entry { moves: Arc::clone(self), key }, received)
    }

    /// A request's sequences.
    pub(crate) fn of(&self, request: RequestId) -> Vec<SequenceKey> {
        let is_its = |key: &&SequenceKey| key.request == request;
        let mut keys: Vec<_> = self.lock().keys().filter(is_its).copied().collect();
        keys.sort_unstable();
        keys
    }

    /// Sequences that are decoded on a node, or will be.
    pub(crate) fn on(&self, node: &NodeId) -> Vec<SequenceKey> {
        let state = self.lock();
        let is_there = |(_, running): &(&SequenceKey, &Running)| running.at.as_ref() == Some(node);
        state.iter().filter(is_there).map(|(key, _)| *key).collect()
    }

    /// Asks a sequence to move, and waits for what comes of it. One that isn't decoded yet moves when
    /// it is.
    pub(crate) async fn ask(
        &self,
        key: SequenceKey,
        to: Option<NodeId>,
        why: Why,
    ) -> Result<Moved, NotMoved> {
        let orders = self.lock().get(&key).map(|running| running.orders.clone());
        let orders = orders.ok_or(NotMoved::Ended)?;
        let (answer, answered) = oneshot::channel();
        orders.send(MoveOrder { to, why, answer }).await.map_err(|_ended| NotMoved::Ended)?;
        answered.await.unwrap_or(Err(NotMoved::Ended))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SequenceKey, Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// The sequence is decoded there from now on.
    pub(crate) fn is_at(&self, node: Option<&NodeId>) {
        if let Some(running) = self.moves.lock().get_mut(&self.key) {
            running.at = node.cloned();
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.moves.lock().remove(&self.key);
    }
}
