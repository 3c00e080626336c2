//! The policy as its callers see it.

mod advice;
mod behaviour;
mod cluster;
mod fit;
mod moving;
mod overtaking;
mod placer;
mod properties;
mod rebalance;
mod shortlist;
mod tenants;
