//! A node's life from listening to leaving.
//!
//! # What happens at the end?
//!
//! When told to stop, the node says so in its next heartbeat, takes no new requests, and gives those
//! inside the drain time. Then it leaves the registry, closes its ports and ends its step loop. A
//! step loop that ends on its own ends the node at once, with an error.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use baton_proto::{PROTOCOL_VERSION, convert, node::v1::Hello};
use baton_registry::{Directory, RegistryError, Routers};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    config::ConfigError,
    node::{Node, NodeOps},
    ops,
    registration::{Registration, Told},
    roles, routers,
    steps::Ended,
    task,
    transport::{self, Bound, TransportError},
};

/// A model's grammars are prepared before the first comes where their tables are no more than this part of what the node
/// holds anyway; beside a small model's weights the first waits for them, some 0.15 s.
const WEIGHTS_OVER_TABLES: u64 = 50;
/// How long closing a port may take once nobody is inside.
const CLOSING_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the step loop panicked: {message}")]
    StepLoopPanicked { message: String },
    #[error("the gRPC server ended by itself")]
    ServerEnded,
}

/// A node that listens.
#[derive(Debug)]
pub struct Serving {
    node: Arc<Node>,
    control: SocketAddr,
    metrics: SocketAddr,
    data: Option<String>,
    server: AbortOnDropHandle<Result<(), TransportError>>,
    /// `grpc.health.v1`, of the server as a whole.
    health: HealthReporter,
    close: CancellationToken,
    /// Ends once all routers have heard that the node leaves.
    registration: Option<AbortOnDropHandle<()>>,
    /// What they hear of why, if something has failed.
    failure: Arc<OnceLock<String>>,
    /// The port for operators, and whatever else runs until the end.
    companions: Vec<AbortOnDropHandle<()>>,
}

impl Node {
    /// Binds the node's ports, serves `routes` there, and joins the router if there is one.
    /// `data` is the address of its page transfer, if others pull from it.
    pub async fn serve(
        self: &Arc<Self>,
        routes: Routes,
        data: Option<String>,
    ) -> Result<Serving, ServeError> {
        let listen = &self.config.listen;
        let control = Bound::new("gRPC", listen.host, listen.control_port).await?;
        let operators = Bound::new("metrics", listen.host, listen.metrics_port).await?;
        let (control_address, metrics_address) = (control.address, operators.address);
        let hello = self.hello(&control, &operators, data.clone());

        let (health, health_service) = tonic_health::server::health_reporter();
        let routes = routes.add_service(health_service);
        let close = CancellationToken::new();
        let server = task::owned(transport::serve(control, routes, close.clone()));
        let fixed: Routers = self.config.routers.iter().cloned().collect();
        let directory = self.config.registry.options()?.map(Directory::watch).transpose()?;
        let known_to = watch::Sender::new(0);
        let is_alone = fixed.is_empty() && directory.is_none();
        let ops =
            NodeOps { node: Arc::clone(self), known_to: (!is_alone).then(|| known_to.subscribe()) };
        let mut companions = vec![task::owned(serve_operators(operators, ops))];
        let (mut keeping, failure) = (None, Arc::default());
        if !is_alone {
            let (bell, news) = self.news();
            companions.push(bell);
            let registration = Registration {
                router: String::new(),
                hello,
                text: Arc::clone(&self.text),
                identity: self.identity().watch(),
                pulse: Arc::clone(self),
                news,
                known_to,
                told: Told::default(),
                failure: Arc::clone(&failure),
            };
            let all = routers::keep(registration, fixed, directory, close.clone());
            keeping = Some(task::owned(all));
            companions.push(task::owned(roles::keep(Arc::clone(self))));
        }
        if self.grammars.tables_bytes() * WEIGHTS_OVER_TABLES <= self.weights_bytes {
            let grammars = Arc::clone(&self.grammars);
            task::background("grammars", move || grammars.prepare());
        }
        tracing::info!(
            node = %self.id, grpc = %control_address, pages = data, metrics = %metrics_address,
            "serving"
        );
        Ok(Serving {
            node: Arc::clone(self),
            control: control_address,
            metrics: metrics_address,
            data,
            server,
            health,
            close,
            registration: keeping,
            failure,
            companions,
        })
    }

    /// But for its language and its incarnation, which may be another one when it joins.
    fn hello(&self, control: &Bound, operators: &Bound, data: Option<String>) -> Hello {
        let advertise = self.config.listen.advertise.as_deref();
        Hello {
            protocol_version: PROTOCOL_VERSION,
            node: self.id.to_string(),
            generation: 0,
            role: 0,
            model: self.model.clone(),
            numerics_id: convert::to_bytes(self.info.numerics.0),
            layout: Some(self.info.layout.into()),
            max_context: self.info.max_context,
            total_blocks: self.arena.blocks(),
            max_batch_tokens: self.config.scheduler.max_batch_tokens,
            chunk_tokens: self.config.scheduler.chunk_tokens,
            max_running: self.config.scheduler.max_running,
            weights_bytes: self.weights_bytes,
            control_address: format!("http://{}", control.advertised(advertise)),
            data_address: data.unwrap_or_default(),
            metrics_address: operators.advertised(advertise),
            text: None,
        }
    }

    /// Rings when the router should hear from the node before the next heartbeat is due: when work
    /// arrives at an idle node, when it starts or ceases to drain, and when it drains and is idle.
    fn news(self: &Arc<Self>) -> (AbortOnDropHandle<()>, watch::Receiver<bool>) {
        let (sender, receiver) = watch::channel(false);
        let (mut load, mut door) = (self.steps.watch_load(), self.gate.watch_door());
        let mut drained = self.drained.subscribe();
        let bell = async move {
            let mut busy = false;
            loop {
                tokio::select! {
                    changed = load.changed() => {
                        let load = *load.borrow_and_update();
                        let now = load.running + load.waiting > 0;
                        let drains = drained.borrow().is_some();
                        if now && !busy || drains && !now && busy {
                            sender.send_replace(true);
                        }
                        busy = now;
                        if changed.is_err() {
                            return;
                        }
                    }
                    Ok(()) = door.changed() => {
                        sender.send_replace(true);
                    }
                    Ok(()) = drained.changed() => {
                        sender.send_replace(true);
                    }
                }
            }
        };
        (task::owned(bell), receiver)
    }
}

impl Serving {
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Where its gRPC services are.
    pub fn control_address(&self) -> SocketAddr {
        self.control
    }

    /// Where `/metrics`, `/health` and `/ready` are.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    /// `host:port` of its page transfer, if others pull from it.
    pub fn data_address(&self) -> Option<&str> {
        self.data.as_deref()
    }

    /// Serves until `shutdown`, drains and leaves.
    pub async fn until(mut self, shutdown: CancellationToken) -> Result<(), ServeError> {
        tokio::select! {
            () = shutdown.cancelled() => {}
            ended = self.node.steps.ended() => return Err(self.fail(early_end(ended)).await),
            served = &mut self.server => {
                let error = match served {
                    Ok(Err(error)) => error.into(),
                    Ok(Ok(())) | Err(_) => ServeError::ServerEnded,
                };
                return Err(self.fail(error).await);
            }
        }
        self.leave().await;
        Ok(())
    }

    /// The node can't go on: whoever knows it hears why.
    async fn fail(mut self, error: ServeError) -> ServeError {
        tracing::error!(node = %self.node.id, %error, "the node failed; it ends");
        // There is one end.
        let _ = self.failure.set(error.to_string());
        self.close.cancel();
        self.be_forgotten().await;
        error
    }

    /// Waits until all routers have heard that it leaves.
    async fn be_forgotten(&mut self) {
        if let Some(registration) = self.registration.take() {
            let _ = tokio::time::timeout(CLOSING_PATIENCE, registration).await;
        }
    }

    async fn leave(mut self) {
        let (node, patience) = (Arc::clone(&self.node), self.node.config.drain.0);
        tracing::info!(node = %node.id, inside = node.gate.inside(), ?patience, "draining");
        self.health.set_service_status("", ServingStatus::NotServing).await;
        let left = node.gate.drain(patience).await;
        if left > 0 {
            tracing::warn!(node = %node.id, left, "the drain time is over; cancelling the rest");
        }
        self.close.cancel();
        let patience = if left > 0 { Duration::ZERO } else { CLOSING_PATIENCE };
        // Streams still open end with the server's task.
        let _ = tokio::time::timeout(patience, &mut self.server).await;
        self.server.abort();
        self.be_forgotten().await;
        self.companions.clear();
        node.steps.stop();
        node.steps.ended().await;
        tracing::info!(node = %node.id, "left");
    }
}

fn early_end(ended: Ended) -> ServeError {
    let message = match ended {
        Ended::Panicked(message) => message,
        Ended::Stopped => "it was stopped".to_owned(),
    };
    ServeError::StepLoopPanicked { message }
}

async fn serve_operators(bound: Bound, ops: NodeOps) {
    if let Err(error) = axum::serve(bound.listener, ops::routes(Arc::new(ops))).await {
        tracing::error!(%error, "the metrics port ended");
    }
}
