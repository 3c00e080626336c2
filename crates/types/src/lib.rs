//! The words Baton is written in: identities, epochs, units, request and sampling specifications.
//!
//! Everything here is plain data. No clock, no randomness, no I/O: time enters as [`Time`],
//! and whoever needs a random id receives the bits as an argument.

mod block_map;
mod epoch;
mod grammar;
mod ids;
mod kv;
mod kv_events;
mod node;
mod request;
mod sampling;
mod slo;
mod step;
mod time;

pub use block_map::{BlockHashState, BlockHasher, BlockMap};
pub use epoch::{Epoch, RouterId};
pub use grammar::{Constraint, ConstraintError, Grammar, TokenMask};
pub use ids::{
    BlockHash, BlockId, Capability, ChoiceIndex, Generation, ModelId, NodeId, ParseIdError,
    RequestId, SequenceKey, TokenId,
};
pub use kv::{KvDtype, KvLayout, LayoutError, NumericsId, blocks_for};
pub use kv_events::KvEvents;
pub use node::{NodeHello, NodeLoad};
pub use request::{FinishReason, Role, SequenceSpec, StopTokens};
pub use sampling::{SamplingError, SamplingSpec, TokenLogprobs};
pub use slo::Slo;
pub use step::{LatencyProfile, Mixing, StepReport, StepShape};
pub use time::Time;
