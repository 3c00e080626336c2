//! A place on the nodes for one attempt of one request.

use std::{sync::Arc, time::Duration};

use baton_kv_cache::block_hashes;
use baton_policy::{
    Decision, Placement, Priority, PromptHashes, Refusal, RequestView, ReservationId, Shortage,
    decide,
};
use baton_types::{ModelId, NodeId, Role, Time, TokenId};
use tokio::sync::Notify;

use super::{Cluster, Peer, waiting::Rank};

/// When to look for nodes again.
const RETRY_NODES: Duration = Duration::from_secs(1);

/// What an attempt needs a place for.
#[derive(Debug)]
pub(crate) struct PlaceRequest<'a> {
    pub(crate) model: &'a ModelId,
    /// The prompt, then what was emitted.
    pub(crate) tokens: &'a [TokenId],
    /// The most tokens still to be generated.
    pub(crate) max_new_tokens: u32,
    pub(crate) cache_salt: u64,
    pub(crate) priority: Priority,
    /// Its place in line among those: lower goes first.
    pub(crate) number: u64,
    /// Another sequence of the same request goes before it.
    pub(crate) follows: bool,
    /// Passed over as long as there are others.
    pub(crate) exclude: Vec<NodeId>,
    /// Whether it has been placed before: only then is it worth waiting for nodes when there are
    /// none.
    pub(crate) begun: bool,
}

/// A place, held until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    cluster: Arc<Cluster>,
    reservation: ReservationId,
    pub(crate) prefill: Arc<Peer>,
    pub(crate) decode: Option<Arc<Peer>>,
    pub(crate) placement: Placement,
}

/// A place in line, given up when dropped.
struct Ticket<'a> {
    cluster: &'a Cluster,
    model: &'a ModelId,
    rank: Rank,
}

enum Turn {
    Placed(Place),
    Wait(Arc<Notify>),
}

impl PlaceRequest<'_> {
    /// Whether to wait for nodes when there are none.
    fn is_patient(&self) -> bool {
        self.begun || self.follows || self.priority == Priority::Batch
    }

    fn rank(&self) -> Rank {
        Rank { priority: self.priority, number: self.number }
    }
}

impl Cluster {
    /// Waits for a place and takes it.
    pub(crate) async fn place(
        self: &Arc<Self>,
        request: &PlaceRequest<'_>,
    ) -> Result<Place, Refusal> {
        let mut view = self.view_of(request);
        // The request's own end is all that ends a long wait.
        let deadline = (!view.waits_long()).then(|| view.arrived + self.policy.max_queue_time);
        // Dropped last: whoever is next sees the reservation.
        let mut ticket: Option<Ticket<'_>> = None;
        loop {
            let bell = match self.turn(request, &mut view, ticket.is_some())? {
                Turn::Placed(place) => return Ok(place),
                Turn::Wait(bell) => bell,
            };
            let (model, rank) = (request.model, request.rank());
            ticket.get_or_insert_with(|| Ticket { cluster: self, model, rank });
            // Late or not, the policy has the last word.
            match deadline.map(|deadline| deadline - self.clock.now()) {
                Some(left) => drop(tokio::time::timeout(left, bell.notified()).await),
                None => bell.notified().await,
            }
        }
    }

    /// Asks the policy once.
    fn turn(
        self: &Arc<Self>,
        request: &PlaceRequest<'_>,
        view: &mut RequestView,
        queued: bool,
    ) -> Result<Turn, Refusal> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let now = self.clock.now();
        let before = state.waiting.before(request.model, request.rank());
        // Who is in line is not refused for those who came later.
        view.queued_before = if queued || request.is_patient() { 0 } else { before };
        let mut decision = decide(&self.policy, &state.view, view, now, &mut state.rng);
        if !matches!(decision, Decision::Place(_)) && !view.exclude.is_empty() {
            view.exclude.clear();
            decision = decide(&self.policy, &state.view, view, now, &mut state.rng);
        }
        let placement = match decision {
            Decision::Place(placement) if before == 0 => placement,
            Decision::Place(_) => return self.wait(state, request, view, now),
            Decision::Queue(Shortage::Nodes { role }) if !request.is_patient() => {
                return Err(no_nodes(request.model, role));
            }
            Decision::Queue(_) => return self.wait(state, request, view, now),
            Decision::Refuse(Refusal::UnknownModel { .. }) if request.is_patient() => {
                return self.wait(state, request, view, now);
            }
            Decision::Refuse(Refusal::UnknownModel { .. }) => {
                return Err(no_nodes(request.model, Role::Prefill));
            }
            Decision::Refuse(refusal) => return Err(refusal),
        };
        let peer = |node| state.peer(node);
        let prefill = peer(&placement.prefill.node);
        let decode = placement.decode.as_ref().map(|placed| peer(&placed.node));
        let (Some(prefill), None | Some(Some(_))) = (prefill, &decode) else {
            unreachable!("the view and the sessions change together");
        };
        let reservation = state.view.reserve(&placement);
        let node = state.view.nodes(Role::Prefill).iter();
        let group = node.map(|node| &node.group).find(|group| {
            group.numerics == prefill.hello.numerics && group.layout == prefill.hello.layout
        });
        let hashes = group.map_or_else(Vec::new, |group| view.hashes_for(group).to_vec());
        state.view.note_prefix(&placement, &hashes);
        let cluster = Arc::clone(self);
        let decode = decode.flatten();
        Ok(Turn::Placed(Place { cluster, reservation, prefill, decode, placement }))
    }

    fn wait(
        &self,
        state: &mut super::State,
        request: &PlaceRequest<'_>,
        view: &RequestView,
        now: Time,
    ) -> Result<Turn, Refusal> {
        let (waited, model) = (now - view.arrived, request.model.clone());
        if view.waits_long() {
            return Ok(Turn::Wait(state.waiting.enter(&model, request.rank())));
        }
        if waited >= self.policy.max_queue_time {
            return Err(Refusal::WaitedTooLong { model, waited, retry_after: RETRY_NODES });
        }
        if view.queued_before >= self.policy.max_queued {
            let queued = view.queued_before;
            return Err(Refusal::Full { model, queued, retry_after: RETRY_NODES });
        }
        Ok(Turn::Wait(state.waiting.enter(&model, request.rank())))
    }

    /// The request as the policy sees it. Hashes what its nodes name the blocks by.
    fn view_of(&self, request: &PlaceRequest<'_>) -> RequestView {
        let kinds: std::collections::BTreeSet<_> = self
            .served(request.model)
            .into_iter()
            .flat_map(|served| served.groups)
            .map(|group| (group.numerics, group.block_tokens))
            .collect();
        let hashes = kinds.into_iter().map(|(numerics, block_tokens)| {
            let hashes = block_hashes(numerics, request.cache_salt, request.tokens, block_tokens);
            PromptHashes { numerics, block_tokens, hashes: hashes.into() }
        });
        RequestView {
            model: request.model.clone(),
            priority: request.priority,
            tokens: request.tokens.len() as u32,
            max_new_tokens: request.max_new_tokens,
            arrived: self.clock.now(),
            queued_before: 0,
            follows: request.follows,
            exclude: request.exclude.clone(),
            hashes: hashes.collect(),
        }
    }
}

fn no_nodes(model: &ModelId, role: Role) -> Refusal {
    Refusal::NoNodes { model: model.clone(), role, retry_after: RETRY_NODES }
}

impl Place {
    /// The prompt is computed.
    pub(crate) fn first_token(&self) {
        let mut state = self.cluster.lock();
        state.view.first_token(self.reservation);
        self.cluster.changed(state);
    }

    /// The prefill node is done with the request.
    pub(crate) fn handed_over(&self) {
        let mut state = self.cluster.lock();
        state.view.handed_over(self.reservation);
        self.cluster.changed(state);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.cluster.lock();
        state.view.release(self.reservation);
        self.cluster.changed(state);
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.cluster.lock().waiting.leave(self.model, self.rank);
    }
}
