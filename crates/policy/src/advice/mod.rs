//! How many nodes of each role are wanted, and which should change roles.
//!
//! # What does advice rest on?
//!
//! On what the router sees anyway: the requests that came lately with their prompts, the parts of them
//! that are cached, and their objectives ([`Traffic`]); how outputs turned out; the nodes' fitted
//! latency models; and how many requests of late met their objectives.
//!
//! # By which formula?
//!
//! One of three behind the same interface ([`Formula`]): the attainment that is predicted of a pool, or
//! DistServe's or Dynamo's replicas, to compare with.
//!
//! # Why doesn't it flap?
//!
//! A recommendation rises when the formula needs more, and falls only to the most that was needed, of
//! a load a threshold larger, in all of the last minutes ([`Hysteresis`]). Nodes change roles by
//! what is needed at the moment, when it was needed for a while ([`RoleSwitcher`]).

mod advisor;
mod baseline;
mod config;
mod formula;
mod hysteresis;
mod load;
mod predicted;
mod queueing;
mod reason;
mod roles;
mod traffic;

pub use advisor::{Advice, Advisor, RoleAdvice, Seen, Switch};
pub use config::{AdviceConfig, AdviceError, Formula};
pub use hysteresis::Hysteresis;
pub use reason::{Need, Reason};
pub use roles::{RoleChange, RoleSwitcher, RolesConfig};
pub use traffic::Traffic;
pub(crate) use traffic::{Asked, Ended};
