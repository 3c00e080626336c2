//! A client of Baton's gRPC API, `baton.v1.Inference`.
//!
//! `cargo run -p baton-client --example generate`:
//!
#![doc = concat!("```no_run\n", include_str!("../examples/generate.rs"), "```")]
//!
//! # What becomes of a stream when its router dies?
//!
//! It goes on. The client holds its prompt, its seed and the tokens that came, which is all that any other router needs
//! to go on behind them, also when the nodes it ran on are gone. The caller sees one stream in which each token comes
//! once ([`Stream`]).
//!
//! # What is tried again, and how often?
//!
//! Whatever another router, or the same one a little later, may do better: see [`Error::is_transient`] and [`Retry`].
//! Requests that can't be served as they are, and those that nodes have died of, are never sent twice.

mod answer;
mod client;
mod config;
mod endpoints;
mod error;
mod progress;
mod request;
mod retry;
mod stream;
#[cfg(feature = "opentelemetry")]
mod trace;

/// Messages of the protocol that the client's own types are made of.
pub use baton_proto::v1::{
    Chunk, Complete, FinishReason, Grammar, Message, Model, Sampling, Started, Timings,
    TokenLogprob, TokenLogprobs, Tool, ToolCall, ToolChoice, Usage, grammar,
};

pub use self::{
    answer::{Answer, Choice},
    client::Client,
    config::{ClientBuilder, Hedge, Retry, Tls},
    error::{Error, Refused},
    request::{Prompt, Request, Slo},
    stream::{Event, Stream},
};
