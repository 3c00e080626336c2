//! Nodes come, speak and go.

use std::{sync::Arc, time::Duration};

use baton_membership::NotAMember;
use baton_node::transport::{self, TransportError};
use baton_policy::{MissedEvents, Way};
use baton_proto::{
    ConvertError,
    convert::{self, Heartbeat},
    node::v1 as node,
    status::Refuse,
};
use baton_text::TextError;
use baton_types::{ModelId, NodeHello, NodeId, Role, StepReport, Time};
use tokio::sync::watch;
use tonic::Code;

use super::{Cluster, Death, Peer, State, Stuck};

/// A member as the registry holds it.
#[derive(Debug)]
pub(super) struct Member {
    /// Which of its streams speaks for it.
    session: u64,
    pub(super) peer: Arc<Peer>,
    /// The role it is to have.
    pub(super) role: watch::Sender<Role>,
    /// Whether it is to be empty.
    pub(super) drain: watch::Sender<bool>,
}

/// One stream's membership. Dropping it is leaving, unless the node has come back meanwhile.
#[derive(Debug)]
pub(crate) struct Session {
    cluster: Arc<Cluster>,
    number: u64,
    peer: Arc<Peer>,
    /// The role that the node is to have; it is told when that changes.
    role: watch::Receiver<Role>,
    drain: watch::Receiver<bool>,
    /// It ends without a goodbye.
    death: Option<Death>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    #[error("the first message must be the hello, within {0:?}")]
    NoHello(Duration),
    #[error("the hello is no good: {0}")]
    Wire(#[from] ConvertError),
    #[error("{0}")]
    Address(#[from] TransportError),
    #[error("{0}")]
    Text(TextError),
    #[error(
        "model {model} is served by {node} with another tokeniser or chat template; \
         serve this file under another name"
    )]
    OtherLanguage { model: ModelId, node: NodeId },
    #[error("{0}")]
    Refused(#[from] baton_membership::JoinError),
    #[error("{0}")]
    NotAMember(#[from] NotAMember),
    #[error("the router is shutting down")]
    ShuttingDown,
}

/// A node says that it computes, for longer than can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "its engine has been in one step for {taken:?}, and {limit:?} is the longest that one may take: what was \
     there goes on elsewhere, and the node gets nothing until the step ends; restart it if it doesn't"
)]
pub(crate) struct StuckStep {
    taken: Duration,
    limit: Duration,
}

/// Why a node that spoke is no member any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("{0}")]
    NotAMember(#[from] NotAMember),
    #[error("{0}")]
    Stuck(#[from] StuckStep),
}

impl Refuse for StuckStep {
    fn code(&self) -> Code {
        Code::FailedPrecondition
    }

    fn reason(&self) -> &'static str {
        "STUCK"
    }
}

impl Refuse for JoinError {
    fn code(&self) -> Code {
        match self {
            JoinError::NoHello(_)
            | JoinError::Wire(_)
            | JoinError::Address(_)
            | JoinError::Text(_) => Code::InvalidArgument,
            JoinError::OtherLanguage { .. } => Code::FailedPrecondition,
            JoinError::Refused(baton_membership::JoinError::Version { .. }) => {
                Code::FailedPrecondition
            }
            JoinError::Refused(baton_membership::JoinError::NameTaken { .. }) => {
                Code::AlreadyExists
            }
            JoinError::NotAMember(_) => Code::FailedPrecondition,
            JoinError::ShuttingDown => Code::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            JoinError::NoHello(_) => "NO_HELLO",
            JoinError::Wire(error) => error.reason(),
            JoinError::Address(_) => "INVALID_ADDRESS",
            JoinError::Text(_) => "UNUSABLE_TEXT_ASSETS",
            JoinError::OtherLanguage { .. } => "OTHER_TEXT_ASSETS",
            JoinError::Refused(baton_membership::JoinError::Version { .. }) => "PROTOCOL_VERSION",
            JoinError::Refused(baton_membership::JoinError::NameTaken { .. }) => "NAME_TAKEN",
            JoinError::NotAMember(_) => "NOT_A_MEMBER",
            JoinError::ShuttingDown => "SHUTTING_DOWN",
        }
    }
}

impl Cluster {
    /// Takes a node in, whatever else it was before.
    pub(crate) async fn join(self: &Arc<Self>, hello: node::Hello) -> Result<Session, JoinError> {
        let mut hello = hello;
        let assets = hello.text.take().ok_or(ConvertError::Missing { field: "text" })?;
        let hello = NodeHello::try_from(hello)?;
        let channel = transport::dial(&hello.control_address)?;
        let language = self.language(&hello.model, assets).await?;

        let mut state = self.lock();
        let (node, generation) = (hello.node.clone(), hello.generation);
        let now = self.clock.now();
        state.members.join(now, node.clone(), generation, hello.protocol_version)?;
        if let Err(error) = state.learn(&hello.model, language) {
            state.members.leave(&node, generation);
            state.forget(&node, None);
            self.changed(state);
            return Err(error);
        }
        state.placer.view_mut().join(&hello, self.latency.fit(&hello.model));
        if state.stuck.get(&node).is_some_and(|stuck| stuck.generation == generation) {
            state.placer.view_mut().set_available(&node, generation, false);
        }
        state.last_session += 1;
        let number = state.last_session;
        let peer = match state.sessions.remove(&node) {
            // The same incarnation is back on another stream: what runs there goes on.
            Some(member) if member.peer.hello == hello => member.peer,
            old => {
                if let Some(old) = old {
                    old.peer.leave(Some(Death::Broken));
                }
                Arc::new(Peer::new(hello, channel))
            }
        };
        let (role, wanted) = watch::channel(peer.hello.role);
        let (drain, is_wanted) = watch::channel(false);
        // It may not have heard it on its last stream.
        if let Some(asked) = state.asked.get(&node).filter(|asked| asked.generation == generation) {
            drain.send_replace(asked.drains);
        }
        let member = Member { session: number, peer: Arc::clone(&peer), role, drain };
        state.sessions.insert(node, member);
        self.changed(state);
        self.due.notify_one();
        let (cluster, role, drain) = (Arc::clone(self), wanted, is_wanted);
        Ok(Session { cluster, number, peer, role, drain, death: None })
    }

    /// Ends memberships whose lease is over, and waits that are, and looks at the load, for ever.
    pub(crate) async fn keep_time(self: &Arc<Self>) {
        loop {
            let timeout = self.lock().poll_timeout();
            let next = timeout.map(|at| at.min(self.advisor().poll_timeout()));
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep(at - self.clock.now()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.due.notified() => continue,
            }
            let mut state = self.lock();
            let now = self.clock.now();
            if now >= self.advisor().poll_timeout() {
                self.exchange_rates(now, &mut state.placer.view_mut().traffic);
            }
            let seen = self.advisor().look(now, state.placer.view());
            let expired = state.members.expire(now);
            for node in &expired {
                tracing::warn!(%node, "the node's lease is over");
                state.forget(node, Some(Death::Silent));
            }
            self.changed(state);
            if let Some(seen) = seen {
                self.advisor().advise(seen);
                self.advised(now, &self.advice());
            }
        }
    }

    /// Sends nothing to a node whose connection failed until it speaks again.
    pub(crate) fn suspect(self: &Arc<Self>, node: &NodeId) {
        let mut state = self.lock();
        if let Some(generation) = state.peer(node).map(|peer| peer.hello.generation) {
            state.placer.view_mut().set_available(node, generation, false);
        }
        self.changed(state);
    }
}

impl Cluster {
    /// What was sent there failed, though whoever is at its ends may be well.
    pub(crate) fn failed(self: &Arc<Self>, way: Way) {
        let mut state = self.lock();
        let now = self.clock.now();
        if let Some(span) = state.placer.view_mut().troubles.failed(way.clone(), now) {
            tracing::warn!(?way, ?span, "what goes there fails; it is passed over");
        }
        self.changed(state);
    }
}

impl State {
    /// When something is due, though nothing happens.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.members.poll_timeout().into_iter().chain(self.placer.poll_timeout()).min()
    }

    fn forget(&mut self, node: &NodeId, death: Option<Death>) {
        if let Some(member) = self.sessions.remove(node) {
            member.peer.leave(death);
        }
        self.placer.view_mut().leave(node);
    }
}

impl Session {
    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Ends the membership of a node that said no goodbye.
    pub(crate) fn died(mut self, death: Death) {
        self.death = Some(death);
    }

    /// The role that the node is to have, each time that somebody says so.
    pub(crate) fn watch_role(&self) -> watch::Receiver<Role> {
        self.role.clone()
    }

    /// Whether the node is to be empty, each time that somebody says so.
    pub(crate) fn watch_drain(&self) -> watch::Receiver<bool> {
        self.drain.clone()
    }

    /// The node spoke of itself, of its latest steps and of its cache.
    pub(crate) fn heard(&self, beat: &Heartbeat) -> Result<Result<(), MissedEvents>, Ended> {
        let hello = &self.peer.hello;
        if self.cluster.reports.receiver_count() > 0 {
            // Those who watched may have left meanwhile.
            let _ =
                self.cluster.reports.send(convert::node_report(hello, &beat.load, &beat.reports));
        }
        let NodeHello { node, generation, .. } = hello;
        let mut state = self.cluster.lock();
        state.members.heartbeat(self.cluster.clock.now(), node, *generation)?;
        let drains = state.drains(node, *generation, beat.load.draining);
        let is_stuck = state.is_stuck(node, *generation, beat.load.steps);
        if let (false, Some(error)) = (is_stuck, self.stuck_step(&state, beat)) {
            let stuck = Stuck { generation: *generation, steps: beat.load.steps };
            state.stuck.insert(node.clone(), stuck);
            return Err(error.into());
        }
        let view = state.placer.view_mut();
        let mut load = beat.load;
        load.draining = drains;
        view.observe(node, *generation, load);
        view.observe_steps(node, *generation, &beat.reports);
        let followed = view.observe_events(node, *generation, beat.events.as_ref());
        view.set_available(node, *generation, !is_stuck);
        self.cluster.changed(state);
        Ok(followed)
    }

    fn stuck_step(&self, state: &State, beat: &Heartbeat) -> Option<StuckStep> {
        let NodeHello { node, generation, .. } = &self.peer.hello;
        let StepReport { shape, duration: taken } = beat.under_way?;
        let learned = state.placer.view().learned_step(node, *generation, &shape);
        let limit = self.cluster.step_patience.limit(learned);
        (taken > limit).then_some(StuckStep { taken, limit })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let NodeHello { node, generation, .. } = &self.peer.hello;
        let mut state = self.cluster.lock();
        if state.sessions.get(node).is_some_and(|member| member.session == self.number) {
            state.members.leave(node, *generation);
            state.forget(node, self.death);
        }
        self.cluster.changed(state);
    }
}
