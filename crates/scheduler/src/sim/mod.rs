//! A simulated model behind the [`Engine`](crate::Engine) seam: no weights, real page traffic.
//!
//! # What does it prove?
//!
//! Its keys and values are digests. The slot of position `t` in layer `l` holds
//! `hash128(l, the digest read back from position t-1, token t, t)`, and a token is drawn from a
//! fold over all digests of all layers, read back through the block table. A wrong page, a stale
//! block, a page that was not moved or a lost index therefore gives other tokens, as with a real
//! model (`same-tokens`, `no-stale-page`), but thousands of times cheaper. Time is spent by a
//! [`LatencyProfile`](baton_types::LatencyProfile) through a [`Pace`], layer by layer, so that overlap is as real as the pace.

mod engine;
mod pace;
mod slots;

pub use engine::{SimConfig, SimConfigError, SimEngine};
pub use pace::{Pace, Unpaced};
pub use slots::{KvSlots, MemorySlots, PageBusy, SLOT_BYTES};
