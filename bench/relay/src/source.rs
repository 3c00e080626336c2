//! Nodes that pace tokens and do nothing else.

use std::{sync::Arc, sync::Mutex, time::Duration};

use anyhow::Context;
use baton_node::{
    task,
    transport::{self, Bound},
};
use baton_proto::{
    PROTOCOL_VERSION,
    node::v1::{
        self as node, AdoptRequest, AdoptResponse, DecodeRunRequest, DecodeRunResponse, FirstToken,
        HandedOver, Heartbeat, Hello, JoinRequest, JoinResponse, Joined, OfferRequest,
        OfferResponse, PrefillRunRequest, PrefillRunResponse, RecallRequest, RecallResponse, Token,
        Tokens,
        decode_run_response::Event as Decoded,
        decode_server::{Decode, DecodeServer},
        join_request::Message,
        prefill_run_response::Event as Prefilled,
        prefill_server::{Prefill, PrefillServer},
        registry_client::RegistryClient,
    },
};
use baton_text::TextAssets;
use baton_types::{Generation, KvDtype, KvLayout, ModelId, NodeHello, NodeId, NumericsId, Role};
use futures::{StreamExt, stream::BoxStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Request, Response, Status, Streaming, service::Routes};

use crate::load::{BATCH, Load, STEP, TOKENS};

pub(crate) const MODEL: &str = "paced";
/// The letter all tokens are.
const LETTER: u32 = b'x' as u32;

/// All nodes: one server, one membership each, one pace.
pub(crate) struct Source {
    pub(crate) address: String,
    _tasks: Vec<AbortOnDropHandle<()>>,
    _answers: Vec<Streaming<JoinResponse>>,
}

type Answers<T> = BoxStream<'static, Result<T, Status>>;
type Sender = mpsc::Sender<Result<DecodeRunResponse, Status>>;

/// A stream under way.
struct Stream {
    number: usize,
    next: usize,
    out: Sender,
}

#[derive(Clone)]
struct Nodes {
    /// By decode node.
    streams: Arc<Vec<Mutex<Vec<Stream>>>>,
}

impl Source {
    pub(crate) async fn start(load: &Load, control: &str) -> anyhow::Result<Self> {
        let bound = Bound::new("paced", [127, 0, 0, 1].into(), 0).await?;
        let address = format!("http://{}", bound.address);
        let streams = Arc::new((0..load.nodes()).map(|_| Mutex::default()).collect());
        let nodes = Nodes { streams };
        let routes = Routes::new(DecodeServer::new(nodes.clone()))
            .add_service(PrefillServer::new(nodes.clone()));
        let serving = transport::serve(bound, routes, CancellationToken::new());
        let mut tasks = vec![task::owned(async {
            // It ends with the process.
            let _ = serving.await;
        })];
        let mut answers = Vec::new();
        let prefill = (Role::Prefill, "prefill".to_owned());
        let decode = (0..load.nodes()).map(|at| (Role::Decode, format!("decode-{at}")));
        for (role, name) in [prefill].into_iter().chain(decode) {
            let (beating, welcome) = join(control, &hello(role, &name, &address)).await?;
            tasks.push(beating);
            answers.push(welcome);
        }
        tasks.push(task::owned(pace(nodes, load.clone())));
        Ok(Source { address, _tasks: tasks, _answers: answers })
    }
}

/// Steps all decode nodes, one after another, each once in [`STEP`].
async fn pace(nodes: Nodes, load: Load) {
    let mut ticks = tokio::time::interval(STEP / nodes.streams.len() as u32);
    for at in (0..nodes.streams.len()).cycle() {
        ticks.tick().await;
        let mut streams =
            nodes.streams[at].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        streams.retain_mut(|stream| {
            if stream.next >= TOKENS {
                return false;
            }
            let index = stream.next as u32;
            let token = Token { index, id: LETTER, logits_digest: 1, logprobs: None };
            let event = Decoded::Tokens(Tokens { tokens: vec![token], step_us: 1 });
            load.sends(stream.number, stream.next);
            stream.next += 1;
            stream.out.try_send(Ok(DecodeRunResponse { event: Some(event) })).is_ok()
        });
    }
}

/// The prompt is the stream's number.
fn number(spec: &node::SequenceSpec) -> Result<usize, Status> {
    let digits =
        spec.tokens.iter().filter_map(|&token| char::from_digit(token.wrapping_sub(48), 10));
    let digits: String = digits.collect();
    digits.parse().map_err(|_| Status::invalid_argument("the prompt is no number"))
}

#[tonic::async_trait]
impl Prefill for Nodes {
    type RunStream = Answers<PrefillRunResponse>;

    async fn run(
        &self,
        _request: Request<PrefillRunRequest>,
    ) -> Result<Response<Self::RunStream>, Status> {
        let token = Token { index: 0, id: LETTER, logits_digest: 1, logprobs: None };
        let first = FirstToken { token: Some(token), ..FirstToken::default() };
        let events = [Prefilled::FirstToken(first), Prefilled::HandedOver(HandedOver::default())];
        let answers = events.map(|event| Ok(PrefillRunResponse { event: Some(event) }));
        Ok(Response::new(futures::stream::iter(answers).boxed()))
    }
}

#[tonic::async_trait]
impl Decode for Nodes {
    type OfferStream = BoxStream<'static, Result<OfferResponse, Status>>;
    type AdoptStream = BoxStream<'static, Result<AdoptResponse, Status>>;

    async fn recall(
        &self,
        _request: Request<RecallRequest>,
    ) -> Result<Response<RecallResponse>, Status> {
        Ok(Response::new(RecallResponse::default()))
    }

    async fn offer(
        &self,
        _request: Request<Streaming<OfferRequest>>,
    ) -> Result<Response<Self::OfferStream>, Status> {
        Err(Status::unimplemented("it takes no part in live migration"))
    }

    async fn adopt(
        &self,
        _request: Request<Streaming<AdoptRequest>>,
    ) -> Result<Response<Self::AdoptStream>, Status> {
        Err(Status::unimplemented("it takes no part in live migration"))
    }

    type RunStream = Answers<DecodeRunResponse>;

    async fn run(
        &self,
        request: Request<DecodeRunRequest>,
    ) -> Result<Response<Self::RunStream>, Status> {
        let spec = request.into_inner().sequence.unwrap_or_default();
        let number = number(&spec)?;
        let (out, answers) = mpsc::channel(TOKENS);
        let joined = DecodeRunResponse { event: Some(Decoded::Joined(Joined::default())) };
        out.try_send(Ok(joined)).map_err(|_| Status::internal("a new channel is full"))?;
        let node = &self.streams[(number / BATCH) % self.streams.len()];
        let mut streams = node.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        streams.push(Stream { number, next: 1, out });
        Ok(Response::new(ReceiverStream::new(answers).boxed()))
    }
}

async fn join(
    control: &str,
    hello: &Hello,
) -> anyhow::Result<(AbortOnDropHandle<()>, Streaming<JoinResponse>)> {
    let mut client = RegistryClient::new(transport::dial(control)?);
    let mut tries = tokio::time::interval(Duration::from_millis(50));
    loop {
        tries.tick().await;
        let (beats, requests) = mpsc::channel(4);
        beats.try_send(JoinRequest { message: Some(Message::Hello(hello.clone())) })?;
        // The router may still be starting.
        let Ok(answers) = client.join(ReceiverStream::new(requests)).await else { continue };
        let mut answers = answers.into_inner();
        answers.message().await?.context("a welcome")?;
        let whole = Heartbeat { free_blocks: hello.total_blocks, ..Heartbeat::default() };
        let beating = task::owned(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(500));
            loop {
                ticks.tick().await;
                let message = Some(Message::Heartbeat(whole.clone()));
                if beats.send(JoinRequest { message }).await.is_err() {
                    return;
                }
            }
        });
        return Ok((beating, answers));
    }
}

fn hello(role: Role, name: &str, address: &str) -> Hello {
    let layout =
        KvLayout { layers: 2, kv_heads: 1, head_dim: 4, block_tokens: 16, dtype: KvDtype::F16 };
    let hello = NodeHello {
        protocol_version: PROTOCOL_VERSION,
        node: NodeId::from(name),
        generation: Generation(1),
        role,
        model: ModelId::from(MODEL),
        numerics: NumericsId(7),
        layout,
        max_context: 2 * TOKENS as u32,
        total_blocks: 1 << 20,
        max_batch_tokens: 512,
        chunk_tokens: 256,
        max_running: 64,
        weights_bytes: 0,
        control_address: address.to_owned(),
        data_address: "127.0.0.1:9".to_owned(),
        metrics_address: "127.0.0.1:9".to_owned(),
    };
    Hello { text: Some(TextAssets::bytes().into()), ..hello.into() }
}
