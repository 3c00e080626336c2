//! A whole cluster on virtual time: the production policy, scheduler, block allocator, prefix cache,
//! page-transfer protocol and membership, driven by one queue of events instead of threads, sockets
//! and clocks. Pure, and deterministic from a seed.
//!
//! # What is simulated, and what is the real thing?
//!
//! Real: who is placed where ([`baton_policy`]), what each step computes ([`baton_scheduler`]), which
//! block holds what ([`baton_kv_cache`]), offers, pulls, credits, leases and refusals of pages
//! ([`baton_transfer_protocol`]), what moves a running request ([`baton_migration`]), who is a member
//! ([`baton_membership`]). There is no second
//! implementation of any of it. Simulated: how long a step takes (a
//! [`LatencyProfile`](baton_types::LatencyProfile)), how long bytes take (see below), which tokens
//! come out (made up), and the glue between the parts, which mirrors the services of the node and
//! router binaries: what they do at a step's boundary is done there, and in their order.
//!
//! # How long do pages take?
//!
//! Each node's network card shares its bandwidth fairly between the transfers that go through it, one
//! share for each direction. Layers are done at equal distances within a prefill step, and a layer's
//! pages may leave when it is: so a transfer hides behind its prefill but for the last layer, as
//! [`baton_policy::Link::exposed`] predicts. Bytes flow as a fluid between the events that change a
//! rate; the protocol's machines still see each page.
//!
//! # What do the numbers mean?
//!
//! Time to first token counts from the request's arrival at the router to the token's arrival there.
//! Attainment is the share of all *offered* requests, refused and failed ones included, that met both
//! targets; goodput is how many of them did in a second. See [`Report`].

mod capacity;
mod cluster;
mod fault;
mod network;
mod node;
mod outcome;
pub mod plan;
mod report;
mod scenario;
pub mod workload;

pub use baton_workload::Estimate;
pub use capacity::{Capacity, CapacityConfig, CapacityError};
pub use cluster::{Leak, simulate, simulate_while};
pub use fault::Fault;
pub use outcome::{End, Outcome, Parts};
pub use report::{
    ChartError, Distribution, MovesReport, PartsReport, Report, RoleReport, Scaled, ScalingReport,
    Switched,
};
pub use scenario::{
    ClusterConfig, LatencyConfig, MembershipConfig, ModelConfig, NetworkConfig, RolesScenario,
    ScalingConfig, Scenario, ScenarioError, Topology, TransferConfig, WorkerConfig,
};

/// A map that is the same in every process.
type Map<K, V> = std::collections::HashMap<K, V, std::hash::BuildHasherDefault<ahash::AHasher>>;
