//! The simulator beside a real cluster: real processes with the simulated engine on loopback, and the
//! same requests at the same times.

use std::{fmt::Write, time::Duration};

use anyhow::{Context, ensure};
use baton_proto::v1::{
    GenerateRequest, Sampling, TokenIds, generate_request::Prompt, generate_response::Event,
    inference_client::InferenceClient,
};
use baton_scheduler::{SchedulerConfig, sim::SimConfig};
use baton_sim::{
    Distribution, LatencyConfig, ModelConfig, NetworkConfig, Scenario, Topology, WorkerConfig,
    simulate,
    workload::{Arrivals, Lengths, Request, Segment, SloConfig, Workload, WorkloadConfig},
};
use baton_tests::{Cluster, Engine, Options};
use baton_types::{KvLayout, LatencyProfile, Mixing, StepShape, Time};
use tokio::{task::JoinSet, time::Instant};
use tonic::transport::Channel;

use crate::Scale;

/// Steps of at least five milliseconds: what the machine does besides is small beside them.
const PROFILE: LatencyProfile = LatencyProfile {
    prefill_us: 8000.0,
    prefill_token_us: 60.0,
    prefill_attention_us: 0.005,
    decode_us: 10_000.0,
    decode_sequence_us: 400.0,
    decode_context_us: 0.5,
    mixing: Mixing::Sum,
};
/// Prefill nodes, decode nodes, and requests a second: idle, busy, and a larger cluster.
const LOADS: [(u32, u32, f64); 3] = [(2, 2, 10.0), (2, 2, 30.0), (4, 4, 50.0)];
/// A pool of each node that holds whatever comes.
const BLOCKS: u32 = 1 << 16;
/// What the attainment is of; nobody is told.
const SLO: SloConfig = SloConfig {
    ttft_ms: Some(80.0),
    ttft_per_prompt_token_us: 0.0,
    tpot_ms: Some(16.0),
    declared: false,
};
const CHANNELS: usize = 4;
/// 2⁶⁴ over the golden ratio, odd.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

fn scenario(prefill: u32, decode: u32, rate: f64, scale: Scale) -> Scenario {
    let mut scenario = Scenario { seed: 7, ..Scenario::default() };
    let worker = WorkerConfig {
        profile: PROFILE,
        scheduler: SchedulerConfig::default(),
        kv_blocks: BLOCKS,
        ..WorkerConfig::default()
    };
    let seconds = if scale == Scale::Short { 20.0 } else { 60.0 };
    let SimConfig { layout, max_context, vocab, .. } = SimConfig::default();
    let KvLayout { layers, kv_heads, head_dim, block_tokens, dtype } = layout;
    scenario.cluster.model =
        ModelConfig { layers, kv_heads, head_dim, block_tokens, dtype, max_context, vocab };
    scenario.cluster.topology = Topology::Disaggregated { prefill, decode };
    (scenario.cluster.prefill, scenario.cluster.decode) = (worker, worker);
    // Loopback's, which is no limit here; the router's is measured.
    scenario.cluster.network =
        NetworkConfig { bytes_per_second: 2e9, latency_us: 50.0, ..NetworkConfig::default() };
    scenario.latency = LatencyConfig { seed: Some(PROFILE), ..LatencyConfig::default() };
    scenario.workload = WorkloadConfig {
        requests: (rate * seconds) as u64,
        arrivals: Arrivals::Poisson { rate },
        prompt: Lengths::Lognormal { mean: 300.0, cv: 1.0, max: 2000 },
        output: Lengths::Lognormal { mean: 50.0, cv: 1.0, max: 200 },
        ..WorkloadConfig::default()
    };
    scenario.slo = SLO;
    scenario
}

/// The same cluster as processes.
fn options(prefill: u32, decode: u32) -> Options {
    let mut options = Options::new(Engine::Sim).nodes(prefill, decode);
    for (name, us) in LatencyProfile::COEFFICIENTS.iter().zip(PROFILE.coefficients()) {
        options = options
            .set(format!("engine.profile.{name}_us={us:?}"))
            .router_set(format!("latency.default.{name}_us={us:?}"));
    }
    options
}

/// What one request saw, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Seen {
    ttft: f64,
    tpot: Option<f64>,
}

impl Seen {
    fn met(&self) -> bool {
        let within = |ms: f64, limit: Option<f64>| limit.is_none_or(|limit| ms <= limit);
        within(self.ttft, SLO.ttft_ms) && self.tpot.is_none_or(|tpot| within(tpot, SLO.tpot_ms))
    }
}

async fn ask(
    mut client: InferenceClient<Channel>,
    number: usize,
    request: Request,
    begin: Instant,
) -> anyhow::Result<Seen> {
    let at = begin + Duration::from_nanos(request.at.as_nanos());
    // Prompts that share nothing.
    let token = |index: u32| {
        let mixed = ((number as u64) << 32 | u64::from(index)).wrapping_mul(SPREAD);
        32 + ((mixed ^ mixed >> 29).wrapping_mul(SPREAD) >> 40) as u32 % 95
    };
    let ids = (0..request.prompt.len()).map(token).collect();
    let asked = GenerateRequest {
        model: "sim".to_owned(),
        prompt: Some(Prompt::TokenIds(TokenIds { ids })),
        sampling: Some(Sampling {
            temperature: Some(0.0),
            max_tokens: Some(request.max_tokens),
            min_tokens: Some(request.max_tokens),
            ..Sampling::default()
        }),
    };
    tokio::time::sleep_until(at).await;
    let mut stream = client.generate(asked).await?.into_inner();
    let (mut first, mut last, mut tokens) = (None, at, 0);
    while let Some(response) = stream.message().await? {
        if let Some(Event::Chunk(chunk)) = response.event {
            last = Instant::now();
            first.get_or_insert(last);
            tokens += chunk.token_ids.len();
        }
    }
    let first = first.context("no token came")?;
    ensure!(tokens == request.output_len as usize, "{tokens} of {} tokens", request.output_len);
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let tpot = (tokens > 1).then(|| ms(last - first) / (tokens - 1) as f64);
    Ok(Seen { ttft: ms(first - at), tpot })
}

async fn drive(url: &str, scenario: &Scenario) -> anyhow::Result<Vec<Seen>> {
    let Scenario { workload, slo, cluster, seed, .. } = scenario;
    let requests = Workload::new(workload, *slo, cluster.model.max_context, None, *seed)?;
    let mut clients = Vec::new();
    for _ in 0..CHANNELS {
        clients.push(InferenceClient::connect(url.to_owned()).await?);
    }
    let begin = Instant::now() + Duration::from_millis(500);
    let mut asks = JoinSet::new();
    for (number, request) in requests.enumerate() {
        asks.spawn(ask(clients[number % CHANNELS].clone(), number, request, begin));
    }
    asks.join_all().await.into_iter().collect()
}

/// What a first token takes on the idle cluster beyond its step, in microseconds: sockets, threads that
/// wake, timers. The median of a few.
async fn overhead(url: &str) -> anyhow::Result<f64> {
    const TOKENS: u32 = 100;
    let client = InferenceClient::connect(url.to_owned()).await?;
    let mut step = StepShape::default();
    step.add_prefill(TOKENS as usize, 0);
    let step = PROFILE.step(&step).as_secs_f64() * 1e6;
    let mut beyond = Vec::new();
    for number in 0..41 {
        let prompt = Segment { content: 0, tokens: TOKENS };
        let request = Request {
            at: Time::ZERO,
            prompt: baton_sim::workload::Prompt::new([prompt]),
            output_len: 2,
            max_tokens: 2,
            slo: SLO.of(TOKENS),
        };
        let begin = Instant::now() + Duration::from_micros(2000 + 37 * number);
        let seen = ask(client.clone(), 1 << 20 | number as usize, request, begin).await?;
        beyond.push(1e3 * seen.ttft - step);
    }
    beyond.sort_by(f64::total_cmp);
    Ok(beyond[beyond.len() / 2].max(0.0))
}

pub(crate) fn section(scale: Scale) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut out = String::from(
        "| nodes | req/s | | real | simulated | off |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for (prefill, decode, rate) in LOADS {
        let mut scenario = scenario(prefill, decode, rate, scale);
        let cluster = Cluster::start(&options(prefill, decode))?;
        // There and back.
        let overhead = runtime.block_on(overhead(cluster.url()))?;
        scenario.cluster.network.router_latency_us = overhead / 2.0;
        let seen = runtime.block_on(drive(cluster.url(), &scenario))?;
        drop(cluster);
        let report = simulate(&scenario, None)?;
        let mut row = |what: &str, real: f64, simulated: f64, off: String| {
            let _ = writeln!(
                out,
                "| {prefill} + {decode} | {rate:.0} | {what} | {real:.1} | {simulated:.1} | {off} |"
            );
        };
        let ttft = Distribution::of(seen.iter().map(|seen| seen.ttft)).zip(report.ttft_ms);
        let tpot = Distribution::of(seen.iter().filter_map(|seen| seen.tpot)).zip(report.tpot_ms);
        for (name, both) in [("TTFT", ttft), ("TPOT", tpot)] {
            let (real, simulated) = both.context("nothing was completed")?;
            for (rank, real, simulated) in [
                ("P50", real.p50, simulated.p50),
                ("P90", real.p90, simulated.p90),
                ("P99", real.p99, simulated.p99),
            ] {
                let off = format!("{:+.1} %", 100.0 * (simulated / real - 1.0));
                row(&format!("{name} {rank}, ms"), real, simulated, off);
            }
        }
        eprintln!("{prefill} + {decode}: {overhead:.0} µs beyond the step on the idle cluster");
        let met = seen.iter().filter(|seen| seen.met()).count() as f64 / seen.len() as f64;
        let (real, simulated) = (100.0 * met, 100.0 * report.attainment);
        row("attainment, %", real, simulated, format!("{:+.1} points", simulated - real));
    }
    Ok(out)
}
