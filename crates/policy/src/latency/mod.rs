//! How long things take: what is predicted, and how it is learned.

mod filter;
mod fit;
mod link;
mod model;
mod regression;
mod solve;
mod spread;
mod step;

use std::time::Duration;

pub use fit::{FitConfig, FitError, LatencyFit};
pub use link::{Link, Moved};
pub use model::LatencyModel;

/// Nonsense (negative or not finite) costs nothing.
fn micros(us: f64) -> Duration {
    Duration::try_from_secs_f64(us / 1e6).unwrap_or_default()
}
