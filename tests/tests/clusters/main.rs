//! Real processes, as a person would start them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod bad_input;
mod batches;
mod cancel;
mod chaos;
mod command_line;
mod detection;
mod http;
mod kubernetes;
mod latency;
mod lifecycle;
mod likelihood;
mod load;
mod migration;
mod observe;
mod open_inference;
mod openai;
mod openapi;
mod partition;
mod placement;
mod profile;
mod prompts;
mod python_sdk;
mod replay;
mod resume;
mod resume_grpc;
mod roles;
mod routers;
mod same_tokens;
mod sdk;
mod structured;
