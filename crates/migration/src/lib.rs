//! Live migration: a running sequence changes nodes, and its client can't tell.
//!
//! Three machines without I/O, one for each part. `PROTOCOL.md` has their states and messages and
//! says why there is never a second owner and never none:
//!
//! - [`Arbiter`], in the sequence's router: the record of who owns it. It alone makes epochs.
//! - [`Source`], in the node that runs the sequence: offers its pages while it runs on, and leaves the
//!   batch when little is left to send.
//! - [`Destination`], in the node it goes to: holds its pages and waits for the word that it is the
//!   owner.

mod arbiter;
mod destination;
mod source;

pub use arbiter::{Arbiter, ArbiterConfig, Busy, Ended, Order};
pub use destination::{Destination, DestinationConfig, DestinationOrder};
pub use source::{Source, SourceConfig, SourceOrder, Standing};

use baton_types::Epoch;

/// What the arbiter says to the source of an attempt. Each may come twice, late or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToSource {
    /// Offer the sequence's pages, and leave the batch when they are nearly all sent.
    Offer,
    /// Run on, under this epoch.
    Resume { epoch: Epoch },
    /// It runs elsewhere: forget it.
    Release,
}

/// What the source says to the arbiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromSource {
    /// The sequence has left the batch with so many tokens, prompt included; all but the last of them
    /// are in the cache.
    Frozen { tokens: u32 },
    /// It holds no pages here: it can go on anywhere, from its tokens.
    Bare,
    /// It doesn't run here, or not any more.
    Gone,
}

/// What the arbiter says to the destination of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToDestination {
    /// Reserve, pull the pages, and don't run.
    Prepare,
    /// Run: nobody else does.
    Own,
    /// Forget it.
    Drop,
}

/// What the destination says to the arbiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromDestination {
    /// The pages of all but the last of so many tokens are here.
    Prepared { tokens: u32 },
    /// It has made a token.
    Running,
    /// It won't, or can't any more.
    Gone,
}
