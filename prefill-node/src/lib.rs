//! The prefill node: runs prompts, samples their first token, and holds their pages until a decode
//! node has pulled them.

mod offer;
mod service;

use baton_kv_transfer::{Exporter, ExporterConfig};
use baton_node::{Node, Serving, config::NodeConfig, transport::Bound};
use baton_proto::node::v1::prefill_server::PrefillServer;
use baton_types::Role;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::service::PrefillService;

/// Loads the engine, binds the ports and serves; joins the router, if there is one.
pub async fn start(config: NodeConfig) -> anyhow::Result<Serving> {
    let node = Node::load(config, Role::Prefill).await?;
    let listen = &node.config.listen;
    let data = Bound::new("page transfer", listen.host, listen.data_port).await?;
    let address = data.advertised(listen.advertise.as_deref());
    let exporter_config =
        ExporterConfig { lease: node.config.transfer.lease.0, ..ExporterConfig::default() };
    let exporter =
        Exporter::start(data.listener, node.arena.clone(), node.peer_identity(), exporter_config);
    let service = PrefillServer::new(PrefillService::new(node.clone(), exporter))
        .max_decoding_message_size(baton_node::transport::MAX_MESSAGE_BYTES);
    Ok(node.serve(Routes::new(service), Some(address)).await?)
}

/// Serves until `shutdown` is cancelled and running requests have finished or the drain time is
/// over. Logs where it listens.
pub async fn run(config: NodeConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    Ok(start(config).await?.until(shutdown).await?)
}
