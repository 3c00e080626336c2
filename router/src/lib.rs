//! The router: clients' one address. It speaks OpenAI's HTTP and Baton's gRPC, places each request
//! on a prefill and a decode node, and merges what they say into one exact stream.

mod batch;
mod cluster;
mod config;
mod error;
mod grpc;
mod http;
mod ledger;
mod metrics;
mod moves;
mod oip;
mod operations;
mod rebalance;
mod reflection;
mod registry;
mod request;
mod router;
mod serve;

pub use batch::DiskError;
pub use config::{
    BatchesConfig, ClassesConfig, LatencyConfig, LimitsConfig, PlacementConfig, RouterConfig,
    RouterFlags, TimeoutsConfig,
};
pub use serve::{ServeError, Serving, start};
use tokio_util::sync::CancellationToken;

/// Serves until `shutdown` is cancelled and running requests have finished or the drain time is
/// over. Logs where it listens.
pub async fn run(config: RouterConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    Ok(start(config).await?.until(shutdown).await?)
}
