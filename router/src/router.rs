//! What all of a router's ports and requests share.

use std::sync::Arc;

use baton_node::{clock::Clock, ops::Operable};
use baton_types::RouterId;
use rand::Rng;

use crate::{
    batch::{Batches, DiskError},
    cluster::Cluster,
    config::RouterConfig,
    http::Streams,
    ledger::Ledger,
    metrics::RouterMetrics,
    moves::Moves,
    request::{Inside, Retries, Suspects},
};

#[derive(Debug)]
pub(crate) struct Router {
    /// Drawn anew at each start: part of every epoch this router grants.
    pub(crate) id: RouterId,
    pub(crate) clock: Clock,
    pub(crate) config: RouterConfig,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) inside: Arc<Inside>,
    pub(crate) metrics: RouterMetrics,
    /// Where sequences run, and how they are asked to move.
    pub(crate) moves: Arc<Moves>,
    /// Requests that nodes may have died of.
    pub(crate) suspects: Arc<Suspects>,
    /// How often failed requests are tried again.
    pub(crate) retries: Retries,
    /// Why requests run where they do.
    pub(crate) ledger: Ledger,
    /// Streamed answers that a client may take up again.
    pub(crate) streams: Arc<Streams>,
    /// Files and batches, if a folder is configured.
    pub(crate) batches: Option<Arc<Batches>>,
}

impl Router {
    pub(crate) fn new(config: RouterConfig) -> Result<Self, DiskError> {
        let clock = Clock::start();
        Ok(Router {
            id: RouterId(rand::rng().random()),
            clock,
            cluster: Arc::new(Cluster::new(&config, clock)),
            inside: Arc::new(Inside::new(config.limits.max_in_flight)),
            metrics: RouterMetrics::new(),
            moves: Arc::default(),
            suspects: Arc::default(),
            retries: Retries::new(&config.limits),
            ledger: Ledger::default(),
            streams: Arc::default(),
            batches: Batches::open(&config.batches)?.map(Arc::new),
            config,
        })
    }
}

impl Operable for Router {
    fn metrics(&self) -> String {
        self.metrics.recommend(&self.cluster.advice());
        self.metrics.render(&self.cluster.counts(), self.cluster.latencies())
    }

    fn unhealthy(&self) -> Option<String> {
        None
    }

    fn unready(&self) -> Option<String> {
        let problem = "no model has both a prefill and a decode node";
        (!self.cluster.is_ready()).then(|| problem.to_owned())
    }
}
