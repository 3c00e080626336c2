//! `Prefill.Run`: queued → prefilling → held → released, expired or aborted.
//!
//! Each state's resources belong to the request's task: dropping the stream at any point cancels the
//! sequence, withdraws the offer and gives the blocks back.

use std::{sync::Arc, time::Duration};

use baton_kv_cache::BlockRef;
use baton_kv_transfer::{Exporter, FirstToken, Offered, Outcome};
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
        self as proto, PrefillRunRequest, PrefillRunResponse, prefill_run_response::Event,
        prefill_server::Prefill,
    },
};
use baton_scheduler::Goal;
use baton_types::{FinishReason, Role, SequenceSpec, TokenLogprobs};
use tonic::{Request, Response, Status};

use crate::offer::{Offerer, Offering, Terms};

/// `baton.node.v1.Prefill`.
#[derive(Debug)]
pub struct PrefillService {
    node: Arc<Node>,
    exporter: Exporter,
}

impl PrefillService {
    pub(crate) fn new(node: Arc<Node>, exporter: Exporter) -> Self {
        PrefillService { node, exporter }
    }

    async fn start(
        &self,
        request: PrefillRunRequest,
        trace: Option<String>,
    ) -> Result<Responses<PrefillRunResponse>, RunError> {
        let inside = self.node.gate.enter(Role::Prefill, &request.model, request.generation)?;
        let spec = wire::sequence_spec(request.sequence)?;
        let capability = match request.capability.as_slice() {
            [] => None,
            bytes => Some(wire::capability("capability", bytes)?),
        };
        let span = tracing::info_span!("prefill", request = %spec.key, epoch = %spec.epoch, trace);
        let terms = |capability| terms(&spec, capability, &self.node);
        let offerer = capability.map(|c| Offerer::new(self.exporter.clone(), terms(c)));
        let (watcher, offering) = match offerer {
            Some((offerer, offering)) => (Some(Box::new(offerer) as _), Some(offering)),
            None => (None, None),
        };
        let submission = self.node.submission(spec, Goal::FirstToken).await?;
        let running = self.node.steps.submit(submission, watcher).await?;
        let node = Arc::clone(&self.node);
        Ok(respond(inside, span, |out| run(node, running, offering, out)))
    }
}

fn terms(spec: &SequenceSpec, capability: baton_types::Capability, node: &Node) -> Terms {
    Terms {
        key: spec.key,
        epoch: spec.epoch,
        capability,
        tokens: spec.tokens.len() as u32,
        layers: node.info.layout.layers,
    }
}

#[tonic::async_trait]
impl Prefill for PrefillService {
    type RunStream = Responses<PrefillRunResponse>;

    async fn run(
        &self,
        request: Request<PrefillRunRequest>,
    ) -> Result<Response<Self::RunStream>, Status> {
        let trace = wire::trace(request.metadata());
        Ok(Response::new(self.start(request.into_inner(), trace).await?))
    }
}

/// What the prefill made.
struct Prefilled {
    token: proto::Token,
    prompt_logprobs: Vec<TokenLogprobs>,
    cached_tokens: u32,
    queue: Duration,
    prefill: Duration,
    /// More tokens are to come, and these blocks hold the prompt; or why not.
    rest: Result<Vec<BlockRef>, FinishReason>,
}

async fn run(
    node: Arc<Node>,
    mut running: Running,
    offering: Option<Offering>,
    out: Outgoing<PrefillRunResponse>,
) -> Result<(), Cut> {
    let (cached_tokens, queue) = admitted(&mut running).await?;
    // The step thread made the offer before it told of the admission.
    let offered = match offering {
        Some(offering) => {
            let offered = offering.await.map_err(|_gone| RunError::StepLoopEnded)?;
            Some(offered.map_err(|error| RunError::Offer(error.to_string()))?)
        }
        None => None,
    };
    let Prefilled { token, prompt_logprobs, cached_tokens, queue, prefill, rest } =
        prefilled(&mut running, cached_tokens, queue).await?;
    let first =
        FirstToken { token: baton_types::TokenId(token.id), logits_digest: token.logits_digest };
    let event = proto::FirstToken {
        token: Some(token),
        cached_tokens,
        queue_us: wire::micros(queue),
        prefill_us: wire::micros(prefill),
        finish: rest.as_ref().err().map(|reason| wire::finish_reason(*reason)),
        prompt_logprobs: prompt_logprobs.into_iter().map(proto::TokenLogprobs::from).collect(),
    };
    match (rest, offered) {
        (Ok(blocks), Some(offered)) => {
            offered.finish(first);
            out.send(response(Event::FirstToken(event))).await?;
            hand_over(&node, blocks, offered, &out).await
        }
        // Nobody will pull: whatever is held goes back before the caller hears.
        (Ok(blocks), None) => {
            drop(blocks);
            Ok(out.send(response(Event::FirstToken(event))).await?)
        }
        (Err(_), offered) => {
            drop(offered);
            Ok(out.send(response(Event::FirstToken(event))).await?)
        }
    }
}

async fn admitted(running: &mut Running) -> Result<(u32, Duration), RunError> {
    match running.next().await {
        Some(SequenceEvent::Admitted { cached_tokens, queue }) => Ok((cached_tokens, queue)),
        Some(SequenceEvent::Failed { error }) => Err(error.into()),
        _ => Err(RunError::StepLoopEnded),
    }
}

async fn prefilled(
    running: &mut Running,
    cached_tokens: u32,
    queue: Duration,
) -> Result<Prefilled, RunError> {
    let admitted = tokio::time::Instant::now();
    let (mut sampled, mut scores) = (None, Vec::new());
    while let Some(event) = running.next().await {
        let (prefill, rest) = match event {
            SequenceEvent::Admitted { .. } | SequenceEvent::Frozen { .. } => continue,
            SequenceEvent::Token {
                index, token, logits_digest, logprobs, prompt_logprobs, ..
            } => {
                scores = prompt_logprobs;
                sampled = Some(Sampled { index, token, logits_digest, logprobs }.into());
                continue;
            }
            SequenceEvent::Prefilled { blocks, prefill } => (prefill, Ok(blocks)),
            SequenceEvent::Finished { reason } => (admitted.elapsed(), Err(reason)),
            SequenceEvent::Failed { error } => return Err(error.into()),
        };
        let token = sampled.ok_or(RunError::StepLoopEnded)?;
        return Ok(Prefilled {
            token,
            prompt_logprobs: scores,
            cached_tokens,
            queue,
            prefill,
            rest,
        });
    }
    Err(RunError::StepLoopEnded)
}

/// Holds the blocks until the puller has them, the lease is over, or the caller hangs up.
async fn hand_over(
    node: &Node,
    blocks: Vec<BlockRef>,
    offered: Arc<Offered>,
    out: &Outgoing<PrefillRunResponse>,
) -> Result<(), Cut> {
    let transfers = node.metrics.transfers();
    let held = transfers.hold();
    let outcome = offered.outcome().await;
    drop((held, blocks, offered));
    let error = match outcome {
        Outcome::Released { pages, bytes } => {
            transfers.moved(pages, bytes);
            let event = Event::HandedOver(proto::HandedOver { pages, bytes });
            return Ok(out.send(response(event)).await?);
        }
        Outcome::Expired => RunError::LeaseExpired { lease: node.config.transfer.lease.0 },
        Outcome::Aborted { reason } => RunError::HandOverAborted { reason: reason.to_string() },
    };
    transfers.failed(error.reason());
    Err(error.into())
}

fn response(event: Event) -> PrefillRunResponse {
    PrefillRunResponse { event: Some(event) }
}
