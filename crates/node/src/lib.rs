//! What the node binaries share: configuration, telemetry, the step loop, serving, registration.

pub mod clock;
pub mod config;
pub mod metrics;
pub mod ops;
pub mod steps;
pub mod telemetry;
pub mod transport;
