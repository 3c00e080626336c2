//! The prefill node: runs prompts, samples their first token, and holds their pages until a decode
//! node has pulled them.

mod offer;
mod service;

use std::sync::Arc;

use baton_kv_transfer::Exporter;
use baton_node::Node;
use baton_proto::node::v1::prefill_server::PrefillServer;

pub use crate::service::PrefillService;

/// The service on this node; pages are offered by `exporter`.
pub fn server(node: Arc<Node>, exporter: Exporter) -> PrefillServer<PrefillService> {
    PrefillServer::new(PrefillService::new(node, exporter))
}
