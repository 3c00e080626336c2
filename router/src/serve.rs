//! A router's life from listening to leaving.
//!
//! # What happens at the end?
//!
//! When told to stop, the router says so in its health, takes no new requests, stops its batches,
//! and gives the requests inside the drain time. Nodes lose it last: their pages are needed until then.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{middleware, serve::ListenerExt};
use baton_node::{
    config::ConfigError,
    task,
    transport::{self, Bound, MAX_MESSAGE_BYTES, TransportError},
};
use baton_proto::{
    node::v1::registry_server::RegistryServer,
    oip::grpc_inference_service_server::GrpcInferenceServiceServer,
    v1::{inference_server::InferenceServer, operations_server::OperationsServer},
};
use baton_registry::{Announced, Announcement, RegistryError};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    batch::{self, DiskError},
    config::RouterConfig,
    grpc::InferenceService,
    http,
    oip::OpenInferenceService,
    operations::OperationsService,
    rebalance, reflection,
    registry::EmbeddedRegistry,
    router::Router,
};

pub(crate) const INFERENCE: &str = "baton.v1.Inference";
pub(crate) const OPERATIONS: &str = "baton.v1.Operations";
pub(crate) const OPEN_INFERENCE: &str = "inference.GRPCInferenceService";
/// How long closing a port may take once nobody is inside.
const CLOSING_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("batches.directory: {0}")]
    Batches(#[from] DiskError),
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("the API port ended: {0}")]
    Api(#[from] std::io::Error),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the {port} server ended by itself")]
    Ended { port: &'static str },
}

/// A router that listens.
#[derive(Debug)]
pub struct Serving {
    router: Arc<Router>,
    api: SocketAddr,
    control: SocketAddr,
    api_server: AbortOnDropHandle<std::io::Result<()>>,
    control_server: AbortOnDropHandle<Result<(), TransportError>>,
    close_api: CancellationToken,
    close_control: CancellationToken,
    /// `grpc.health.v1`.
    health: HealthReporter,
    /// Its place in the registry, if there is one.
    announced: Option<Announced>,
    /// They run while the router serves.
    batches: AbortOnDropHandle<()>,
    /// Leases, readiness and draining nodes: whatever else runs until the end.
    _companions: [AbortOnDropHandle<()>; 3],
}

/// Binds both ports and serves.
pub async fn start(config: RouterConfig) -> Result<Serving, ServeError> {
    config.validate()?;
    let (listen, control_listen) = (config.listen, config.control_listen);
    let api = Bound::new("API", listen.ip(), listen.port()).await?;
    let control = Bound::new("registry", control_listen.ip(), control_listen.port()).await?;
    let (api_address, control_address) = (api.address, control.address);
    let outside = control.advertised(config.advertise.as_deref());
    let shared = config.registry.options()?;
    let router = Arc::new(Router::new(config)?);
    let (close_api, close_control) = (CancellationToken::new(), CancellationToken::new());

    let (health, health_service) = tonic_health::server::health_reporter();
    let routes = api_routes(&router)?.add_service(health_service).into_axum_router();
    let routes = routes.layer(middleware::from_fn(http::identify));
    let listener = api.listener.tap_io(|stream| {
        // Without it tokens wait for each other; a socket that can't is about to fail anyway.
        let _ = stream.set_nodelay(true);
    });
    let serving =
        axum::serve(listener, routes).with_graceful_shutdown(close_api.clone().cancelled_owned());
    let api_server = task::owned(serving.into_future());

    let registry = EmbeddedRegistry {
        cluster: Arc::clone(&router.cluster),
        router: router.id,
        heartbeat: router.config.timeouts.heartbeat.0,
        metrics: router.metrics.clone(),
        close: close_control.clone(),
    };
    let registry = RegistryServer::new(registry).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let control_server =
        task::owned(transport::serve(control, Routes::new(registry), close_control.clone()));

    let announcement = Announcement { id: router.id, control_address: format!("http://{outside}") };
    let announced = shared.map(|shared| Announced::keep(shared, announcement)).transpose()?;
    if let Some(announced) = &announced {
        router.cluster.has_fellows(announced.fellows.clone());
    }

    let cluster = Arc::clone(&router.cluster);
    let leases = task::owned(async move { cluster.keep_time().await });
    let rebalancer = task::owned(rebalance::keep(Arc::clone(&router)));
    let batches = task::owned(batch::run_all(Arc::clone(&router)));
    let readiness = task::owned(tell_readiness(Arc::clone(&router), health.clone()));
    tracing::info!(
        api = %api_address, control = %control_address, router = format!("{:016x}", router.id.0),
        "serving"
    );
    Ok(Serving {
        router,
        api: api_address,
        control: control_address,
        api_server,
        control_server,
        close_api,
        close_control,
        health,
        announced,
        batches,
        _companions: [leases, readiness, rebalancer],
    })
}

/// HTTP and gRPC, but for the health service.
fn api_routes(router: &Arc<Router>) -> Result<Routes, ServeError> {
    let max_body = usize::try_from(router.config.limits.max_body.0).unwrap_or(usize::MAX);
    let inference = InferenceServer::new(InferenceService { router: Arc::clone(router) })
        .max_decoding_message_size(max_body);
    let open_inference =
        GrpcInferenceServiceServer::new(OpenInferenceService { router: Arc::clone(router) })
            .max_decoding_message_size(max_body);
    let operations = OperationsServer::new(OperationsService { router: Arc::clone(router) });
    let routes = Routes::from(http::routes(router)).add_service(operations);
    Ok(reflection::add_to(routes.add_service(inference).add_service(open_inference))?)
}

/// Keeps the health of the inference services what readiness is; the process as a whole serves.
async fn tell_readiness(router: Arc<Router>, health: HealthReporter) {
    let mut ready = router.cluster.watch_ready();
    loop {
        let status = match *ready.borrow_and_update() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        for service in [INFERENCE, OPERATIONS, OPEN_INFERENCE] {
            health.set_service_status(service, status).await;
        }
        if ready.changed().await.is_err() {
            return;
        }
    }
}

impl Serving {
    /// Where clients come.
    pub fn api_address(&self) -> SocketAddr {
        self.api
    }

    /// Where nodes register.
    pub fn control_address(&self) -> SocketAddr {
        self.control
    }

    /// Serves until `shutdown`, drains and leaves.
    pub async fn until(mut self, shutdown: CancellationToken) -> Result<(), ServeError> {
        tokio::select! {
            () = shutdown.cancelled() => {}
            ended = &mut self.api_server => {
                return Err(match ended {
                    Ok(Err(error)) => error.into(),
                    _ => ServeError::Ended { port: "API" },
                });
            }
            ended = &mut self.control_server => {
                return Err(match ended {
                    Ok(Err(error)) => error.into(),
                    _ => ServeError::Ended { port: "control" },
                });
            }
        }
        self.leave().await;
        Ok(())
    }

    async fn leave(mut self) {
        let patience = self.router.config.timeouts.drain.0;
        tracing::info!(inside = self.router.inside.len(), ?patience, "draining");
        for service in ["", INFERENCE, OPEN_INFERENCE] {
            self.health.set_service_status(service, ServingStatus::NotServing).await;
        }
        // What they were at is on the disk, and goes on at the next start.
        self.batches.abort();
        self.router.inside.close();
        self.close_api.cancel();
        if tokio::time::timeout(patience, &mut self.api_server).await.is_err() {
            let left = self.router.inside.len();
            tracing::warn!(left, "the drain time is over; cancelling the rest");
            self.router.inside.cancel_all();
            // They tell their clients.
            let _ = tokio::time::timeout(CLOSING_PATIENCE, &mut self.api_server).await;
        }
        self.api_server.abort();
        if let Some(announced) = self.announced.take() {
            announced.leave().await;
        }
        self.close_control.cancel();
        // Streams still open end with the server's task.
        let _ = tokio::time::timeout(CLOSING_PATIENCE, &mut self.control_server).await;
        tracing::info!("left");
    }
}
