//! The scheduler driving the simulated engine, seen from outside.

mod behaviour;
mod cluster;
mod node;
mod properties;
mod sim;
