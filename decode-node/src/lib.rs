//! The decode node: pulls a prompt's pages from the node that computed them, and generates. Sequences
//! come from other decode nodes and go to them while they run.

mod adopt;
mod import;
mod offer;
mod service;

use baton_kv_transfer::{Exporter, ExporterConfig, Importer, ImporterConfig};
use baton_node::{Node, Serving, config::NodeConfig, transport::Bound};
use baton_proto::node::v1::decode_server::DecodeServer;
use baton_types::Role;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{import::Imports, service::DecodeService};

/// Loads the engine, binds the ports and serves; joins the router, if there is one.
pub async fn start(config: NodeConfig) -> anyhow::Result<Serving> {
    let node = Node::load(config, Role::Decode).await?;
    let transfer = &node.config.transfer;
    let importer_config = ImporterConfig { streams: transfer.streams, ..ImporterConfig::default() };
    let importer = Importer::new(node.arena.clone(), node.peer_identity(), importer_config);
    let imports = Imports::new(node.clone(), importer);
    let listen = &node.config.listen;
    let data = Bound::new("page transfer", listen.host, listen.data_port).await?;
    let address = data.advertised(listen.advertise.as_deref());
    let exporter_config = ExporterConfig { lease: transfer.lease.0, ..ExporterConfig::default() };
    let exporter =
        Exporter::start(data.listener, node.arena.clone(), node.peer_identity(), exporter_config);
    let service = DecodeServer::new(DecodeService::new(node.clone(), imports, exporter))
        .max_decoding_message_size(baton_node::transport::MAX_MESSAGE_BYTES);
    Ok(node.serve(Routes::new(service), Some(address)).await?)
}

/// Serves until `shutdown` is cancelled and running requests have finished or the drain time is
/// over. Logs where it listens.
pub async fn run(config: NodeConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    Ok(start(config).await?.until(shutdown).await?)
}
