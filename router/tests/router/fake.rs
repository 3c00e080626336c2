//! Nodes that do as they are told. Honest ones make the same tokens wherever they run, as
//! `same-tokens` has it, and refuse a continuation that isn't one.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use baton_node::{
    task,
    transport::{self, Bound, TransportError},
};
use baton_proto::{
    PROTOCOL_VERSION, convert,
    node::v1::{
        self as node, AdoptRequest, AdoptResponse, DecodeRunRequest, DecodeRunResponse, Finished,
        FirstToken, HandedOver, Heartbeat, Hello, JoinRequest, JoinResponse, Joined, OfferRequest,
        OfferResponse, PrefillRunRequest, PrefillRunResponse, RecallRequest, RecallResponse, Token,
        Tokens, decode_run_response as decode_said,
        decode_server::{Decode, DecodeServer},
        join_request::Message,
        prefill_run_response as prefill_said,
        prefill_server::{Prefill, PrefillServer},
        registry_client::RegistryClient,
    },
    status::{Refuse, status},
};
use baton_text::TextAssets;
use baton_types::{Generation, KvDtype, KvLayout, ModelId, NodeHello, NodeId, NumericsId, Role};
use futures::{StreamExt, stream::BoxStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Code, Request, Response, Status, Streaming, service::Routes};

pub(crate) const MODEL: &str = "fake";
pub(crate) const MAX_CONTEXT: u32 = 512;

/// One step of a scripted answer.
#[derive(Debug)]
pub(crate) enum Step {
    /// What an honest node says up to this many tokens, or to the end.
    Honest(Option<u32>),
    /// A token, whatever is right.
    Token {
        index: u32,
        id: u32,
    },
    Finished,
    /// As the first step it refuses the call, later it breaks the stream.
    Fail(Status),
    /// Ends the stream.
    End,
    /// Says nothing more, for ever.
    Hang,
}

/// A refusal as nodes make them.
pub(crate) fn refusal(code: Code, reason: &'static str) -> Step {
    Step::Fail(status(&Scripted(code, reason)))
}

#[derive(Debug, thiserror::Error)]
#[error("scripted: {1}")]
struct Scripted(Code, &'static str);

impl Refuse for Scripted {
    fn code(&self) -> Code {
        self.0
    }

    fn reason(&self) -> &'static str {
        self.1
    }
}

/// The token at `index` of the output of `prompt`: a letter.
pub(crate) fn token(prompt: &[u32], index: u32) -> u32 {
    let sum: u32 = prompt.iter().sum();
    97 + (sum + index * 7 + index * index) % 26
}

/// The text of an output of `tokens` tokens.
pub(crate) fn text(prompt: &str, tokens: u32) -> String {
    let prompt: Vec<u32> = prompt.bytes().map(u32::from).collect();
    (0..tokens).map(|index| char::from(token(&prompt, index) as u8)).collect()
}

/// What a fake was asked, and what it answers: a script for each call, then honestly.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) calls: Vec<node::SequenceSpec>,
    pub(crate) scripts: VecDeque<Vec<Step>>,
    /// Calls whose answers are still open.
    pub(crate) open: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(Arc<Mutex<Book>>);

impl Shared {
    pub(crate) fn script(&self, steps: Vec<Step>) {
        self.0.lock().unwrap().scripts.push_back(steps);
    }

    /// It is honest from now on.
    pub(crate) fn forget_script(&self) {
        self.0.lock().unwrap().scripts.clear();
    }

    pub(crate) fn calls(&self) -> Vec<node::SequenceSpec> {
        self.0.lock().unwrap().calls.clone()
    }

    pub(crate) fn open(&self) -> usize {
        self.0.lock().unwrap().open
    }

    fn next(&self, spec: &node::SequenceSpec) -> Vec<Step> {
        let mut book = self.0.lock().unwrap();
        book.calls.push(spec.clone());
        book.scripts.pop_front().unwrap_or_else(|| vec![Step::Honest(None)])
    }
}

/// Counts an answer as open until it is dropped.
struct Open(Shared);

impl Open {
    fn new(shared: &Shared) -> Self {
        shared.0.lock().unwrap().open += 1;
        Open(shared.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().open -= 1;
    }
}

/// A node that serves and is a member until dropped.
#[derive(Debug)]
pub(crate) struct FakeNode {
    pub(crate) shared: Shared,
    pub(crate) hello: Hello,
    /// What it says of itself, again and again.
    pub(crate) state: watch::Sender<Heartbeat>,
    beating: AbortOnDropHandle<()>,
    _beats: mpsc::Sender<JoinRequest>,
    pub(crate) answers: Streaming<JoinResponse>,
    _server: AbortOnDropHandle<Result<(), TransportError>>,
}

impl FakeNode {
    pub(crate) async fn join(control: &str, role: Role, name: &str) -> Self {
        FakeNode::join_as(control, role, name, |_| {}).await
    }

    /// Joins with a hello that `change` has had its way with.
    pub(crate) async fn join_as(
        control: &str,
        role: Role,
        name: &str,
        change: impl FnOnce(&mut Hello),
    ) -> Self {
        let shared = Shared::default();
        let bound = Bound::new("fake", [127, 0, 0, 1].into(), 0).await.unwrap();
        let mut hello = hello(role, name, &format!("http://{}", bound.address));
        change(&mut hello);
        let routes = match role {
            Role::Prefill => Routes::new(PrefillServer::new(Fake(shared.clone()))),
            Role::Decode => Routes::new(DecodeServer::new(Fake(shared.clone()))),
        };
        let server = task::owned(transport::serve(bound, routes, CancellationToken::new()));
        let (beats, answers) = register(control, &hello).await.unwrap();
        let whole = Heartbeat { free_blocks: hello.total_blocks, ..Heartbeat::default() };
        let state = watch::Sender::new(whole);
        let beating = task::owned(beat(beats.clone(), state.subscribe()));
        FakeNode { shared, hello, state, beating, _beats: beats, answers, _server: server }
    }

    /// Says nothing of itself any more, though its connection stays.
    pub(crate) fn fall_silent(&self) {
        self.beating.abort();
    }
}

async fn beat(beats: mpsc::Sender<JoinRequest>, state: watch::Receiver<Heartbeat>) {
    loop {
        let message = Some(Message::Heartbeat(state.borrow().clone()));
        if beats.send(JoinRequest { message }).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Says hello and waits for the welcome.
pub(crate) async fn register(
    control: &str,
    hello: &Hello,
) -> Result<(mpsc::Sender<JoinRequest>, Streaming<JoinResponse>), Status> {
    let mut client = RegistryClient::new(transport::dial(control).unwrap());
    let (beats, requests) = mpsc::channel(4);
    let message = Some(Message::Hello(hello.clone()));
    beats.try_send(JoinRequest { message }).unwrap();
    let mut answers = client.join(ReceiverStream::new(requests)).await?.into_inner();
    answers.message().await?.expect("a welcome");
    Ok((beats, answers))
}

fn hello(role: Role, name: &str, address: &str) -> Hello {
    let hello = NodeHello {
        protocol_version: PROTOCOL_VERSION,
        node: NodeId::from(name),
        generation: Generation(1),
        role,
        model: ModelId::from(MODEL),
        numerics: NumericsId(7),
        layout: KvLayout {
            layers: 2,
            kv_heads: 1,
            head_dim: 4,
            block_tokens: 16,
            dtype: KvDtype::F16,
        },
        max_context: MAX_CONTEXT,
        total_blocks: 64,
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

#[derive(Debug)]
struct Fake(Shared);

/// Refuses a continuation that isn't the output's beginning.
fn check(spec: &node::SequenceSpec) -> Result<(), Status> {
    let (prompt, emitted) = spec.tokens.split_at(spec.prompt_len as usize);
    let right = (0..).map(|index| token(prompt, index));
    if emitted.iter().copied().eq(right.take(emitted.len())) {
        return Ok(());
    }
    Err(status(&Scripted(Code::InvalidArgument, "WRONG_CONTINUATION")))
}

fn honest(spec: &node::SequenceSpec, index: u32) -> Token {
    let id = token(&spec.tokens[..spec.prompt_len as usize], index);
    Token { index, id, logits_digest: u64::from(index) + 1000, logprobs: None }
}

fn play<R: Send + 'static>(
    shared: &Shared,
    steps: Vec<Result<R, Status>>,
    hang: bool,
) -> BoxStream<'static, Result<R, Status>> {
    let open = Open::new(shared);
    let said = futures::stream::iter(steps);
    let rest: BoxStream<'static, Result<R, Status>> =
        if hang { futures::stream::pending().boxed() } else { futures::stream::empty().boxed() };
    said.chain(rest)
        .inspect(move |_| {
            let _open = &open;
        })
        .boxed()
}

/// The stream of `steps`, each turned into messages by `say`.
fn answer<R: Send + 'static>(
    shared: &Shared,
    spec: node::SequenceSpec,
    say: impl Fn(&node::SequenceSpec, &Step) -> Vec<R>,
) -> Result<Response<BoxStream<'static, Result<R, Status>>>, Status> {
    let steps = shared.next(&spec);
    if let Some(Step::Fail(refused)) = steps.first() {
        return Err(refused.clone());
    }
    check(&spec)?;
    let mut messages = Vec::new();
    for step in &steps {
        match step {
            Step::Fail(broken) => messages.push(Err(broken.clone())),
            Step::Hang => return Ok(Response::new(play(shared, messages, true))),
            Step::End => break,
            _ => messages.extend(say(&spec, step).into_iter().map(Ok)),
        }
    }
    Ok(Response::new(play(shared, messages, false)))
}

#[tonic::async_trait]
impl Prefill for Fake {
    type RunStream = BoxStream<'static, Result<PrefillRunResponse, Status>>;

    async fn run(
        &self,
        request: Request<PrefillRunRequest>,
    ) -> Result<Response<Self::RunStream>, Status> {
        let spec = request.into_inner().sequence.unwrap();
        answer(&self.0, spec, |spec, step| {
            let first = |token| {
                let is_last = spec.tokens.len() as u32 + 1 == spec.prompt_len + spec.max_tokens;
                prefill_said::Event::FirstToken(FirstToken {
                    token: Some(token),
                    cached_tokens: 3,
                    queue_us: 11,
                    prefill_us: 22,
                    finish: is_last.then_some(node::FinishReason::Length.into()),
                    prompt_logprobs: Vec::new(),
                })
            };
            let handed_over = prefill_said::Event::HandedOver(HandedOver { pages: 4, bytes: 64 });
            let next = spec.tokens.len() as u32 - spec.prompt_len;
            let events = match step {
                Step::Honest(None) => vec![first(honest(spec, next)), handed_over],
                Step::Honest(Some(_)) => vec![first(honest(spec, next))],
                Step::Token { index, id } => {
                    vec![first(Token { index: *index, id: *id, logits_digest: 0, logprobs: None })]
                }
                _ => vec![handed_over],
            };
            events.into_iter().map(|event| PrefillRunResponse { event: Some(event) }).collect()
        })
    }
}

#[tonic::async_trait]
impl Decode for Fake {
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

    type RunStream = BoxStream<'static, Result<DecodeRunResponse, Status>>;

    async fn run(
        &self,
        request: Request<DecodeRunRequest>,
    ) -> Result<Response<Self::RunStream>, Status> {
        let request = request.into_inner();
        let source = request.source.expect("pages come from somewhere");
        assert_eq!(convert::capability(&source.capability).map(|_| ()), Ok(()));
        answer(&self.0, request.sequence.unwrap(), |spec, step| {
            let next = spec.tokens.len() as u32 - spec.prompt_len + 1;
            let joined = decode_said::Event::Joined(Joined {
                exposed_transfer_us: 33,
                admission_us: 44,
                pages: 4,
                bytes: 64,
                cached_tokens: 0,
            });
            let tokens = |tokens| decode_said::Event::Tokens(Tokens { tokens, step_us: 55 });
            let finished = decode_said::Event::Finished(Finished {
                reason: node::FinishReason::Length.into(),
            });
            let run = |end: u32| (next..end).map(|i| tokens(vec![honest(spec, i)]));
            let events = match step {
                Step::Honest(None) => {
                    [joined].into_iter().chain(run(spec.max_tokens)).chain([finished]).collect()
                }
                Step::Honest(Some(end)) => [joined].into_iter().chain(run(*end)).collect(),
                Step::Token { index, id } => {
                    vec![tokens(vec![Token {
                        index: *index,
                        id: *id,
                        logits_digest: 0,
                        logprobs: None,
                    }])]
                }
                _ => vec![finished],
            };
            events.into_iter().map(|event| DecodeRunResponse { event: Some(event) }).collect()
        })
    }
}
