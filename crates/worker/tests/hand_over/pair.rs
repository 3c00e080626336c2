//! A prefill and a decode node in this process, driven over loopback as a router would.

use std::time::Duration;

use baton_kv_cache::KvCache;
use baton_node::{
    Node, Serving,
    config::{EngineConfig, KvConfig, NodeConfig},
    transport,
};
use baton_proto::node::v1::{
    self as proto, DecodeRunRequest, DecodeRunResponse, PrefillRunRequest, PrefillRunResponse,
    decode_client::DecodeClient, decode_run_response, prefill_client::PrefillClient,
    prefill_run_response,
};
use baton_scheduler::{
    Engine, Event, Goal, Scheduler, SchedulerConfig, Start, Submission, Unobserved,
    sim::{MemorySlots, SimConfig, SimEngine, Unpaced},
};
use baton_types::{
    ChoiceIndex, Epoch, LatencyProfile, RequestId, Role, RouterId, SamplingSpec, SequenceKey,
    SequenceSpec, StopTokens, Time, TokenId,
};
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;

const SECRET: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;

/// Fresh for every request and epoch, as a router's are.
fn capability(spec: &SequenceSpec) -> Vec<u8> {
    let fresh = spec.key.request.0.rotate_left(64) ^ u128::from(spec.epoch.counter);
    (SECRET ^ fresh).to_be_bytes().to_vec()
}
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Pair {
    pub(crate) prefill: Serving,
    pub(crate) decode: Serving,
    prefill_client: PrefillClient<Channel>,
    decode_client: DecodeClient<Channel>,
}

/// A token as the client sees it: index, id, digest of its logits.
pub(crate) type Seen = (u32, u32, u64);

pub(crate) fn config() -> NodeConfig {
    let sim = SimConfig { profile: LatencyProfile::FREE, ..SimConfig::default() };
    let mut config = NodeConfig::new(EngineConfig::Sim(sim));
    config.kv = KvConfig { blocks: Some(256), ..KvConfig::default() };
    config
}

/// Makes every prefill step take this long.
pub(crate) fn slow_prefill(config: &mut NodeConfig, step: Duration) {
    if let EngineConfig::Sim(sim) = &mut config.engine {
        sim.profile.prefill_us = step.as_micros() as f64;
    }
}

/// Makes every decode step take this long.
pub(crate) fn slow_decode(config: &mut NodeConfig, step: Duration) {
    if let EngineConfig::Sim(sim) = &mut config.engine {
        sim.profile.decode_us = step.as_micros() as f64;
    }
}

pub(crate) fn spec(request: u128, prompt: usize, max_tokens: u32) -> SequenceSpec {
    let tokens = (0..prompt).map(|at| TokenId(32 + ((at as u128 * 7 + request) % 90) as u32));
    SequenceSpec {
        key: SequenceKey { request: RequestId(request), choice: ChoiceIndex(0) },
        epoch: epoch(1),
        tokens: tokens.collect(),
        prompt_len: prompt as u32,
        max_tokens,
        sampling: SamplingSpec::seeded(0.8, 42),
        stop_tokens: StopTokens::default(),
        cache_salt: 0,
        deadline: None,
        first_token_within: None,
    }
}

pub(crate) fn epoch(counter: u64) -> Epoch {
    Epoch { counter, router: RouterId(7) }
}

/// What the sim engine makes of `spec` with a scheduler of its own and nobody else about.
pub(crate) fn alone(spec: &SequenceSpec) -> Vec<Seen> {
    let sim = SimConfig { profile: LatencyProfile::FREE, ..SimConfig::default() };
    let layout = sim.layout;
    let slots = MemorySlots::new(layout.layers, 256, layout.block_tokens);
    let mut engine = SimEngine::new(sim, slots, Unpaced).unwrap();
    let cache = KvCache::new(256, layout.block_tokens);
    let mut scheduler = Scheduler::new(SchedulerConfig::default(), engine.info().clone(), cache);
    let submission = Submission {
        spec: spec.clone(),
        start: Start::Tokens,
        goal: Goal::Finish,
        constraint: None,
    };
    scheduler.submit(Time::ZERO, submission).unwrap();
    let (mut events, mut sampled) = (Vec::new(), Vec::new());
    while scheduler.compose(Time::ZERO, &mut events) {
        scheduler.with_sequences(|step| engine.step(step, &mut Unobserved, &mut sampled)).unwrap();
        scheduler.complete(Time::ZERO, &sampled, &mut events);
    }
    events
        .into_iter()
        .filter_map(|event| match event {
            Event::Token { index, token, logits_digest, .. } => {
                Some((index, token.0, logits_digest))
            }
            _ => None,
        })
        .collect()
}

impl Pair {
    pub(crate) async fn start() -> Self {
        Pair::with(config(), config()).await
    }

    pub(crate) async fn with(prefill: NodeConfig, decode: NodeConfig) -> Self {
        let prefill = baton_worker::start(prefill, Role::Prefill).await.unwrap();
        let decode = baton_worker::start(decode, Role::Decode).await.unwrap();
        let dial = |serving: &Serving| {
            transport::dial(&format!("http://{}", serving.control_address())).unwrap()
        };
        let prefill_client = PrefillClient::new(dial(&prefill));
        let decode_client = DecodeClient::new(dial(&decode));
        Pair { prefill, decode, prefill_client, decode_client }
    }

    pub(crate) fn prefill_request(&self, spec: &SequenceSpec) -> PrefillRunRequest {
        PrefillRunRequest {
            model: "sim".to_owned(),
            generation: self.prefill.node().generation().0,
            sequence: Some(spec.clone().into()),
            capability: capability(spec),
        }
    }

    pub(crate) fn decode_request(&self, spec: &SequenceSpec) -> DecodeRunRequest {
        DecodeRunRequest {
            model: "sim".to_owned(),
            generation: self.decode.node().generation().0,
            sequence: Some(spec.clone().into()),
            source: Some(proto::Source {
                node: self.prefill.node().id.to_string(),
                generation: self.prefill.node().generation().0,
                address: self.prefill.data_address().unwrap().to_owned(),
                capability: capability(spec),
            }),
            ..DecodeRunRequest::default()
        }
    }

    pub(crate) async fn send_prefill(
        &self,
        request: PrefillRunRequest,
    ) -> Result<Streaming<PrefillRunResponse>, Status> {
        Ok(self.prefill_client.clone().run(request).await?.into_inner())
    }

    pub(crate) async fn send_decode(
        &self,
        request: DecodeRunRequest,
    ) -> Result<Streaming<DecodeRunResponse>, Status> {
        Ok(self.decode_client.clone().run(request).await?.into_inner())
    }

    pub(crate) async fn decode_by_prefill_node(
        &self,
        request: DecodeRunRequest,
    ) -> Result<Streaming<DecodeRunResponse>, Status> {
        let address = format!("http://{}", self.prefill.control_address());
        let mut client = DecodeClient::new(transport::dial(&address).unwrap());
        Ok(client.run(request).await?.into_inner())
    }

    pub(crate) async fn prefill(&self, spec: &SequenceSpec) -> Streaming<PrefillRunResponse> {
        self.send_prefill(self.prefill_request(spec)).await.unwrap()
    }

    pub(crate) async fn decode(&self, spec: &SequenceSpec) -> Streaming<DecodeRunResponse> {
        self.send_decode(self.decode_request(spec)).await.unwrap()
    }

    pub(crate) fn decode_client(&self) -> DecodeClient<Channel> {
        self.decode_client.clone()
    }

    /// Runs a request on both nodes and merges the streams.
    pub(crate) async fn run(&self, spec: &SequenceSpec) -> Transcript {
        let (mut prefill, mut decode) = tokio::join!(self.prefill(spec), self.decode(spec));
        let first = first_token(&mut prefill).await;
        let token = first.token.unwrap();
        let mut transcript = Transcript::default();
        transcript.tokens.push((token.index, token.id, token.logits_digest));
        transcript.drain(&mut decode).await;
        match prefill.message().await.unwrap().unwrap().event.unwrap() {
            prefill_run_response::Event::HandedOver(handed) => transcript.handed_over = handed,
            other => panic!("{other:?}"),
        }
        assert!(prefill.message().await.unwrap().is_none());
        transcript
    }

    /// Both pools whole, nothing running, nothing held: `no-leak`.
    pub(crate) async fn is_whole_again(&self) {
        for serving in [&self.prefill, &self.decode] {
            let node = serving.node();
            eventually(&format!("{} is whole", node.id), || is_idle(node)).await;
        }
    }
}

fn is_idle(node: &Node) -> bool {
    let (usage, load) = (node.cache.usage(), node.steps.load());
    usage.held == 0
        && usage.free == usage.total
        && load.running + load.waiting == 0
        && node.metrics.transfers().held() == 0
        && node.gate.inside() == 0
}

/// What a decode stream said.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    pub(crate) tokens: Vec<Seen>,
    pub(crate) joined: proto::Joined,
    pub(crate) handed_over: proto::HandedOver,
    pub(crate) reason: i32,
}

impl Transcript {
    /// Reads a decode stream to its end.
    pub(crate) async fn drain(&mut self, decode: &mut Streaming<DecodeRunResponse>) {
        while let Some(response) = decode.message().await.unwrap() {
            match response.event.unwrap() {
                decode_run_response::Event::Joined(joined) => self.joined = joined,
                decode_run_response::Event::Tokens(tokens) => {
                    let tokens = tokens.tokens.into_iter();
                    self.tokens.extend(tokens.map(|t| (t.index, t.id, t.logits_digest)));
                }
                decode_run_response::Event::Finished(finished) => self.reason = finished.reason,
                other => panic!("{other:?} of a sequence that doesn't migrate"),
            }
        }
    }
}

pub(crate) async fn first_token(stream: &mut Streaming<PrefillRunResponse>) -> proto::FirstToken {
    match stream.message().await.unwrap().unwrap().event.unwrap() {
        prefill_run_response::Event::FirstToken(first) => first,
        other => panic!("{other:?}"),
    }
}

/// The next tokens of a decode stream.
pub(crate) async fn some_tokens(stream: &mut Streaming<DecodeRunResponse>) -> proto::Tokens {
    loop {
        match stream.message().await.unwrap().unwrap().event.unwrap() {
            decode_run_response::Event::Tokens(tokens) => return tokens,
            decode_run_response::Event::Joined(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Looks again and again until `condition` holds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let looking = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        while !condition() {
            ticks.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Code and `ErrorInfo` reason of a refusal.
pub(crate) fn why(status: &Status) -> (Code, String) {
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    (status.code(), reason)
}
