//! The client against routers that do as they are told.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod fake;
mod refusals;
mod streams;
mod tls;
mod unary;
