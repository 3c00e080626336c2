//! A node that can have either role: both services over one engine, one pool of pages and one page transfer. Which
//! of them it serves is what it is registered as; it starts in one role and may take the other while it runs.

use baton_kv_transfer::{Exporter, ExporterConfig, Importer, ImporterConfig};
use baton_node::{
    Node, Serving,
    config::NodeConfig,
    transport::{Bound, MAX_MESSAGE_BYTES},
};
use baton_types::Role;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

/// Loads the engine, binds the ports and serves; joins the router, if there is one.
pub async fn start(config: NodeConfig, role: Role) -> anyhow::Result<Serving> {
    let node = Node::load(config, role).await?;
    let (listen, transfer) = (&node.config.listen, &node.config.transfer);
    let data = Bound::new("page transfer", listen.host, listen.data_port).await?;
    let address = data.advertised(listen.advertise.as_deref());
    let (arena, identity) = (&node.arena, node.identity());
    let config = ExporterConfig { lease: transfer.lease.0, ..ExporterConfig::default() };
    let exporter = Exporter::start(data.listener, arena.clone(), identity.clone(), config);
    let config = ImporterConfig { streams: transfer.streams, ..ImporterConfig::default() };
    let importer = Importer::new(arena.clone(), identity.clone(), config);
    let prefill = baton_prefill_node::server(node.clone(), exporter.clone());
    let decode = baton_decode_node::server(node.clone(), importer, exporter);
    let routes = Routes::new(prefill.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(decode.max_decoding_message_size(MAX_MESSAGE_BYTES));
    Ok(node.serve(routes, Some(address)).await?)
}

/// Serves until `shutdown` is cancelled and running requests have finished or the drain time is
/// over. Logs where it listens.
pub async fn run(
    config: NodeConfig,
    role: Role,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    Ok(start(config, role).await?.until(shutdown).await?)
}
