//! What the node binaries share: configuration, telemetry, the step loop, serving, registration.

pub mod clock;
pub mod config;
mod engine;
pub mod error;
pub mod gate;
pub mod metrics;
mod node;
pub mod ops;
mod registration;
pub mod respond;
mod roles;
mod routers;
mod serve;
mod sim;
pub mod steps;
pub mod task;
pub mod telemetry;
pub mod transport;
pub mod wire;

pub use engine::LoadError;
pub use node::{Node, StartError};
pub use serve::{ServeError, Serving};
