//! Which requests come in: those for this incarnation of this node and its model, until it drains.

use std::time::Duration;

use baton_types::{Generation, NodeId};
use tokio::sync::watch;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use crate::error::RunError;

/// Checks who is meant, and counts who is in.
#[derive(Debug)]
pub struct Gate {
    node: NodeId,
    generation: Generation,
    model: String,
    inside: TaskTracker,
    draining: watch::Sender<bool>,
}

impl Gate {
    pub(crate) fn new(node: NodeId, generation: Generation, model: String) -> Self {
        let (inside, draining) = (TaskTracker::new(), watch::Sender::new(false));
        Gate { node, generation, model, inside, draining }
    }

    /// Lets a request in. It counts as inside until the token is dropped.
    pub fn enter(&self, model: &str, given: u64) -> Result<TaskTrackerToken, RunError> {
        self.check(model, given)?;
        // The token first: whoever starts to drain afterwards waits for it.
        let token = self.inside.token();
        if self.is_draining() {
            return Err(RunError::Draining { node: self.node.clone() });
        }
        Ok(token)
    }

    /// Whether this incarnation and this model are meant; also by those who help it drain.
    pub fn check(&self, model: &str, given: u64) -> Result<(), RunError> {
        let given = Generation(given);
        if given != self.generation {
            let (node, current) = (self.node.clone(), self.generation);
            return Err(RunError::WrongGeneration { node, given, current });
        }
        if model != self.model {
            let (given, served) = (model.to_owned(), self.model.clone());
            return Err(RunError::WrongModel { given, served });
        }
        Ok(())
    }

    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Requests inside.
    pub fn inside(&self) -> usize {
        self.inside.len()
    }

    pub(crate) fn watch_draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Lets nobody in any more and waits for those inside, at most `patience`. Says how many were
    /// left.
    pub(crate) async fn drain(&self, patience: Duration) -> usize {
        self.draining.send_replace(true);
        self.inside.close();
        // Whether it was in time shows in how many are left.
        let _ = tokio::time::timeout(patience, self.inside.wait()).await;
        self.inside.len()
    }
}
