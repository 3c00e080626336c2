//! Which requests come in: those for this incarnation of this node, its role and its model, until it drains.

use std::time::Duration;

use baton_kv_transfer::{PeerIdentity, SharedIdentity};
use baton_types::{Generation, Role};
use tokio::sync::watch;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use crate::error::RunError;

/// Checks who is meant, and counts who is in.
#[derive(Debug)]
pub struct Gate {
    identity: SharedIdentity,
    model: String,
    inside: TaskTracker,
    door: watch::Sender<Door>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Open,
    /// Until the node is empty and takes another role.
    Changing,
    /// For good.
    Leaving,
}

impl Gate {
    pub(crate) fn new(identity: SharedIdentity, model: String) -> Self {
        Gate { identity, model, inside: TaskTracker::new(), door: watch::Sender::new(Door::Open) }
    }

    /// Lets a request in that is for a node of this role. It counts as inside until the token is dropped.
    pub fn enter(&self, role: Role, model: &str, given: u64) -> Result<TaskTrackerToken, RunError> {
        // The token first: whoever starts to drain afterwards waits for it. The incarnation last: a door that
        // was opened again is another one's.
        let token = self.inside.token();
        let is_open = !self.is_draining();
        self.check(role, model, given)?;
        match is_open {
            true => Ok(token),
            false => Err(RunError::Draining { node: self.identity.get().node }),
        }
    }

    /// Whether this incarnation, role and model are meant; also by those who help it drain.
    pub fn check(&self, role: Role, model: &str, given: u64) -> Result<(), RunError> {
        let given = Generation(given);
        let PeerIdentity { node, generation: current, role: own, .. } = self.identity.get();
        if given != current {
            return Err(RunError::WrongGeneration { node, given, current });
        }
        if role != own {
            return Err(RunError::WrongRole { node, given: role, current: own });
        }
        if model != self.model {
            let (given, served) = (model.to_owned(), self.model.clone());
            return Err(RunError::WrongModel { given, served });
        }
        Ok(())
    }

    pub fn is_draining(&self) -> bool {
        *self.door.borrow() != Door::Open
    }

    /// Requests inside.
    pub fn inside(&self) -> usize {
        self.inside.len()
    }

    /// Changes when the node begins to drain, and when it takes requests again.
    pub(crate) fn watch_door(&self) -> watch::Receiver<Door> {
        self.door.subscribe()
    }

    /// Lets nobody in any more and waits for those inside, at most `patience`. Says how many were
    /// left.
    pub(crate) async fn drain(&self, patience: Duration) -> usize {
        self.door.send_replace(Door::Leaving);
        self.inside.close();
        // Whether it was in time shows in how many are left.
        let _ = tokio::time::timeout(patience, self.inside.wait()).await;
        self.inside.len()
    }

    /// Lets nobody in until [`Gate::reopen`].
    pub(crate) fn close(&self) {
        self.door.send_if_modified(|door| match door {
            Door::Open => {
                *door = Door::Changing;
                true
            }
            Door::Changing | Door::Leaving => false,
        });
        self.inside.close();
    }

    /// Ends when the door is closed and nobody is inside.
    pub(crate) async fn emptied(&self) {
        self.inside.wait().await;
    }

    /// Lets in again who is for the node as it is. A node that leaves doesn't.
    pub(crate) fn reopen(&self) {
        self.reopen_as(self.identity.get());
    }

    /// Lets in who is for the node as this incarnation. Says whether it does: a node that leaves doesn't, and one
    /// whose door is open stays as it is.
    pub(crate) fn reopen_as(&self, identity: PeerIdentity) -> bool {
        self.door.send_if_modified(|door| match door {
            Door::Changing => {
                // Before anybody comes in.
                self.identity.set(identity);
                self.inside.reopen();
                *door = Door::Open;
                true
            }
            Door::Open | Door::Leaving => false,
        })
    }
}
