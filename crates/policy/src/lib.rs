//! Who does what: admission and joint placement, as functions over views. Pure; the router and the
//! simulator call the same code.
//!
//! # What does a decision rest on?
//!
//! On a [`ClusterView`], the router's picture of the nodes: what they said in their last heartbeats
//! and what this router has promised since ([`ClusterView::reserve`]). Promises count at once, for
//! load counted late is what makes routers herd. Of the two, the greater is believed: the first
//! lags, the second doesn't know other routers' requests.
//!
//! # Where do its times come from?
//!
//! From each node's [`LatencyModel`], which a [`LatencyFit`] keeps close to the steps that the node
//! reports ([`ClusterView::observe_steps`]), and which knows how far off it is
//! ([`LatencyFit::error`]).
//!
//! # When is a request placed, queued or refused?
//!
//! It is placed when some pair of nodes can take it now: room in the prefill node's pool or in its
//! bounded queue, and room in the decode node's pool. It is queued while no pair can but one will
//! be able to, and refused when the router's own bounded queue is full, when it has waited too
//! long, or when no node will ever be able to; see [`Refusal`]. Of a client's request that is several
//! here, only the first is refused for want of room: the others follow it, and wait.
//!
//! # What of requests nobody waits for?
//!
//! Those of a [`Service::Batch`] are placed only where they leave room: on nodes that compute few
//! prompts, and keep a share of their blocks free, unless they have nothing to do. One of them
//! waits for as long as its caller lets it.
//!
//! **Invariant:** both nodes of a placement serve the request's model, share numerics id and KV
//! layout, and accept work.

pub mod advice;
mod chance;
mod class;
mod cluster;
mod config;
mod decision;
mod growth;
mod lane;
mod latency;
mod node;
mod output;
mod placement;
mod placer;
mod prefix;
mod prompts;
mod queue;
pub mod rebalance;
mod request;
mod reservation;
mod retries;
mod sacrifice;
mod share;
mod trouble;

pub use chance::Calibration;
pub use class::{Class, ClassId, Service, Tenant, TenantId};
pub use cluster::ClusterView;
pub use config::{Policy, PolicyConfig};
pub use decision::{
    Alternative, Decision, Path, Placed, Placement, Prediction, Reasons, Refusal, Shortage, Won,
};
pub use latency::{FitConfig, FitError, LatencyFit, LatencyModel, Link, Moved};
pub use node::{Beyond, Group, NodeView};
pub use output::{Expected, OutputLengths};
pub use placement::{decide, destination};
pub use placer::{Placer, Ticket, Verdict};
pub use prefix::MissedEvents;
pub use request::{PromptHashes, RequestView};
pub use reservation::{Demand, ReservationId, Reserved, Weight};
pub use retries::RetryBudget;
pub use trouble::{Troubles, Way};
