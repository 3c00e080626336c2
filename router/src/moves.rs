//! Which sequences run where, and how they are asked to go elsewhere.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use baton_policy::{ReservationId, Shortage, rebalance::Reason};
use baton_types::{NodeId, RequestId, SequenceKey};
use tokio::sync::{Notify, mpsc, oneshot};

/// All sequences inside the router.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    known: Mutex<Known>,
    /// Somebody came.
    entered: Notify,
}

#[derive(Debug, Default)]
struct Known {
    running: HashMap<SequenceKey, Running>,
    /// Whose place it is.
    places: HashMap<ReservationId, SequenceKey>,
}

#[derive(Debug)]
struct Running {
    orders: mpsc::Sender<MoveOrder>,
    /// Its place, once it has one.
    place: Option<ReservationId>,
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
    /// The rebalancer does.
    Rebalance(Reason),
}

impl Why {
    /// Nothing is held back for others' sake: its node is about to end.
    pub(crate) fn is_urgent(self) -> bool {
        self == Why::Rebalance(Reason::Drain)
    }

    /// A label for the metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Why::Asked => "asked",
            Why::Rebalance(reason) => reason.label(),
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
    pub(crate) gap: Gap,
}

/// How long its client has waited for the next token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gap {
    /// From the last token of the one to the first of the other.
    pub(crate) whole: Duration,
    /// Of that, until the destination had all pages.
    pub(crate) tail: Duration,
    /// Of that, the destination's first step.
    pub(crate) step: Duration,
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
        self.lock().running.insert(key, Running { orders, place: None });
        self.entered.notify_one();
        (Entry { moves: Arc::clone(self), key }, received)
    }

    /// A request's sequences.
    pub(crate) fn of(&self, request: RequestId) -> Vec<SequenceKey> {
        let is_its = |key: &&SequenceKey| key.request == request;
        let mut keys: Vec<_> = self.lock().running.keys().filter(is_its).copied().collect();
        keys.sort_unstable();
        keys
    }

    /// Waits until there is a sequence; for one waiter.
    pub(crate) async fn some(&self) {
        while self.lock().running.is_empty() {
            self.entered.notified().await;
        }
    }

    /// Whose place it is.
    pub(crate) fn at(&self, place: ReservationId) -> Option<SequenceKey> {
        self.lock().places.get(&place).copied()
    }

    /// Asks a sequence to move, and waits for what comes of it. One that isn't decoded yet moves when
    /// it is.
    pub(crate) async fn ask(
        &self,
        key: SequenceKey,
        to: Option<NodeId>,
        why: Why,
    ) -> Result<Moved, NotMoved> {
        let orders = self.lock().running.get(&key).map(|running| running.orders.clone());
        let orders = orders.ok_or(NotMoved::Ended)?;
        let (answer, answered) = oneshot::channel();
        orders.send(MoveOrder { to, why, answer }).await.map_err(|_ended| NotMoved::Ended)?;
        answered.await.unwrap_or(Err(NotMoved::Ended))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// The sequence has this place from now on.
    pub(crate) fn is_at(&self, place: ReservationId) {
        let mut known = self.moves.lock();
        let Some(running) = known.running.get_mut(&self.key) else { return };
        if let Some(before) = running.place.replace(place) {
            known.places.remove(&before);
        }
        known.places.insert(place, self.key);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut known = self.moves.lock();
        let running = known.running.remove(&self.key);
        if let Some(place) = running.and_then(|running| running.place) {
            known.places.remove(&place);
        }
    }
}
