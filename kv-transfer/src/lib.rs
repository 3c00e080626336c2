//! Moves KV pages between nodes: TCP streams driving the machines of `baton-transfer-protocol`,
//! straight from one arena to the socket and from the socket to the other arena.

mod clock;
mod export;
mod import;
mod link;
mod pages;
mod peer;

pub use baton_transfer_protocol::{
    AbortReason, FirstToken, HelloMismatch, NackReason, OfferError, Outcome, SinkError,
};
pub use export::{Exporter, ExporterConfig, Growing, GrowingOffer, Offer, Offered};
pub use import::{Followed, Importer, ImporterConfig, Pull, PullError, Pulled, Reserve};
pub use link::LinkError;
pub use peer::{PeerIdentity, SharedIdentity};
