//! Being a member: a node joins a router's registry, tells how it is, and joins again whenever
//! the stream breaks. A node whose router is gone keeps serving.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use baton_kv_transfer::PeerIdentity;
use baton_proto::{
    PROTOCOL_VERSION,
    node::v1::{
        self as proto, Goodbye, Heartbeat, Hello, JoinRequest, JoinResponse, TakeRole,
        join_request, join_response, registry_client::RegistryClient,
    },
};
use baton_text::TextAssets;
use baton_types::Role;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::transport::{self, MAX_MESSAGE_BYTES, TransportError};

/// With routers that don't say.
const INTERVAL: Duration = Duration::from_millis(250);
const WELCOME_PATIENCE: Duration = Duration::from_secs(5);
const GOODBYE_PATIENCE: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(3);

/// How the node is doing, asked for each heartbeat.
pub(crate) trait Pulse: Send + Sync {
    /// What is new since a router was `told`, and what it will have been told with this.
    fn heartbeat(&self, told: Told) -> (Heartbeat, Told);

    /// The router wants the node to have this role; it has, when its identity changes.
    fn take_role(&self, role: Role);

    /// The router wants the node to be empty, or doesn't any more.
    fn drain(&self, drains: bool);
}

/// What a router knows of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Steps that it has heard of.
    pub(crate) steps: u64,
    /// Changes of the cache; none: it needs a snapshot.
    pub(crate) events: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
enum JoinError {
    #[error(transparent)]
    Dial(#[from] TransportError),
    #[error("the registry answered {code:?}: {message}")]
    Refused { code: tonic::Code, message: String },
    #[error("no welcome within {WELCOME_PATIENCE:?}")]
    NoWelcome,
    #[error("the router speaks protocol version {theirs}, this node {PROTOCOL_VERSION}")]
    Version { theirs: u32 },
    #[error("the stream ended")]
    Ended,
    #[error("the node is another incarnation now")]
    OtherIncarnation,
    #[error("the node leaves")]
    Leaving,
}

impl From<tonic::Status> for JoinError {
    fn from(status: tonic::Status) -> Self {
        JoinError::Refused { code: status.code(), message: status.message().to_owned() }
    }
}

/// Keeps the node registered with one router. `news` wakes the next heartbeat at once.
#[derive(Clone)]
pub(crate) struct Registration<P> {
    pub(crate) router: String,
    /// Without its language, which takes megabytes as a message,
    pub(crate) hello: Hello,
    pub(crate) text: Arc<TextAssets>,
    /// and without its incarnation, which is this one now. When it changes, the node leaves and joins as the other.
    pub(crate) identity: watch::Receiver<PeerIdentity>,
    pub(crate) pulse: P,
    pub(crate) news: watch::Receiver<bool>,
    /// How many routers know the node.
    pub(crate) known_to: watch::Sender<usize>,
    pub(crate) told: Told,
    /// Set before it leaves, if something has failed.
    pub(crate) failure: Arc<OnceLock<String>>,
}

/// One of the routers that know the node.
struct Known<'a>(&'a watch::Sender<usize>);

impl<'a> Known<'a> {
    fn new(known_to: &'a watch::Sender<usize>) -> Self {
        known_to.send_modify(|routers| *routers += 1);
        Known(known_to)
    }
}

impl Drop for Known<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|routers| *routers -= 1);
    }
}

impl<P: Pulse> Registration<P> {
    /// Until `leave`, or until the router is gone and isn't `listed` any more.
    pub(crate) async fn keep(mut self, listed: watch::Receiver<bool>, leave: CancellationToken) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let mut was_member = false;
            let error = self.join(&mut was_member, &leave).await;
            match error {
                JoinError::OtherIncarnation => {
                    backoff = FIRST_BACKOFF;
                    continue;
                }
                JoinError::Leaving => return,
                _ => {}
            }
            if !*listed.borrow() {
                tracing::info!(router = self.router, %error, "the router is gone");
                return;
            }
            if was_member {
                backoff = FIRST_BACKOFF;
                tracing::warn!(router = self.router, %error, "lost the router; joining again");
            } else {
                tracing::debug!(router = self.router, %error, "can't join yet");
            }
            let jitter = 0.5 + rand::random::<f64>();
            tokio::select! {
                () = sleep(backoff.mul_f64(jitter)) => {}
                () = leave.cancelled() => return,
            }
            backoff = (backoff * 2).min(LAST_BACKOFF);
        }
    }

    /// Joins once and stays until it ends, which always has a reason.
    async fn join(&mut self, was_member: &mut bool, leave: &CancellationToken) -> JoinError {
        match self.try_join(was_member, leave).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn try_join(
        &mut self,
        was_member: &mut bool,
        leave: &CancellationToken,
    ) -> Result<std::convert::Infallible, JoinError> {
        let channel = transport::dial(&self.router)?;
        let mut client = RegistryClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (sender, receiver) = mpsc::channel(4);
        let hello = join_request::Message::Hello(self.hello());
        // The receiver is right here, and the channel is empty.
        let _ = sender.try_send(JoinRequest { message: Some(hello) });
        let joining = async {
            let mut answers = client.join(ReceiverStream::new(receiver)).await?.into_inner();
            let interval = welcome(&mut answers).await?;
            Ok::<_, JoinError>((answers, interval))
        };
        let joined = tokio::select! {
            joined = timeout(WELCOME_PATIENCE, joining) => joined,
            () = leave.cancelled() => return Err(JoinError::Leaving),
        };
        let (answers, interval) = joined.map_err(|_late| JoinError::NoWelcome)??;
        *was_member = true;
        let known_to = self.known_to.clone();
        let _known = Known::new(&known_to);
        tracing::info!(router = self.router, "joined the cluster");
        self.beat(interval, sender, answers, leave).await
    }

    fn hello(&mut self) -> Hello {
        let PeerIdentity { generation, role, .. } = self.identity.borrow_and_update().clone();
        let role = proto::Role::from(role).into();
        let text = Some((*self.text).clone().into());
        Hello { generation: generation.0, role, text, ..self.hello.clone() }
    }

    fn obey(&self, order: &TakeRole) {
        match Role::try_from(order.role()) {
            Ok(role) => self.pulse.take_role(role),
            Err(error) => {
                tracing::warn!(router = self.router, %error, "an order was not understood")
            }
        }
    }

    async fn beat(
        &mut self,
        interval: Duration,
        sender: mpsc::Sender<JoinRequest>,
        mut answers: Streaming<JoinResponse>,
        leave: &CancellationToken,
    ) -> Result<std::convert::Infallible, JoinError> {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.told.events = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Ok(()) = self.news.changed() => ticks.reset(),
                // The old incarnation is gone before the new one comes under its name.
                Ok(()) = self.identity.changed() => {
                    self.say_goodbye(sender, answers).await;
                    return Err(JoinError::OtherIncarnation);
                }
                () = leave.cancelled() => {
                    self.say_goodbye(sender, answers).await;
                    return Err(JoinError::Leaving);
                }
                answer = answers.message() => match answer? {
                    Some(JoinResponse { message: Some(join_response::Message::KvSnapshot(_)) }) => {
                        self.told.events = None;
                    }
                    Some(JoinResponse { message: Some(join_response::Message::TakeRole(order)) }) => {
                        self.obey(&order);
                        continue;
                    }
                    Some(JoinResponse { message: Some(join_response::Message::Drain(order)) }) => {
                        self.pulse.drain(order.drains);
                        continue;
                    }
                    // Of a later version.
                    Some(_) => continue,
                    None => return Err(JoinError::Ended),
                },
            }
            let (beat, told) = self.pulse.heartbeat(self.told);
            // What it says then is the other's, which isn't registered yet.
            if self.identity.has_changed().unwrap_or(false) {
                continue;
            }
            let message = join_request::Message::Heartbeat(beat);
            match sender.try_send(JoinRequest { message: Some(message) }) {
                Ok(()) => self.told = told,
                // A router that lags hears the next one; one that is gone is found by keep-alive.
                Err(mpsc::error::TrySendError::Full(_)) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(JoinError::Ended),
            }
        }
    }
}

impl<P> Registration<P> {
    /// Waits until the router has heard it, or can't have.
    async fn say_goodbye(
        &self,
        sender: mpsc::Sender<JoinRequest>,
        mut answers: Streaming<JoinResponse>,
    ) {
        let failure = self.failure.get().cloned().unwrap_or_default();
        let message = Some(join_request::Message::Goodbye(Goodbye { failure }));
        let goodbye = async {
            // One that lags has words before this one.
            let _ = sender.send(JoinRequest { message }).await;
            drop(sender);
            while let Ok(Some(_)) = answers.message().await {}
        };
        let _ = timeout(GOODBYE_PATIENCE, goodbye).await;
    }
}

/// The heartbeat interval the router wants.
async fn welcome(answers: &mut Streaming<JoinResponse>) -> Result<Duration, JoinError> {
    let answer = answers.message().await?.ok_or(JoinError::Ended)?;
    let Some(join_response::Message::Welcome(welcome)) = answer.message else {
        return Err(JoinError::NoWelcome);
    };
    if welcome.protocol_version.abs_diff(PROTOCOL_VERSION) > 1 {
        return Err(JoinError::Version { theirs: welcome.protocol_version });
    }
    Ok(match welcome.heartbeat_interval_us {
        0 => INTERVAL,
        micros => Duration::from_micros(micros).max(Duration::from_millis(10)),
    })
}
