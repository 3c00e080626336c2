//! The policy as its callers see it.

mod behaviour;
mod cluster;
mod placer;
mod properties;
mod shortlist;
