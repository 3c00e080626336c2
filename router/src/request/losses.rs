//! Requests that nodes die of.
//!
//! # Which one was it?
//!
//! Whoever was on a node that died may be the reason; so may none of them be. After as many deaths as one request may
//! cost it goes to no other node, if nobody else was there each time. Otherwise one after the other is tried alone:
//! who gets further than where its nodes died is cleared, and who loses another node is refused. Then the deaths are
//! explained, and the others needn't be tried.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use baton_types::{Generation, NodeId, SequenceKey};
use futures::future::join_all;
use tokio::sync::OwnedMutexGuard;

use super::attempt::Reached;
use crate::{
    cluster::{Death, Peer},
    error::RequestError,
};

/// That a process has ended is known so long after a connection to it broke,
const NOTICE: Duration = Duration::from_millis(100);
/// and everybody who was there has come here.
const GATHERING: Duration = Duration::from_millis(50);

/// Deaths that are remembered once it is known what the nodes died of.
const EXPLAINED: usize = 64;

type Incarnation = (NodeId, Generation);

/// Requests that are suspected just now.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    known: Mutex<Known>,
    /// Held by the one that is tried.
    trial: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Known {
    /// With the nodes that died under them.
    suspects: BTreeMap<SequenceKey, BTreeSet<Incarnation>>,
    /// Nodes that died of a request that is refused, the latest ones.
    explained: VecDeque<Incarnation>,
}

impl Suspects {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, key: SequenceKey, dead: BTreeSet<Incarnation>) {
        self.known().suspects.insert(key, dead);
    }

    fn leave(&self, key: SequenceKey) {
        self.known().suspects.remove(&key);
    }

    /// Whether others were on the same nodes.
    fn has_others(&self, key: SequenceKey, dead: &BTreeSet<Incarnation>) -> bool {
        let known = self.known();
        known.suspects.iter().any(|(other, theirs)| *other != key && theirs.is_superset(dead))
    }

    /// It is known what these died of.
    fn explain(&self, dead: &BTreeSet<Incarnation>) {
        let mut known = self.known();
        known.explained.extend(dead.iter().cloned());
        let old = known.explained.len().saturating_sub(EXPLAINED);
        known.explained.drain(..old);
    }

    fn is_explained(&self, dead: &Incarnation) -> bool {
        self.known().explained.contains(dead)
    }
}

/// The nodes that one request lost.
#[derive(Debug)]
pub(super) struct Losses {
    suspects: Arc<Suspects>,
    key: SequenceKey,
    lost: Vec<Loss>,
    is_suspected: bool,
    trial: Option<Trial>,
}

#[derive(Debug)]
struct Trial {
    _turn: OwnedMutexGuard<()>,
    /// Nodes that had died before.
    before: usize,
}

#[derive(Debug)]
struct Loss {
    peer: Arc<Peer>,
    reached: Reached,
    /// Tokens that had been emitted.
    at: u32,
}

impl Loss {
    fn incarnation(&self) -> Incarnation {
        (self.peer.hello.node.clone(), self.peer.hello.generation)
    }

    /// Whether the node may have died of it, as far as is known by now.
    fn is_suspicious(&self) -> bool {
        match self.peer.death() {
            // What a crash leaves unsent may have been taken.
            Some(Death::Broken | Death::Stuck) => self.reached != Reached::Nobody,
            // What is sent to a node that was stopped before is no reason for that.
            Some(Death::Silent) => self.reached == Reached::Taken,
            None => false,
        }
    }
}

impl Losses {
    pub(super) fn new(suspects: &Arc<Suspects>, key: SequenceKey) -> Self {
        let suspects = Arc::clone(suspects);
        Losses { suspects, key, lost: Vec::new(), is_suspected: false, trial: None }
    }

    /// An attempt failed on these nodes, which may be dead, when so many tokens had been emitted.
    pub(super) fn add(&mut self, nodes: impl Iterator<Item = (Arc<Peer>, Reached)>, at: u32) {
        self.lost.extend(nodes.map(|(peer, reached)| Loss { peer, reached, at }));
    }

    /// So many tokens are emitted: what was lost before wasn't lost for what came next.
    pub(super) fn passed(&mut self, emitted: u32) {
        if !self.lost.is_empty() {
            self.lost.retain(|loss| loss.at >= emitted);
            self.clear();
        }
    }

    fn nodes(&self) -> BTreeSet<Incarnation> {
        self.lost.iter().map(Loss::incarnation).collect()
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.is_suspected) {
            self.suspects.leave(self.key);
        }
        self.trial = None;
    }

    /// Refuses a request that `max` nodes died of. One that may be innocent has its turn when this returns.
    pub(super) async fn judge(&mut self, max: u32) -> Result<(), RequestError> {
        let max = max as usize;
        if self.lost.len() < max {
            return Ok(());
        }
        // Before anything else, for others who were there are asking for it just now.
        self.suspects.enter(self.key, self.nodes());
        self.is_suspected = true;
        let known = join_all(self.lost.iter().map(|loss| loss.peer.gone.cancelled()));
        // Those that aren't gone by then live.
        let _ = tokio::time::timeout(NOTICE, known).await;
        let dead = self.unexplained();
        match &self.trial {
            Some(trial) if dead.len() > trial.before => return Err(self.refuse(dead)),
            Some(_) => return Ok(()),
            None if dead.len() < max => {
                self.clear();
                return Ok(());
            }
            None => {}
        }
        self.suspects.enter(self.key, dead.clone());
        tokio::time::sleep(GATHERING).await;
        if !self.suspects.has_others(self.key, &dead) {
            return Err(self.refuse(dead));
        }
        let turn = Arc::clone(&self.suspects.trial).lock_owned().await;
        let before = self.unexplained().len();
        if before < max {
            self.clear();
        } else {
            tracing::warn!(?dead, "each node that worked on this request died; it is tried alone");
            self.trial = Some(Trial { _turn: turn, before });
        }
        Ok(())
    }

    /// Nodes that may have died of it.
    fn unexplained(&mut self) -> BTreeSet<Incarnation> {
        let suspects = &self.suspects;
        self.lost
            .retain(|loss| loss.is_suspicious() && !suspects.is_explained(&loss.incarnation()));
        self.nodes()
    }

    fn refuse(&self, dead: BTreeSet<Incarnation>) -> RequestError {
        tracing::error!(?dead, "each node that worked on this request died; it goes to no other");
        self.suspects.explain(&dead);
        RequestError::Poison { nodes: dead.into_iter().map(|(node, _)| node).collect() }
    }
}

impl Drop for Losses {
    fn drop(&mut self) {
        self.clear();
    }
}
