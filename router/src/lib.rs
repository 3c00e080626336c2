//! The router: clients' one address. It speaks OpenAI's HTTP and Baton's gRPC, places each request
//! on a prefill and a decode node, and merges what they say into one exact stream.

mod config;

pub use config::{LimitsConfig, PlacementConfig, RouterConfig, RouterFlags, TimeoutsConfig};
use tokio_util::sync::CancellationToken;

/// Serves until `shutdown` is cancelled and running requests have finished or the drain time is
/// over. Logs where it listens.
pub async fn run(config: RouterConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    config.validate()?;
    shutdown.cancelled().await;
    Ok(())
}
