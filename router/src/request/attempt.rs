//! One attempt: a prefill and a decode node at work on the same sequence, under one epoch.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use baton_node::transport::MAX_MESSAGE_BYTES;
use baton_policy::{Placed, TenantId};
use baton_proto::{
    convert::{self, Sampled},
    node::v1::{
        self as node, AdoptResponse, DecodeRunRequest, DecodeRunResponse, Joined,
        PrefillRunRequest, PrefillRunResponse, adopt_response as adopt_said,
        decode_client::DecodeClient, decode_run_response as decode_said,
        prefill_client::PrefillClient, prefill_run_response as prefill_said,
    },
};
use baton_types::{Capability, Epoch, FinishReason, NodeId, Role, SequenceSpec};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, future::BoxFuture, stream::BoxStream};
use rand::Rng;
use tonic::{Request, Status};

use super::{
    Trace,
    failure::{Failure, Pair},
};
use crate::cluster::{Peer, Peers, Place};

/// Both nodes' streams. Dropping it cancels what still runs there.
pub(crate) struct Attempt {
    prefill: Side<PrefillRunResponse>,
    decode: Side<DecodeRunResponse>,
    /// The prefill node's token is here.
    prefilled: bool,
    /// The decode node has the pages.
    joined: bool,
    /// That its tokens are made under.
    pub(crate) epoch: Epoch,
    pub(crate) pair: Pair,
}

/// A node's stream, from the call on.
pub(super) struct Side<T> {
    stream: Option<BoxStream<'static, Result<T, Status>>>,
    /// Resolves when the node is no member any more.
    gone: BoxFuture<'static, ()>,
    work: Option<Work>,
}

/// A node that was called, and how far the call came.
#[derive(Clone)]
struct Work {
    peer: Arc<Peer>,
    reached: Arc<AtomicU8>,
}

/// How far a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// There was nobody at the other end.
    Nobody,
    /// It was sent, and wasn't answered.
    Sent,
    /// The node has taken it.
    Taken,
}

impl Work {
    fn new(peer: &Arc<Peer>) -> Self {
        let reached = AtomicU8::new(Reached::Sent as u8);
        Work { peer: Arc::clone(peer), reached: Arc::new(reached) }
    }

    fn note(&self, reached: Reached) {
        self.reached.store(reached as u8, Ordering::Relaxed);
    }

    fn reached(&self) -> Reached {
        match self.reached.load(Ordering::Relaxed) {
            nobody if nobody == Reached::Nobody as u8 => Reached::Nobody,
            sent if sent == Reached::Sent as u8 => Reached::Sent,
            _ => Reached::Taken,
        }
    }
}

/// Whether a call failed before there was a connection for it.
fn never_connected(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// What both nodes are told.
#[derive(Clone, Copy)]
struct Call<'a> {
    spec: &'a SequenceSpec,
    tenant: &'a TenantId,
    trace: Option<Trace>,
}

impl Call<'_> {
    /// Whoever has the capability may pull the pages.
    fn prefill(self, peer: &Arc<Peer>, capability: Option<Capability>) -> Side<PrefillRunResponse> {
        let request = PrefillRunRequest {
            model: peer.hello.model.to_string(),
            generation: peer.hello.generation.0,
            sequence: Some(self.spec.clone().into()),
            capability: capability.map_or_else(Vec::new, |right| convert::to_bytes(right.0)),
        };
        let (request, channel) = (traced(request, self.trace), peer.channel.clone());
        let mut client = PrefillClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Side::open(peer, async move { client.run(request).await })
    }

    /// Without a source the prompt is computed there.
    fn decode(self, peer: &Arc<Peer>, source: Option<convert::Source>) -> Side<DecodeRunResponse> {
        let request = DecodeRunRequest {
            model: peer.hello.model.to_string(),
            generation: peer.hello.generation.0,
            sequence: Some(self.spec.clone().into()),
            source: source.map(Into::into),
            tenant: self.tenant.0.to_string(),
        };
        let (request, channel) = (traced(request, self.trace), peer.channel.clone());
        let mut client = DecodeClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Side::open(peer, async move { client.run(request).await })
    }
}

/// What a node said.
#[derive(Debug)]
pub(crate) enum Word {
    First {
        token: Sampled,
        first: node::FirstToken,
        finish: Option<FinishReason>,
    },
    HandedOver,
    Joined(Joined),
    Tokens {
        tokens: Vec<Sampled>,
        step_us: u64,
    },
    Finished(FinishReason),
    /// The sequence has left the batch with so many tokens, to migrate under this epoch.
    Frozen {
        attempt: Epoch,
        tokens: u32,
    },
}

impl Attempt {
    /// Calls both nodes at the same time; the one that decodes is told where the pages will be.
    pub(crate) fn start(
        place: &Place,
        spec: &SequenceSpec,
        capability: Capability,
        tenant: &TenantId,
        trace: Option<Trace>,
    ) -> Self {
        let call = Call { spec, tenant, trace };
        let (prefill, decode) = match &place.peers {
            Peers::Disaggregated { prefill, decode } => {
                let source = convert::Source {
                    node: prefill.hello.node.clone(),
                    generation: prefill.hello.generation,
                    address: prefill.hello.data_address.clone(),
                    capability,
                };
                (call.prefill(prefill, Some(capability)), call.decode(decode, Some(source)))
            }
            Peers::PrefillOnly { prefill } => (call.prefill(prefill, None), Side::closed()),
            Peers::Local { decode } => (Side::closed(), call.decode(decode, None)),
        };
        let path = &place.placement.path;
        let node = |placed: Option<&Placed>| placed.map(|placed| placed.node.clone());
        let pair = Pair { prefill: node(path.prefill()), decode: node(path.decode()) };
        let prefilled = pair.prefill.is_none();
        Attempt { prefill, decode, prefilled, joined: false, epoch: spec.epoch, pair }
    }

    /// The next word of either node. The decode node isn't listened to while `pause_decode`.
    pub(crate) async fn next(&mut self, pause_decode: bool) -> Result<Word, Failure> {
        loop {
            let decode_is_due = self.decode.is_open() && !pause_decode;
            let word = tokio::select! {
                said = self.prefill.next(), if self.prefill.is_open() => match said {
                    Some(Ok(said)) => prefill_word(&self.pair, said)?,
                    // Whatever becomes of it now, its work is done.
                    Some(Err(_)) if self.prefilled && self.joined => {
                        self.prefill = Side::closed();
                        continue;
                    }
                    None if self.prefilled => {
                        self.prefill = Side::closed();
                        continue;
                    }
                    Some(Err(status)) => {
                        return Err(Failure::refused(&self.pair, Role::Prefill, &status));
                    }
                    None => return Err(Failure::ended(&self.pair, Role::Prefill)),
                },
                said = self.decode.next(), if decode_is_due => match said {
                    Some(Ok(said)) => decode_word(&self.pair, said)?,
                    Some(Err(status)) => {
                        return Err(Failure::refused(&self.pair, Role::Decode, &status));
                    }
                    None => return Err(Failure::ended(&self.pair, Role::Decode)),
                },
                else => return Err(Failure::ended(&self.pair, self.first_role())),
            };
            self.note(&word);
            return Ok(word);
        }
    }

    fn note(&mut self, word: &Word) {
        match word {
            Word::First { finish, .. } => {
                self.prefilled = true;
                if finish.is_some() {
                    self.decode = Side::closed();
                }
            }
            Word::Joined(_) => self.joined = true,
            Word::Finished(_) => self.decode = Side::closed(),
            Word::HandedOver | Word::Tokens { .. } | Word::Frozen { .. } => {}
        }
    }

    /// Who computes the prompt.
    fn first_role(&self) -> Role {
        if self.pair.prefill.is_some() { Role::Prefill } else { Role::Decode }
    }

    /// Whether the sequence decodes on a node that it can leave.
    pub(super) fn is_decoding(&self) -> bool {
        self.prefilled && self.joined && self.decode.is_open()
    }

    /// Nothing is heard of any more.
    pub(super) fn is_silent(&self) -> bool {
        !self.prefill.is_open() && !self.decode.is_open()
    }

    /// Those of the nodes that were called, and how far the calls came.
    pub(super) fn called(&self, nodes: &[NodeId]) -> impl Iterator<Item = (Arc<Peer>, Reached)> {
        let both = [&self.prefill.work, &self.decode.work].into_iter().flatten();
        let both = both.filter(|work| nodes.contains(&work.peer.hello.node));
        both.map(|work| (Arc::clone(&work.peer), work.reached()))
    }

    /// The decode node is lost.
    pub(super) fn close_decode(&mut self) {
        self.decode = Side::closed();
    }

    /// The sequence runs on another node now, under another epoch.
    pub(super) fn moved(&mut self, node: NodeId, decode: Side<DecodeRunResponse>, epoch: Epoch) {
        (self.prefill, self.decode, self.epoch) = (Side::closed(), decode, epoch);
        self.pair.decode = Some(node);
    }

    /// No more tokens will come.
    pub(crate) fn is_over(&self) -> bool {
        self.prefilled && !self.decode.is_open()
    }
}

impl<T: Send + 'static> Side<T> {
    pub(super) fn open<S>(
        peer: &Arc<Peer>,
        call: impl Future<Output = Result<tonic::Response<S>, Status>> + Send + 'static,
    ) -> Self
    where
        S: Stream<Item = Result<T, Status>> + Send + 'static,
    {
        let work = Work::new(peer);
        let called = work.clone();
        let call = call.inspect(move |answer| match answer {
            Ok(_) => called.note(Reached::Taken),
            Err(status) if never_connected(status) => called.note(Reached::Nobody),
            Err(_) => {}
        });
        let stream = futures::stream::once(call).map_ok(tonic::Response::into_inner).try_flatten();
        let gone = peer.gone.clone();
        let gone = Box::pin(async move { gone.cancelled().await });
        Side { stream: Some(stream.boxed()), gone, work: Some(work) }
    }

    pub(super) fn closed() -> Self {
        Side { stream: None, gone: Box::pin(std::future::pending()), work: None }
    }

    fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// The next message. A node that is gone counts as one whose connection broke: a partition
    /// doesn't close it.
    pub(super) async fn next(&mut self) -> Option<Result<T, Status>> {
        let stream = self.stream.as_mut()?;
        tokio::select! {
            biased;
            said = stream.next() => said,
            () = &mut self.gone => Some(Err(Status::unavailable("it left the cluster"))),
        }
    }
}

impl Side<AdoptResponse> {
    /// The rest of it, which is as if the sequence had always run there.
    pub(super) fn run(self) -> Side<DecodeRunResponse> {
        let run = |said: AdoptResponse| match said.event {
            Some(adopt_said::Event::Run(run)) => run,
            // Which nobody understands.
            _ => DecodeRunResponse::default(),
        };
        let stream = self.stream.map(|stream| stream.map_ok(run).boxed());
        Side { stream, gone: self.gone, work: self.work }
    }
}

fn prefill_word(pair: &Pair, said: PrefillRunResponse) -> Result<Word, Failure> {
    let garbled = || Failure::garbled(pair, Role::Prefill);
    match said.event.ok_or_else(garbled)? {
        prefill_said::Event::FirstToken(mut first) => {
            let token = first.token.take().ok_or_else(garbled)?.into();
            let finish = first.finish.map(|reason| finish_reason(reason).ok_or_else(garbled));
            Ok(Word::First { token, first, finish: finish.transpose()? })
        }
        prefill_said::Event::HandedOver(_) => Ok(Word::HandedOver),
    }
}

pub(super) fn decode_word(pair: &Pair, said: DecodeRunResponse) -> Result<Word, Failure> {
    let garbled = || Failure::garbled(pair, Role::Decode);
    Ok(match said.event.ok_or_else(garbled)? {
        decode_said::Event::Joined(joined) => Word::Joined(joined),
        decode_said::Event::Tokens(node::Tokens { tokens, step_us }) => {
            Word::Tokens { tokens: tokens.into_iter().map(Sampled::from).collect(), step_us }
        }
        decode_said::Event::Finished(finished) => {
            Word::Finished(finish_reason(finished.reason).ok_or_else(garbled)?)
        }
        decode_said::Event::Frozen(frozen) => {
            let attempt = frozen.attempt.ok_or_else(garbled)?.into();
            Word::Frozen { attempt, tokens: frozen.tokens }
        }
    })
}

/// The call as part of its request's trace, under a span of its own.
pub(super) fn traced<T>(request: T, trace: Option<Trace>) -> Request<T> {
    let mut request = Request::new(request);
    if let Some(trace) = trace {
        let (name, value) = trace.header(rand::rng().random());
        if let Ok(value) = value.parse() {
            request.metadata_mut().insert(name, value);
        }
    }
    request
}

fn finish_reason(wire: i32) -> Option<FinishReason> {
    FinishReason::try_from(node::FinishReason::try_from(wire).ok()?).ok()
}
