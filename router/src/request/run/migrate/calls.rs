//! The two calls of a migration.

use std::sync::Arc;

use baton_node::transport::MAX_MESSAGE_BYTES;
use baton_proto::{
    convert,
    node::v1::{
        self as node, AdoptRequest, AdoptResponse, DecodeRunRequest, OfferRequest, OfferResponse,
        adopt_request, decode_client::DecodeClient, offer_request,
    },
};
use baton_types::{Capability, Epoch, SequenceSpec};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    cluster::Peer,
    request::{
        admit::Admitted,
        attempt::{Side, traced},
    },
};

/// Of an offer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// That the sequence runs under.
    pub(super) epoch: Epoch,
    pub(super) attempt: Epoch,
    pub(super) capability: Capability,
    pub(super) urgent: bool,
}

/// Asks the source to offer the pages, and keeps the way to say more.
pub(super) fn offer(
    request: &Admitted,
    peer: &Arc<Peer>,
    terms: Terms,
) -> (mpsc::Sender<OfferRequest>, Side<OfferResponse>) {
    let start = node::OfferStart {
        model: peer.hello.model.to_string(),
        generation: peer.hello.generation.0,
        key: Some(request.key.into()),
        epoch: Some(terms.epoch.into()),
        attempt: Some(terms.attempt.into()),
        capability: convert::to_bytes(terms.capability.0),
        urgent: terms.urgent,
    };
    let (words, said) = mpsc::channel(4);
    let start = offer_request::Message::Start(start);
    // The channel is empty.
    let _ = words.try_send(OfferRequest { message: Some(start) });
    let call = traced(ReceiverStream::new(said), request.trace);
    let mut client = DecodeClient::new(peer.channel.clone());
    (words, Side::open(peer, async move { client.offer(call).await }))
}

/// Asks the destination to take the sequence over, and keeps the way to say more.
pub(super) fn adopt(
    request: &Admitted,
    peer: &Arc<Peer>,
    spec: SequenceSpec,
    source: convert::Source,
) -> (mpsc::Sender<AdoptRequest>, Side<AdoptResponse>) {
    let start = DecodeRunRequest {
        model: peer.hello.model.to_string(),
        generation: peer.hello.generation.0,
        sequence: Some(spec.into()),
        source: Some(source.into()),
        tenant: request.standing.tenant.id.0.to_string(),
    };
    let (words, said) = mpsc::channel(4);
    let start = adopt_request::Message::Start(start);
    let _ = words.try_send(AdoptRequest { message: Some(start) });
    let call = traced(ReceiverStream::new(said), request.trace);
    let client = DecodeClient::new(peer.channel.clone());
    let mut client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
    (words, Side::open(peer, async move { client.adopt(call).await }))
}
