//! A place on the nodes for one attempt of one request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use baton_kv_cache::block_hashes;
use baton_policy::{
    Path, Placed, Placement, PromptHashes, Refusal, RequestView, ReservationId, Shortage, Ticket,
    Verdict, Way, destination,
};
use baton_types::{ModelId, NodeId, Role, Slo, Time, TokenId};
use tokio::sync::oneshot;

use super::{Cluster, Peer, State};
use crate::request::Standing;

/// What an attempt needs a place for.
#[derive(Debug)]
pub(crate) struct PlaceRequest<'a> {
    pub(crate) model: &'a ModelId,
    /// The prompt, then what was emitted.
    pub(crate) tokens: &'a [TokenId],
    /// The most tokens still to be generated.
    pub(crate) max_new_tokens: u32,
    pub(crate) cache_salt: u64,
    pub(crate) standing: &'a Standing,
    pub(crate) arrived: Time,
    /// What it is to be done in, from its arrival.
    pub(crate) slo: Slo,
    /// Another sequence of the same request goes before it.
    pub(crate) follows: bool,
    /// Passed over as long as there are others.
    pub(crate) exclude: Vec<NodeId>,
    /// Whether it has been placed before.
    pub(crate) has_begun: bool,
    /// When its client's next token is due.
    pub(crate) next_due: Option<Time>,
    /// Whether the node that decodes may compute the prompt too.
    pub(crate) may_be_local: bool,
}

/// A place, held until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    cluster: Arc<Cluster>,
    pub(crate) reservation: ReservationId,
    pub(crate) peers: Peers,
    pub(crate) placement: Placement,
    /// Whether the first token is here.
    prefilled: AtomicBool,
}

/// Who works on the request.
#[derive(Clone, Debug)]
pub(crate) enum Peers {
    Disaggregated { prefill: Arc<Peer>, decode: Arc<Peer> },
    PrefillOnly { prefill: Arc<Peer> },
    Local { decode: Arc<Peer> },
}

/// Who waits for a verdict.
pub(super) type Reply = oneshot::Sender<Result<Place, Refusal>>;

/// What can be said now, and to whom.
pub(super) type Said = Vec<(Reply, Result<Place, Refusal>)>;

/// A place in line, given up when dropped.
struct Waiter<'a> {
    cluster: &'a Arc<Cluster>,
    ticket: Ticket,
}

impl Cluster {
    /// Waits for a place and takes it.
    pub(crate) async fn place(
        self: &Arc<Self>,
        request: &PlaceRequest<'_>,
    ) -> Result<Place, Refusal> {
        let (_waiter, verdict) = self.line_up(self.view_of(request));
        match verdict.await {
            Ok(verdict) => verdict,
            Err(_) => unreachable!("a reply is dropped with its waiter only"),
        }
    }

    /// A place on another decode node for a sequence that is decoded at `from`: the best there is, or the
    /// one that is named.
    pub(crate) fn place_move(
        self: &Arc<Self>,
        request: &PlaceRequest<'_>,
        from: &Place,
        wanted: Option<&NodeId>,
    ) -> Result<Place, Shortage> {
        let nobody = Shortage::Nodes { role: Role::Decode };
        let source = from.decode().ok_or(nobody)?;
        let mut view = RequestView { has_begun: true, ..self.view_of(request) };
        view.exclude.push(source.hello.node.clone());
        let mut state = self.lock();
        let unable = state.sessions.values().map(|member| &member.peer.hello);
        let unable = unable.filter(|hello| hello.data_address.is_empty());
        view.exclude.extend(unable.map(|hello| hello.node.clone()));
        let cluster = state.placer.view();
        let now = self.clock.now();
        let nodes = cluster.nodes(Role::Decode).iter();
        let fails = |to: &NodeId| {
            let link = Way::Link(source.hello.node.clone(), to.clone());
            let ways = [Way::Node(to.clone()), link];
            ways.iter().any(|way| cluster.troubles.avoids(way, now))
        };
        view.exclude.extend(nodes.clone().map(|view| view.node.clone()).filter(fails));
        let group = nodes.clone().find(|view| view.node == source.hello.node).ok_or(nobody)?;
        let config = state.placer.config();
        let placement = destination(config, cluster, &view, &group.group, wanted, now)?;
        let reservation =
            state.placer.view_mut().reserve_move(from.reservation, &view, &placement, now);
        let peers = state.peers(&placement.path);
        let (cluster, prefilled) = (Arc::clone(self), AtomicBool::new(true));
        Ok(Place { cluster, reservation, peers, placement, prefilled })
    }

    /// Who decodes for a model.
    pub(crate) fn decode_peers(&self, model: &ModelId) -> Vec<Arc<Peer>> {
        let state = self.lock();
        let peers = state.sessions.values().map(|member| &member.peer);
        let is_its =
            |peer: &&Arc<Peer>| peer.hello.role == Role::Decode && peer.hello.model == *model;
        peers.filter(is_its).cloned().collect()
    }

    fn line_up(
        self: &Arc<Self>,
        view: RequestView,
    ) -> (Waiter<'_>, oneshot::Receiver<Result<Place, Refusal>>) {
        let (reply, verdict) = oneshot::channel();
        let mut state = self.lock();
        state.last_ticket += 1;
        let ticket = Ticket(state.last_ticket);
        state.placer.submit(ticket, view);
        state.replies.insert(ticket, reply);
        self.changed(state);
        (Waiter { cluster: self, ticket }, verdict)
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
            class: request.standing.class,
            tenant: request.standing.tenant.clone(),
            tokens: request.tokens.len() as u32,
            max_new_tokens: request.max_new_tokens,
            slo: request.slo,
            refuse_late: request.slo.ttft.is_some() && request.standing.refuse_late,
            has_begun: request.has_begun,
            next_due: request.next_due,
            gives_way: false,
            may_be_local: request.may_be_local,
            arrived: request.arrived,
            queued_before: 0,
            follows: request.follows,
            exclude: request.exclude.clone(),
            hashes: hashes.collect(),
        }
    }
}

impl State {
    /// Asks the policy for all it can say now.
    pub(super) fn verdicts(&mut self, cluster: &Arc<Cluster>) -> Said {
        let (now, mut said) = (cluster.clock.now(), Vec::new());
        while let Some((ticket, verdict)) = self.placer.poll(now, &mut self.rng) {
            let verdict = match verdict {
                Verdict::Placed(reservation, placement) => {
                    let peers = self.peers(&placement.path);
                    let cluster = Arc::clone(cluster);
                    let prefilled = AtomicBool::new(false);
                    Ok(Place { cluster, reservation, peers, placement, prefilled })
                }
                Verdict::Refused(refusal) => Err(refusal),
            };
            let reply = self.replies.remove(&ticket);
            said.push((reply.expect("who waits has a reply"), verdict));
        }
        said
    }

    fn peers(&self, path: &Path) -> Peers {
        let peer = |placed: &Placed| {
            let member = self.peer(&placed.node);
            member.expect("the view and the sessions change together")
        };
        match path {
            Path::Disaggregated { prefill, decode } => {
                Peers::Disaggregated { prefill: peer(prefill), decode: peer(decode) }
            }
            Path::PrefillOnly { prefill } => Peers::PrefillOnly { prefill: peer(prefill) },
            Path::Local { decode } => Peers::Local { decode: peer(decode) },
        }
    }
}

impl Place {
    /// The prompt is computed. More often is the same as once.
    pub(crate) fn first_token(&self) {
        if self.prefilled.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut state = self.cluster.lock();
        state.placer.view_mut().first_token(self.reservation, self.cluster.clock.now());
        self.cluster.changed(state);
    }

    /// Who decodes.
    pub(crate) fn decode(&self) -> Option<Arc<Peer>> {
        match &self.peers {
            Peers::Disaggregated { decode, .. } | Peers::Local { decode } => {
                Some(Arc::clone(decode))
            }
            Peers::PrefillOnly { .. } => None,
        }
    }

    /// The sequence runs at `other` now: what is known of it goes along.
    pub(crate) fn moved_to(&self, other: &Place) {
        let mut state = self.cluster.lock();
        state.placer.view_mut().moved(self.reservation, other.reservation);
        self.cluster.changed(state);
    }

    /// Whether the node that decodes computes the prompt.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self.peers, Peers::Local { .. })
    }

    /// The decode node has so many bytes of pages, the last `exposed` after the prompt was computed.
    pub(crate) fn joined(&self, bytes: u64, exposed: Duration) {
        let mut state = self.cluster.lock();
        let now = self.cluster.clock.now();
        state.placer.view_mut().joined(self.reservation, bytes, exposed, now);
        self.cluster.changed(state);
    }

    /// The prefill node is done with the request.
    pub(crate) fn handed_over(&self) {
        let mut state = self.cluster.lock();
        state.placer.view_mut().handed_over(self.reservation);
        self.cluster.changed(state);
    }

    /// The last token is here, the last of `tokens` of this attempt.
    pub(crate) fn finished(&self, tokens: u32) {
        let mut state = self.cluster.lock();
        state.placer.view_mut().finished(self.reservation, tokens, self.cluster.clock.now());
        self.cluster.changed(state);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.cluster.lock();
        state.placer.view_mut().release(self.reservation);
        self.cluster.changed(state);
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut state = self.cluster.lock();
        if state.replies.remove(&self.ticket).is_some() {
            state.placer.cancel(self.ticket);
            // Those it was in the way of.
            self.cluster.changed(state);
        }
    }
}
