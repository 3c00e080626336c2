//! Whole clusters of real processes, for tests to poke.
//!
//! A [`Cluster`] is `baton up` on free ports with its children; dropping it ends them all, also
//! when a test fails. The binary is the one `BATON_BIN` names, or the one cargo built beside these
//! tests; `cargo xtask test` builds it first.

mod apart;
mod cluster;
mod etcd;
mod generate;
mod http;
mod network;
mod process;
mod python;
mod reference;

pub use apart::Apart;
pub use cluster::{Cluster, Engine, Options, baton, model};
pub use etcd::Etcd;
pub use generate::{Ask, Begun, Generated, begin, generate, generate_all, generate_known};
pub use http::{
    Event, Reply, delete, events, get, numbered_events, post, post_bytes, post_with, upload,
};
pub use process::{Pid, children_of, cpu_time, wake_ups};
pub use python::{python, python_example, python_tests};
pub use reference::Reference;
