//! What the node binaries share: configuration, telemetry, the step loop, serving, registration.

pub mod config;
pub mod telemetry;
