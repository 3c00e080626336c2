//! The router's picture of the cluster, and all that happens to it: nodes come, speak and go;
//! requests are placed, wait and give their places back. One lock, never held across an await.

mod models;
mod place;
mod roles;
mod session;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use baton_membership::{Members, StepPatience};
use baton_node::clock::Clock;
use baton_policy::{
    Placer, Ticket,
    advice::{Advice, Advisor, Traffic},
    rebalance::{Proposal, Rebalancer},
};
use baton_proto::{status::Refuse, v1::WatchNodesResponse};
use baton_registry::Fellows;
use baton_types::{Generation, ModelId, NodeHello, NodeId, Role};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};

use self::{
    models::Language,
    place::{Reply, Said},
    roles::Controller,
    session::Member,
};
pub(crate) use self::{
    models::Served,
    place::{Peers, Place, PlaceRequest},
    session::{Ended, JoinError, Session, StuckStep},
};
use crate::{
    config::{LatencyConfig, RouterConfig},
    metrics::NodeLatency,
};

/// Shared by everything that looks at the cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    clock: Clock,
    latency: LatencyConfig,
    step_patience: StepPatience,
    state: Mutex<State>,
    /// Apart, for its advice takes milliseconds.
    advisor: Mutex<Advisor>,
    /// If nodes change roles by themselves.
    roles: Option<Mutex<Controller>>,
    /// Other routers, where there may be any.
    fellows: OnceLock<Fellows>,
    /// Building a tokeniser takes long; nobody builds the same one twice.
    building: tokio::sync::Mutex<()>,
    /// When something is due may have changed.
    due: Notify,
    ready: watch::Sender<bool>,
    /// What nodes say, for those who watch.
    reports: broadcast::Sender<WatchNodesResponse>,
}

/// Heartbeats that are kept for one who watches and lags.
const REPORTS_KEPT: usize = 1024;

#[derive(Debug)]
struct State {
    members: Members,
    sessions: BTreeMap<NodeId, Member>,
    /// Draws of the session numbers.
    last_session: u64,
    placer: Placer,
    languages: BTreeMap<ModelId, Language>,
    replies: BTreeMap<Ticket, Reply>,
    last_ticket: u64,
    /// What nodes were asked for, that haven't said yet that they know.
    asked: BTreeMap<NodeId, Asked>,
    /// Nodes whose steps don't end, and what they were in when that was found.
    stuck: BTreeMap<NodeId, Stuck>,
    rng: SmallRng,
}

/// An incarnation is to be empty, or not any more. It counts from now on, and until the node says so itself.
#[derive(Clone, Copy, Debug)]
struct Asked {
    generation: Generation,
    drains: bool,
    /// After so many words to the contrary the node knows better: it leaves, or takes another role.
    words: u8,
}

/// An incarnation computes the step after so many and doesn't end.
#[derive(Clone, Copy, Debug)]
struct Stuck {
    generation: Generation,
    steps: u64,
}

/// How many words of a node may have been on their way when it was asked for something.
const WORDS: u8 = 4;

/// The cluster in numbers, as of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Members, by role.
    pub(crate) prefill: usize,
    pub(crate) decode: usize,
    /// Requests that wait for a place.
    pub(crate) queued: usize,
    /// Whether this router looks after the whole cluster.
    pub(crate) leads: bool,
}

/// How to reach a node while it is a member.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) hello: NodeHello,
    pub(crate) channel: Channel,
    /// Cancelled when this incarnation is no member any more.
    pub(crate) gone: CancellationToken,
    /// Set before it is gone, if it went without a goodbye.
    death: OnceLock<Death>,
}

/// How a node went that said no goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// Its process ended, or is about to.
    Broken,
    /// It said nothing for a lease: it was stopped, or cut off.
    Silent,
    /// It spoke and computed nothing.
    Stuck,
}

impl Peer {
    fn new(hello: NodeHello, channel: Channel) -> Self {
        Peer { hello, channel, gone: CancellationToken::new(), death: OnceLock::new() }
    }

    fn leave(&self, death: Option<Death>) {
        if let Some(death) = death {
            // Who has died once stays dead.
            let _ = self.death.set(death);
        }
        self.gone.cancel();
    }

    /// How this incarnation died, if it is gone and said no goodbye.
    pub(crate) fn death(&self) -> Option<Death> {
        self.death.get().copied().filter(|_| self.gone.is_cancelled())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no node {node}; there are {}", join(nodes))]
pub(crate) struct NoNode {
    node: NodeId,
    nodes: Vec<NodeId>,
}

fn join(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Refuse for NoNode {
    fn code(&self) -> Code {
        Code::NotFound
    }

    fn reason(&self) -> &'static str {
        "NO_SUCH_NODE"
    }
}

impl Cluster {
    pub(crate) fn new(config: &RouterConfig, clock: Clock) -> Self {
        let mut placer = Placer::new(config.policy());
        placer.view_mut().link = config.latency.link;
        let advice = config.advice.policy();
        placer.view_mut().traffic = Traffic::new(advice.window);
        let state = State {
            members: Members::new(config.timeouts.lease.0),
            sessions: BTreeMap::new(),
            last_session: 0,
            placer,
            languages: BTreeMap::new(),
            replies: BTreeMap::new(),
            last_ticket: 0,
            asked: BTreeMap::new(),
            stuck: BTreeMap::new(),
            rng: SmallRng::from_rng(&mut rand::rng()),
        };
        Cluster {
            clock,
            latency: config.latency.clone(),
            step_patience: config.step_patience(),
            state: Mutex::new(state),
            advisor: Mutex::new(Advisor::new(advice)),
            roles: config.roles.policy().map(|config| Mutex::new(Controller::new(config))),
            fellows: OnceLock::new(),
            building: tokio::sync::Mutex::new(()),
            due: Notify::new(),
            ready: watch::Sender::new(false),
            reports: broadcast::Sender::new(REPORTS_KEPT),
        }
    }

    /// Whether some model has a prefill and a decode node that can work together.
    pub(crate) fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Whether this model has such a pair.
    pub(crate) fn serves(&self, model: &ModelId) -> bool {
        self.lock().has_pair(|other| other == model)
    }

    pub(crate) fn watch_ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// What nodes say from now on.
    pub(crate) fn watch_nodes(&self) -> broadcast::Receiver<WatchNodesResponse> {
        self.reports.subscribe()
    }

    pub(crate) fn counts(&self) -> Counts {
        let leads = self.leads();
        let state = self.lock();
        let nodes = |role| state.placer.view().nodes(role).len();
        let (prefill, decode) = (nodes(Role::Prefill), nodes(Role::Decode));
        Counts { prefill, decode, queued: state.placer.waiting(), leads }
    }

    /// Who is to move, as things stand.
    pub(crate) fn rebalance(&self, rebalancer: &mut Rebalancer) -> Vec<Proposal> {
        self.lock().placer.rebalance(rebalancer, self.clock.now())
    }

    /// Has a node be empty, or not any more: nothing new is sent there from now on, and from its next word on by
    /// other routers.
    pub(crate) fn drain(self: &Arc<Self>, node: &NodeId, drains: bool) -> Result<(), NoNode> {
        let mut state = self.lock();
        let member = state.member(node)?;
        let (role, generation) = (member.peer.hello.role, member.peer.hello.generation);
        member.drain.send_replace(drains);
        state.asked.insert(node.clone(), Asked { generation, drains, words: WORDS });
        state.placer.view_mut().set_draining(node, role, drains);
        self.changed(state);
        Ok(())
    }

    /// Sequences that are on a node: this router's, and those of others that it spoke of last.
    pub(crate) fn left(&self, node: &NodeId) -> u64 {
        let state = self.lock();
        let nodes = |role| state.placer.view().nodes(role).iter();
        let mut all = nodes(Role::Prefill).chain(nodes(Role::Decode));
        let view = all.find(|view| view.node == *node);
        view.map_or(0, |view| view.reserved.sequences + view.beyond.sequences)
    }

    /// What nodes are recommended, of every model.
    pub(crate) fn advice(&self) -> Vec<Advice> {
        self.advisor().advice().cloned().collect()
    }

    /// What was learned of each node's steps.
    pub(crate) fn latencies(&self) -> Vec<NodeLatency> {
        let state = self.lock();
        let cluster = state.placer.view();
        let nodes = |role| cluster.nodes(role).iter().map(move |view| (role, view));
        let all = nodes(Role::Prefill).chain(nodes(Role::Decode));
        all.map(|(role, view)| NodeLatency {
            node: view.node.clone(),
            role,
            profile: view.latency.profile,
            error: view.fit.error(),
            reports: view.fit.reports(),
            cached_blocks: cluster.cached_blocks(view) as u64,
            missed_events: cluster.missed_events(view),
        })
        .collect()
    }

    /// What a panic left behind is still a valid state: each change is one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advisor(&self) -> MutexGuard<'_, Advisor> {
        self.advisor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a change of the view: whoever can be placed or refused now is told.
    fn changed(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let ready = state.is_ready();
        let before = state.poll_timeout();
        let said: Said = state.verdicts(self);
        let is_other = state.poll_timeout() != before;
        drop(state);
        if is_other {
            self.due.notify_one();
        }
        for (reply, verdict) in said {
            // A place that nobody waits for any more is given back by being dropped here.
            let _ = reply.send(verdict);
        }
        self.ready.send_if_modified(|before| std::mem::replace(before, ready) != ready);
    }
}

impl State {
    /// Whether a node is to be empty, which says of itself that it is or isn't.
    fn drains(&mut self, node: &NodeId, generation: Generation, says: bool) -> bool {
        let Some(asked) = self.asked.get_mut(node) else { return says };
        if asked.generation != generation || asked.drains == says || asked.words == 0 {
            self.asked.remove(node);
            return says;
        }
        asked.words -= u8::from(says);
        asked.drains
    }

    /// Whether a node that has done so many steps is still in the one that it was found stuck in.
    fn is_stuck(&mut self, node: &NodeId, generation: Generation, steps: u64) -> bool {
        let Some(stuck) = self.stuck.get(node) else { return false };
        let is_stuck = stuck.generation == generation && stuck.steps == steps;
        if !is_stuck {
            tracing::info!(%node, steps, "the node's step has ended; it gets requests again");
            self.stuck.remove(node);
        }
        is_stuck
    }

    fn member(&self, node: &NodeId) -> Result<&Member, NoNode> {
        let no_node =
            || NoNode { node: node.clone(), nodes: self.sessions.keys().cloned().collect() };
        self.sessions.get(node).ok_or_else(no_node)
    }

    fn peer(&self, node: &NodeId) -> Option<Arc<Peer>> {
        self.sessions.get(node).map(|member| Arc::clone(&member.peer))
    }

    fn is_ready(&self) -> bool {
        self.has_pair(|_| true)
    }

    /// Whether a prefill and a decode node that take requests can work together on such a model.
    fn has_pair(&self, wanted: impl Fn(&ModelId) -> bool) -> bool {
        let accepting = |role| self.placer.view().nodes(role).iter().filter(|view| view.accepts());
        accepting(Role::Prefill)
            .filter(|from| wanted(&from.group.model))
            .any(|from| accepting(Role::Decode).any(|to| to.group == from.group))
    }
}
