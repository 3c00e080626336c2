//! What is asked of a cluster, whether it is simulated or real: when requests come, how long they are and what
//! they say. Pure: files are readers, randomness is a stream of draws that the caller holds.
//!
//! # Where do requests come from?
//!
//! From a recorded [`Trace`], whose prompts are lengths and what they share; from [`Conversations`], which are
//! text; or from [`Arrivals`] and [`Lengths`], drawn from a seed. All can be written on a command line: see
//! [`Arrivals`] and [`Lengths`] for their forms.
//!
//! # Do arrivals come as they claim to?
//!
//! [`ArrivalCheck`] watches them and says so. A load that is smoother or burstier than claimed measures another
//! system than the one that is asked about.

mod arrivals;
mod check;
mod duration;
mod error;
mod estimate;
mod form;
mod lengths;
mod peek;
mod prompt;
pub mod random;
mod sharegpt;
mod trace;

pub use self::{
    arrivals::Arrivals,
    check::{ArrivalCheck, ArrivalVerdict, Band, Figure, Gaps},
    duration::{DurationError, parse_duration, show_duration},
    error::WorkloadError,
    estimate::Estimate,
    form::FormError,
    lengths::Lengths,
    prompt::{Prompt, Segment, word},
    sharegpt::{Conversation, ConversationError, Conversations, Turn},
    trace::{Trace, TraceError, TraceFormat, TraceRequest},
};
