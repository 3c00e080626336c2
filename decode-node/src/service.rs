//! `Decode.Run`: reserved → pulling → runnable → running → finished.
//!
//! Reserving happens before the call is answered, so that a full node refuses at once. Everything
//! after it belongs to the request's task: dropping the stream at any point aborts the pull, cancels
//! the sequence and gives the blocks back.

use std::{sync::Arc, time::Duration};

use baton_kv_transfer::Exporter;
use baton_node::{
    Node,
    error::RunError,
    respond::{Cut, Outgoing, Responses, respond},
    steps::{Running, SequenceEvent},
    wire,
};
use baton_proto::{
    convert::Sampled,
    node::v1::{
        self as proto, AdoptRequest, AdoptResponse, DecodeRunRequest, DecodeRunResponse,
        OfferRequest, OfferResponse, RecallRequest, RecallResponse, adopt_request,
        decode_run_response::Event, decode_server::Decode, offer_request,
    },
};
use baton_scheduler::{Goal, ImportedToken, Start, Submission};
use baton_types::{ChoiceIndex, FinishReason, RequestId, Role, SequenceSpec, TokenId};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    adopt::{self, Coming},
    import::{Imported, Imports, Reserved, Source, remaining},
    kept::{KeptOutputs, Making},
    offer::{self, Terms},
};

/// Tokens sent in one message at most.
const BATCH: usize = 64;

/// `baton.node.v1.Decode`.
#[derive(Debug)]
pub struct DecodeService {
    node: Arc<Node>,
    imports: Imports,
    exporter: Exporter,
    /// What was made for callers that are gone.
    kept: Arc<KeptOutputs>,
    /// Sequences that may come and go at the same time.
    coming: Arc<Semaphore>,
    going: Arc<Semaphore>,
}

impl DecodeService {
    pub(crate) fn new(node: Arc<Node>, imports: Imports, exporter: Exporter) -> Self {
        let most = node.config.transfer.max_migrations as usize;
        let [coming, going] = [(); 2].map(|()| Arc::new(Semaphore::new(most)));
        DecodeService { node, imports, exporter, kept: Arc::default(), coming, going }
    }

    async fn offer(
        &self,
        mut words: Streaming<OfferRequest>,
    ) -> Result<Responses<OfferResponse>, RunError> {
        let first = words.message().await.ok().flatten().and_then(|word| word.message);
        let Some(offer_request::Message::Start(start)) = first else {
            return Err(RunError::invalid("message", "the first must be the start"));
        };
        self.node.gate.check(Role::Decode, &start.model, start.generation)?;
        let terms = Terms::parse(start)?;
        let slot = self.slot(&self.going, "away from")?;
        let (node, exporter) = (Arc::clone(&self.node), self.exporter.clone());
        let span = tracing::info_span!("offer", request = %terms.key);
        Ok(respond(slot, span, |out| offer::serve(node, exporter, terms, words, out)))
    }

    async fn adopt(
        &self,
        mut words: Streaming<AdoptRequest>,
        trace: Option<String>,
    ) -> Result<Responses<AdoptResponse>, RunError> {
        let first = words.message().await.ok().flatten().and_then(|word| word.message);
        let Some(adopt_request::Message::Start(start)) = first else {
            return Err(RunError::invalid("message", "the first must be the start"));
        };
        let inside = self.node.gate.enter(Role::Decode, &start.model, start.generation)?;
        let spec = wire::sequence_spec(start.sequence)?;
        let source = start.source.ok_or_else(|| RunError::invalid("source", "it is missing"))?;
        let source = Source::parse(source)?;
        let slot = self.slot(&self.coming, "to")?;
        let reserved = self.imports.reserve_growing(&spec)?;
        let (node, imports) = (Arc::clone(&self.node), self.imports.clone());
        let span = tracing::info_span!("adopt", request = %spec.key, epoch = %spec.epoch, trace);
        let (kept, tenant) = (Arc::clone(&self.kept), start.tenant.into());
        let coming = Coming { spec, source, reserved, slot, kept, tenant };
        Ok(respond(inside, span, |out| adopt::serve(node, imports, coming, words, out)))
    }

    /// A place for one more migration.
    fn slot(
        &self,
        slots: &Arc<Semaphore>,
        way: &'static str,
    ) -> Result<OwnedSemaphorePermit, RunError> {
        let max = self.node.config.transfer.max_migrations;
        let slot = Arc::clone(slots).try_acquire_owned();
        slot.map_err(|_| RunError::MigrationsFull { way, max })
    }

    async fn start(
        &self,
        request: DecodeRunRequest,
        trace: Option<String>,
    ) -> Result<Responses<DecodeRunResponse>, RunError> {
        let inside = self.node.gate.enter(Role::Decode, &request.model, request.generation)?;
        let spec = wire::sequence_spec(request.sequence)?;
        let span = tracing::info_span!("decode", request = %spec.key, epoch = %spec.epoch, trace);
        let Some(source) = request.source else {
            let making = Making::new(&self.kept, &spec, request.tenant.into());
            let submission = self.node.submission(spec, Goal::Finish).await?;
            let running = self.node.steps.submit(submission, None).await?;
            let joined = proto::Joined::default();
            return Ok(respond(inside, span, |out| stream(running, making, joined, out)));
        };
        let source = Source::parse(source)?;
        let reserved = self.imports.reserve(&spec)?;
        let (node, imports) = (Arc::clone(&self.node), self.imports.clone());
        let making = Making::new(&self.kept, &spec, request.tenant.into());
        Ok(respond(inside, span, |out| {
            import_and_stream(node, imports, spec, source, reserved, making, out)
        }))
    }

    fn recall(&self, request: &RecallRequest) -> Result<RecallResponse, RunError> {
        let id = request.request_id.as_slice().try_into();
        let id = id.map_err(|_| RunError::invalid("request_id", "it must have 16 bytes"))?;
        let outputs = self.kept.of(RequestId(u128::from_be_bytes(id)), &request.tenant);
        let output = |(choice, tokens): (ChoiceIndex, Vec<TokenId>)| proto::KeptOutput {
            choice: choice.0.into(),
            tokens: tokens.into_iter().map(|token| token.0).collect(),
        };
        Ok(RecallResponse { outputs: outputs.into_iter().map(output).collect() })
    }
}

#[tonic::async_trait]
impl Decode for DecodeService {
    type RunStream = Responses<DecodeRunResponse>;
    type OfferStream = Responses<OfferResponse>;
    type AdoptStream = Responses<AdoptResponse>;

    async fn offer(
        &self,
        request: Request<Streaming<OfferRequest>>,
    ) -> Result<Response<Self::OfferStream>, Status> {
        Ok(Response::new(self.offer(request.into_inner()).await?))
    }

    async fn adopt(
        &self,
        request: Request<Streaming<AdoptRequest>>,
    ) -> Result<Response<Self::AdoptStream>, Status> {
        let trace = wire::trace(request.metadata());
        Ok(Response::new(self.adopt(request.into_inner(), trace).await?))
    }

    async fn recall(
        &self,
        request: Request<RecallRequest>,
    ) -> Result<Response<RecallResponse>, Status> {
        Ok(Response::new(self.recall(request.get_ref())?))
    }

    async fn run(
        &self,
        request: Request<DecodeRunRequest>,
    ) -> Result<Response<Self::RunStream>, Status> {
        let trace = wire::trace(request.metadata());
        Ok(Response::new(self.start(request.into_inner(), trace).await?))
    }
}

async fn import_and_stream(
    node: Arc<Node>,
    imports: Imports,
    mut spec: SequenceSpec,
    source: Source,
    reserved: Reserved,
    mut making: Making,
    out: Outgoing<DecodeRunResponse>,
) -> Result<(), Cut> {
    let arrived = Instant::now();
    let pulling = imports.pull(&spec, source, reserved);
    let (imported, constraint) = tokio::try_join!(pulling, node.constraint(&spec))?;
    let Imported { blocks, cached_tokens, pulled } = imported;
    let joined = proto::Joined {
        exposed_transfer_us: wire::micros(pulled.exposed),
        admission_us: 0,
        pages: pulled.pages,
        bytes: pulled.bytes,
        cached_tokens,
    };
    let first = pulled.first.token;
    making.push(first);
    if let Some(reason) = end_of(&spec, first) {
        making.over();
        drop(blocks);
        out.send(response(Event::Joined(joined))).await?;
        return Ok(out.send(finished(reason)).await?);
    }
    spec.deadline = remaining(spec.deadline, arrived)?;
    // Whoever computed the prompt has told them.
    spec.sampling.prompt_logprobs = None;
    let first = ImportedToken { token: first };
    let start = Start::Imported { blocks, cached_tokens, first };
    let submission = Submission { spec, start, goal: Goal::Finish, constraint };
    let running = node.steps.submit(submission, None).await?;
    stream(running, making, joined, out).await
}

/// Whether the token another node sampled was the last.
fn end_of(spec: &SequenceSpec, first: TokenId) -> Option<FinishReason> {
    if spec.stop_tokens.contains(first) {
        return Some(FinishReason::Stop);
    }
    (spec.next_index() + 1 >= spec.max_tokens).then_some(FinishReason::Length)
}

/// Streams a sequence's tokens, as many in a message as there are when the network is ready.
pub(crate) async fn stream<T>(
    mut running: Running,
    mut making: Making,
    joined: proto::Joined,
    out: Outgoing<T>,
) -> Result<(), Cut>
where
    DecodeRunResponse: Into<T>,
{
    let mut joined = Some(joined);
    let mut events = Vec::with_capacity(BATCH);
    while running.next_many(&mut events, BATCH).await > 0 {
        let mut batch = proto::Tokens::default();
        for event in events.drain(..) {
            match event {
                SequenceEvent::Admitted { cached_tokens, queue } => {
                    if let Some(joined) = joined.take() {
                        let joined = admitted(joined, cached_tokens, queue);
                        out.send(response(Event::Joined(joined))).await?;
                    }
                }
                SequenceEvent::Token { index, token, logits_digest, logprobs, step, .. } => {
                    making.push(token);
                    batch.tokens.push(Sampled { index, token, logits_digest, logprobs }.into());
                    batch.step_us = wire::micros(step);
                }
                SequenceEvent::Frozen { attempt, tokens } => {
                    flush(&mut batch, &out).await?;
                    let frozen = proto::Frozen { attempt: Some(attempt.into()), tokens };
                    out.send(response(Event::Frozen(frozen))).await?;
                }
                SequenceEvent::Finished { reason } => {
                    flush(&mut batch, &out).await?;
                    out.send(finished(reason)).await?;
                    making.over();
                    return Ok(());
                }
                SequenceEvent::Failed { error } => {
                    flush(&mut batch, &out).await?;
                    return Err(error.into());
                }
                SequenceEvent::Prefilled { .. } => {
                    unreachable!("the goal is the sequence's end")
                }
            }
        }
        flush(&mut batch, &out).await?;
    }
    Err(RunError::StepLoopEnded.into())
}

fn admitted(joined: proto::Joined, cached_tokens: u32, queue: Duration) -> proto::Joined {
    let cached_tokens = joined.cached_tokens.max(cached_tokens);
    proto::Joined { admission_us: wire::micros(queue), cached_tokens, ..joined }
}

async fn flush<T>(batch: &mut proto::Tokens, out: &Outgoing<T>) -> Result<(), Cut>
where
    DecodeRunResponse: Into<T>,
{
    if !batch.tokens.is_empty() {
        out.send(response(Event::Tokens(std::mem::take(batch)))).await?;
    }
    Ok(())
}

fn finished(reason: FinishReason) -> DecodeRunResponse {
    let reason = wire::finish_reason(reason);
    response(Event::Finished(proto::Finished { reason }))
}

fn response(event: Event) -> DecodeRunResponse {
    DecodeRunResponse { event: Some(event) }
}
