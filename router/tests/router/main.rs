//! A router among scripted nodes: what clients see when nodes are honest, full, lying or dying.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod classes;
mod cluster;
mod errors;
mod explain;
mod fake;
mod faults;
mod grpc;
mod http;
mod latency;
mod open_inference;
mod prompts;
mod reflection;
mod watch;
