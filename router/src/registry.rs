//! The embedded registry: nodes join on the control port and stay while their stream speaks.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use baton_node::task;
use baton_proto::{
    PROTOCOL_VERSION, convert,
    node::v1::{
        self as proto, Drain, JoinRequest, JoinResponse, KvSnapshotWanted, TakeRole, Welcome,
        join_request, join_response, registry_server::Registry,
    },
    status::status,
};
use baton_types::RouterId;
use futures::{Stream, stream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    cluster::{Cluster, Death, Ended, JoinError, Session, StuckStep},
    metrics::RouterMetrics,
};

/// What a node may have to read at one time.
const ORDERS: usize = 16;
const HELLO_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct EmbeddedRegistry {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) router: RouterId,
    pub(crate) heartbeat: Duration,
    pub(crate) metrics: RouterMetrics,
    /// Ends all streams.
    pub(crate) close: CancellationToken,
}

type Answers = Pin<Box<dyn Stream<Item = Result<JoinResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Registry for EmbeddedRegistry {
    type JoinStream = Answers;

    async fn join(
        &self,
        request: Request<Streaming<JoinRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let mut said = request.into_inner();
        let session = self.admit(&mut said).await.map_err(|error| status(&error))?;
        let hello = &session.peer().hello;
        tracing::info!(
            node = %hello.node, generation = %hello.generation, role = %hello.role,
            model = %hello.model, numerics = %hello.numerics, address = hello.control_address,
            "a node joined"
        );
        let welcome = Welcome {
            protocol_version: PROTOCOL_VERSION,
            router: self.router.0,
            heartbeat_interval_us: convert::micros(self.heartbeat),
        };
        let message = Some(join_response::Message::Welcome(welcome));
        let (answer, answers) = mpsc::channel(ORDERS);
        // The receiver is right here, and the channel is empty.
        let _ = answer.try_send(Ok(JoinResponse { message }));
        let (close, metrics) = (self.close.clone(), self.metrics.clone());
        let listening = task::owned(async move {
            let node = session.peer().hello.node.clone();
            let end = listen(&session, said, close, &answer, &metrics).await;
            match end {
                End::Failed(_) | End::Broken(_) => session.died(Death::Broken),
                End::Silent => session.died(Death::Silent),
                End::Stuck(_) => session.died(Death::Stuck),
                End::Left | End::Refused(_) | End::ShuttingDown => drop(session),
            }
            tracing::info!(%node, reason = end.reason(), why = end.status().message(), "a node is gone");
            metrics.node_lost(end.reason());
            // A node that is gone doesn't need the status.
            let _ = answer.send(Err(end.status())).await;
        });
        let answers = stream::unfold((answers, listening), |(mut answers, listening)| async {
            answers.recv().await.map(|answer| (answer, (answers, listening)))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

impl EmbeddedRegistry {
    async fn admit(&self, said: &mut Streaming<JoinRequest>) -> Result<Session, JoinError> {
        if self.close.is_cancelled() {
            return Err(JoinError::ShuttingDown);
        }
        let first = tokio::time::timeout(HELLO_PATIENCE, said.message()).await;
        let Ok(Ok(Some(JoinRequest { message: Some(join_request::Message::Hello(hello)) }))) =
            first
        else {
            return Err(JoinError::NoHello(HELLO_PATIENCE));
        };
        self.cluster.join(hello).await
    }
}

/// Why a node isn't listened to any more.
#[derive(Debug)]
enum End {
    /// It said goodbye.
    Left,
    /// It said why it can't go on.
    Failed(String),
    /// Its stream broke, as it does when a process ends.
    Broken(Status),
    /// It said nothing for a lease, or came back as another incarnation.
    Silent,
    /// It speaks and computes nothing.
    Stuck(StuckStep),
    /// What it said makes no sense here.
    Refused(JoinError),
    ShuttingDown,
}

impl End {
    /// A label for the metrics.
    fn reason(&self) -> &'static str {
        match self {
            End::Left => "left",
            End::Failed(_) => "failed",
            End::Broken(_) => "broken",
            End::Silent => "silent",
            End::Stuck(_) => "stuck",
            End::Refused(_) => "refused",
            End::ShuttingDown => "shutting_down",
        }
    }

    fn status(&self) -> Status {
        match self {
            End::Left => Status::ok("it said goodbye"),
            End::Failed(failure) => Status::ok(format!("it failed: {failure}")),
            End::Broken(error) => error.clone(),
            End::Silent => Status::aborted("the lease is over; join again"),
            End::Stuck(stuck) => status(stuck),
            End::Refused(error) => status(error),
            End::ShuttingDown => status(&JoinError::ShuttingDown),
        }
    }
}

/// Hears heartbeats until the stream or the membership ends, and says why it did.
async fn listen(
    session: &Session,
    mut said: Streaming<JoinRequest>,
    close: CancellationToken,
    answer: &mpsc::Sender<Result<JoinResponse, Status>>,
    metrics: &RouterMetrics,
) -> End {
    let gone = session.peer().gone.clone();
    let (mut role, mut drain) = (session.watch_role(), session.watch_drain());
    let mut heard = Instant::now();
    loop {
        let message = tokio::select! {
            message = said.message() => message,
            Ok(()) = role.changed() => {
                let role = proto::Role::from(*role.borrow_and_update()).into();
                let message = Some(join_response::Message::TakeRole(TakeRole { role }));
                // A stream that is full of unread words is about to break, and the node to join again.
                let _ = answer.try_send(Ok(JoinResponse { message }));
                continue;
            }
            Ok(()) = drain.changed() => {
                let drains = *drain.borrow_and_update();
                let message = Some(join_response::Message::Drain(Drain { drains }));
                let _ = answer.try_send(Ok(JoinResponse { message }));
                continue;
            }
            () = gone.cancelled() => return End::Silent,
            () = close.cancelled() => return End::ShuttingDown,
        };
        let beat = match message {
            Ok(Some(JoinRequest { message: Some(join_request::Message::Heartbeat(beat)) })) => beat,
            Ok(Some(JoinRequest { message: Some(join_request::Message::Goodbye(goodbye)) })) => {
                return match goodbye.failure {
                    none if none.is_empty() => End::Left,
                    failure => End::Failed(failure),
                };
            }
            // A message of a later version.
            Ok(Some(_)) => continue,
            Ok(None) => {
                return End::Broken(Status::unavailable("its stream ended without a goodbye"));
            }
            Err(error) => return End::Broken(error),
        };
        metrics.node_spoke(heard.elapsed());
        heard = Instant::now();
        let beat = match convert::from_heartbeat(beat) {
            Ok(said) => said,
            Err(error) => return End::Refused(JoinError::Wire(error)),
        };
        match session.heard(&beat) {
            Ok(Ok(())) => {}
            Ok(Err(missed)) => {
                tracing::warn!(node = %session.peer().hello.node, %missed, "KV events are missing");
                let message = Some(join_response::Message::KvSnapshot(KvSnapshotWanted {}));
                // A node that doesn't read is asked again with its next word.
                let _ = answer.try_send(Ok(JoinResponse { message }));
            }
            Err(Ended::Stuck(stuck)) => return End::Stuck(stuck),
            Err(Ended::NotAMember(error)) => return End::Refused(JoinError::NotAMember(error)),
        }
    }
}
