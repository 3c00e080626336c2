//! Batches on whole clusters: their life, what they leave to others, and what survives.

mod client;
mod hostile;
mod life;
mod order;
mod restart;
