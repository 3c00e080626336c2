//! The hand-over of KV pages, without I/O: frames, the source's machine and the sink's. See
//! `kv-transfer/PROTOCOL.md` for states, messages and why it is safe.

mod frame;
mod sink;
mod source;

pub use frame::{
    Frame, FrameError, GROWING, Hello, HelloMismatch, MAX_FRAME_BYTES, MAX_RUN, NackReason,
    PageRun, PullRequest, VERSION,
};
pub use sink::{Sink, SinkError, SinkSpec};
pub use source::{
    AbortReason, Event, OfferError, OfferId, OfferSpec, Outcome, Source, SourceConfig, StreamId,
    Transmit,
};

/// What the source sampled: travels with the pages, so that the puller can go on without asking
/// anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstToken {
    pub token: baton_types::TokenId,
    pub logits_digest: u64,
}

/// What a source says once it knows all pages there will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Of a prompt: its first token.
    First(FirstToken),
    /// Of a sequence that grew meanwhile: the tokens its pages hold.
    Last { tokens: u32 },
}
