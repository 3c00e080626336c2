//! The decode node: pulls a prompt's pages from the node that computed them, and generates. Sequences
//! come from other decode nodes and go to them while they run.

mod adopt;
mod import;
mod kept;
mod offer;
mod service;

use std::sync::Arc;

use baton_kv_transfer::{Exporter, Importer};
use baton_node::Node;
use baton_proto::node::v1::decode_server::DecodeServer;

use crate::import::Imports;
pub use crate::service::DecodeService;

/// The service on this node; pages are pulled by `importer`, and offered to other decode nodes by `exporter`.
pub fn server(
    node: Arc<Node>,
    importer: Importer,
    exporter: Exporter,
) -> DecodeServer<DecodeService> {
    let imports = Imports::new(node.clone(), importer);
    DecodeServer::new(DecodeService::new(node, imports, exporter))
}
