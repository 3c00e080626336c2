//! The embedded registry: nodes join on the control port and stay while their stream speaks.

use std::{pin::Pin, sync::Arc, time::Duration};

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

use crate::cluster::{Cluster, JoinError, Session};

/// What a node may have to read at one time.
const ORDERS: usize = 16;
const HELLO_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct EmbeddedRegistry {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) router: RouterId,
    pub(crate) heartbeat: Duration,
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
        let close = self.close.clone();
        let listening = task::owned(async move {
            let node = session.peer().hello.node.clone();
            let end = listen(session, said, close, &answer).await;
            tracing::info!(%node, why = %end, "a node left");
            // A node that is gone doesn't need the status.
            let _ = answer.send(Err(end)).await;
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

/// Hears heartbeats until the stream or the membership ends, and says why it did.
async fn listen(
    session: Session,
    mut said: Streaming<JoinRequest>,
    close: CancellationToken,
    answer: &mpsc::Sender<Result<JoinResponse, Status>>,
) -> Status {
    let gone = session.peer().gone.clone();
    let (mut role, mut drain) = (session.watch_role(), session.watch_drain());
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
            () = gone.cancelled() => return Status::aborted("the lease is over; join again"),
            () = close.cancelled() => return status(&JoinError::ShuttingDown),
        };
        let beat = match message {
            Ok(Some(JoinRequest { message: Some(join_request::Message::Heartbeat(beat)) })) => beat,
            // A message of a later version.
            Ok(Some(_)) => continue,
            Ok(None) => return Status::ok("the node ended its stream"),
            Err(error) => return error,
        };
        let beat = match convert::from_heartbeat(beat) {
            Ok(said) => said,
            Err(error) => return status(&JoinError::Wire(error)),
        };
        match session.heard(&beat) {
            Ok(Ok(())) => {}
            Ok(Err(missed)) => {
                tracing::warn!(node = %session.peer().hello.node, %missed, "KV events are missing");
                let message = Some(join_response::Message::KvSnapshot(KvSnapshotWanted {}));
                // A node that doesn't read is asked again with its next word.
                let _ = answer.try_send(Ok(JoinResponse { message }));
            }
            Err(error) => return status(&JoinError::NotAMember(error)),
        }
    }
}
