//! What of a sequence is about its moves.

use std::time::Duration;

use baton_node::task;
use baton_proto::node::v1::{AdoptRequest, AdoptResponse, OfferRequest, OfferResponse};
use baton_types::{Epoch, NodeId, Time};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    cluster::Place,
    moves::{Entry, MoveOrder, NotMoved},
    request::attempt::Side,
};

/// How long a call that has been given its last word may take to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// What of a sequence is about its moves.
pub(in super::super) struct Moving {
    pub(super) entry: Entry,
    pub(super) orders: mpsc::Receiver<MoveOrder>,
    pub(super) migration: Option<Migration>,
    /// The latest one found that there were no pages to move.
    pub(super) was_bare: bool,
    /// When the latest token came.
    pub(super) last_token: Option<Time>,
    /// Calls that have been given their last word.
    pub(super) farewells: Vec<AbortOnDropHandle<()>>,
}

/// One attempt to move, seen from the router.
pub(super) struct Migration {
    pub(super) epoch: Epoch,
    pub(super) order: MoveOrder,
    pub(super) began: Time,
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    /// At the destination.
    pub(super) place: Place,
    /// Tokens that the destination was told to begin with.
    pub(super) told: usize,
    pub(super) to_source: mpsc::Sender<OfferRequest>,
    pub(super) source: Side<OfferResponse>,
    pub(super) to_destination: mpsc::Sender<AdoptRequest>,
    pub(super) destination: Side<AdoptResponse>,
    /// When it had all pages,
    pub(super) prepared: Option<Time>,
    /// and what its first step took.
    pub(super) first_step: Duration,
    /// The destination is the owner.
    pub(super) granted: bool,
    /// Why it comes to nothing, if it does.
    pub(super) why_not: Option<NotMoved>,
}

impl Moving {
    pub(in super::super) fn new((entry, orders): (Entry, mpsc::Receiver<MoveOrder>)) -> Self {
        let (migration, last_token, farewells) = (None, None, Vec::new());
        Moving { entry, orders, migration, was_bare: false, last_token, farewells }
    }

    /// The sequence is there.
    pub(in super::super) fn is_at(&self, place: &Place) {
        self.entry.is_at(place.reservation);
    }

    pub(in super::super) fn is_moving(&self) -> bool {
        self.migration.is_some()
    }

    /// The sequence is placed anew: whatever was under way is over, and whoever asked hears so.
    pub(in super::super) fn abandon(&mut self) {
        if let Some(migration) = self.migration.take() {
            let why = "its node was lost meanwhile, and it was placed anew".to_owned();
            // Whoever asked may have gone.
            let _ = migration.order.answer.send(Err(NotMoved::Failed { why }));
        }
    }

    /// Keeps what belongs to a call to a source until it ends, which it does when its last word has been heard.
    pub(super) fn part(&mut self, mut source: Side<OfferResponse>, kept: impl Send + 'static) {
        self.farewells.retain(|call| !call.is_finished());
        self.farewells.push(task::owned(async move {
            let ended = async { while let Some(Ok(_)) = source.next().await {} };
            // A call that doesn't end is dropped.
            let _ = tokio::time::timeout(FAREWELL, ended).await;
            drop(kept);
        }));
    }

    pub(super) fn of(&mut self, epoch: Epoch) -> Option<&mut Migration> {
        self.migration.as_mut().filter(|migration| migration.epoch == epoch)
    }
}
