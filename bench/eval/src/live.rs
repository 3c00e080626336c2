//! A scenario's requests at a real cluster, and what they saw there beside what the simulator says.

use std::{fmt::Write, time::Duration};

use anyhow::{Context, ensure};
use baton_proto::v1::{
    GenerateRequest, Sampling, TokenIds, generate_request::Prompt, generate_response::Event,
    inference_client::InferenceClient,
};
use baton_sim::{
    Distribution, Report, Scenario,
    workload::{self, Request, Segment, SloConfig, Workload},
};
use baton_types::{LatencyProfile, StepShape, Time};
use tokio::{task::JoinSet, time::Instant};
use tonic::transport::Channel;

const CHANNELS: usize = 4;
/// 2⁶⁴ over the golden ratio, odd.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What one request saw, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) ttft: f64,
    pub(crate) tpot: Option<f64>,
    /// Of the time to first token, what wasn't spent between client and router,
    router: f64,
    /// what it waited in the router and in the prefill node,
    queued: f64,
    /// and what the step took.
    step: f64,
    /// By which the request was made too late.
    late: f64,
}

impl Seen {
    pub(crate) fn met(&self, slo: SloConfig) -> bool {
        let within = |ms: f64, limit: Option<f64>| limit.is_none_or(|limit| ms <= limit);
        within(self.ttft, slo.ttft_ms) && self.tpot.is_none_or(|tpot| within(tpot, slo.tpot_ms))
    }
}

/// What a first token takes on the idle cluster beyond its step, in microseconds: sockets, threads that
/// wake. Medians, which needn't add up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overhead {
    /// In all,
    pub(crate) beyond: f64,
    /// of it between client and router,
    client: f64,
    /// between router and prefill node,
    node: f64,
    /// in their queues,
    queued: f64,
    /// and by which the step itself took longer than it should.
    step: f64,
    /// Not in it: by which the requests were made too late.
    late: f64,
}

impl std::fmt::Display for Overhead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Overhead { beyond, client, node, queued, step, late } = self;
        write!(
            f,
            "{beyond:.0} µs beyond the step on the idle cluster: {client:.0} between client and router, \
             {node:.0} between router and node, {queued:.0} in queues, {step:.0} in the step; requests \
             were made {late:.0} µs late"
        )
    }
}

/// Makes a scenario's requests at their times, and waits for the end of them all.
pub(crate) async fn drive(
    url: &str,
    model: &str,
    scenario: &Scenario,
) -> anyhow::Result<Vec<Seen>> {
    let Scenario { workload, slo, cluster, seed, .. } = scenario;
    let requests = Workload::new(workload, *slo, cluster.model.max_context, None, *seed)?;
    let mut clients = Vec::new();
    for _ in 0..CHANNELS {
        clients.push(InferenceClient::connect(url.to_owned()).await?);
    }
    let begin = Instant::now() + Duration::from_millis(500);
    let mut asks = JoinSet::new();
    for (number, request) in requests.enumerate() {
        let client = clients[number % CHANNELS].clone();
        asks.spawn(ask(client, model.to_owned(), number, request, begin));
    }
    asks.join_all().await.into_iter().collect()
}

/// The medians of a few requests on the idle cluster, whose steps should take what `costs` says.
pub(crate) async fn overhead(
    url: &str,
    model: &str,
    costs: &LatencyProfile,
) -> anyhow::Result<Overhead> {
    const TOKENS: u32 = 100;
    let client = InferenceClient::connect(url.to_owned()).await?;
    let mut shape = StepShape::default();
    shape.add_prefill(TOKENS as usize, 0);
    let step = costs.step(&shape).as_secs_f64() * 1e3;
    let mut all = Vec::new();
    for number in 0..41 {
        let prompt = Segment { content: 0, tokens: TOKENS };
        let request = Request {
            at: Time::ZERO,
            prompt: workload::Prompt::new([prompt]),
            output_len: 2,
            max_tokens: 2,
            slo: SloConfig::default().of(TOKENS),
            priority: 0,
        };
        let begin = Instant::now() + Duration::from_micros(2000 + 37 * number);
        let number = 1 << 20 | number as usize;
        all.push(ask(client.clone(), model.to_owned(), number, request, begin).await?);
    }
    let median = |of: &dyn Fn(&Seen) -> f64| {
        Distribution::of(all.iter().map(of)).map_or(0.0, |values| 1e3 * values.p50)
    };
    Ok(Overhead {
        beyond: median(&|seen| seen.ttft - step).max(0.0),
        client: median(&|seen| seen.ttft - seen.router),
        node: median(&|seen| seen.router - seen.queued - seen.step),
        queued: median(&|seen| seen.queued),
        step: median(&|seen| seen.step - step),
        late: median(&|seen| seen.late),
    })
}

async fn ask(
    mut client: InferenceClient<Channel>,
    model: String,
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
    let request_to_make = GenerateRequest {
        model,
        prompt: Some(Prompt::TokenIds(TokenIds { ids })),
        sampling: Some(Sampling {
            temperature: Some(0.0),
            max_tokens: Some(request.max_tokens),
            min_tokens: Some(request.max_tokens),
            ..Sampling::default()
        }),
        ..GenerateRequest::default()
    };
    tokio::time::sleep_until(at).await;
    // Timers are late by a millisecond or two, which isn't the cluster's doing.
    let asked = Instant::now();
    let mut stream = client.generate(request_to_make).await?.into_inner();
    let (mut first, mut last, mut tokens, mut timings) = (None, asked, 0, None);
    while let Some(response) = stream.message().await? {
        match response.event {
            Some(Event::Chunk(chunk)) => {
                last = Instant::now();
                first.get_or_insert(last);
                tokens += chunk.token_ids.len();
            }
            Some(Event::Complete(complete)) => timings = complete.timings,
            _ => {}
        }
    }
    let first = first.context("no token came")?;
    ensure!(tokens == request.output_len as usize, "{tokens} of {} tokens", request.output_len);
    let timings = timings.context("the answer has no timings")?;
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    Ok(Seen {
        ttft: ms(first - asked),
        tpot: (tokens > 1).then(|| ms(last - first) / (tokens - 1) as f64),
        router: timings.ttft_us as f64 / 1e3,
        queued: (timings.router_queue_us + timings.prefill_queue_us) as f64 / 1e3,
        step: timings.prefill_us as f64 / 1e3,
        late: ms(asked - at),
    })
}

/// Requests that were made to real processes, and the same ones in the simulator.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) seen: Vec<Seen>,
    pub(crate) report: Report,
}

impl Run {
    /// In reality and in the simulator.
    fn both(&self, time: Timed) -> anyhow::Result<[Distribution; 2]> {
        let seen = self.seen.iter().filter_map(|seen| match time {
            Timed::Ttft => Some(seen.ttft),
            Timed::Tpot => seen.tpot,
        });
        let simulated = match time {
            Timed::Ttft => self.report.ttft_ms,
            Timed::Tpot => self.report.tpot_ms,
        };
        let both = Distribution::of(seen).zip(simulated);
        both.map(|(real, simulated)| [real, simulated]).context("nothing was completed")
    }

    /// Shares of all requests that met both targets, in reality and in the simulator.
    fn attained(&self, slo: SloConfig) -> [f64; 2] {
        let met = self.seen.iter().filter(|seen| seen.met(slo)).count();
        [met as f64 / self.seen.len() as f64, self.report.attainment]
    }
}

#[derive(Clone, Copy, Debug)]
enum Timed {
    Ttft,
    Tpot,
}

/// Rows of both times' percentiles, each beginning with `cells`: the runs' means.
pub(crate) fn rows(cells: &str, runs: &[Run]) -> anyhow::Result<String> {
    let mut out = String::new();
    for (name, time) in [("TTFT", Timed::Ttft), ("TPOT", Timed::Tpot)] {
        let both: anyhow::Result<Vec<_>> = runs.iter().map(|run| run.both(time)).collect();
        let both = both?;
        for (at, rank) in ["P50", "P90", "P99"].into_iter().enumerate() {
            let value = |of: &Distribution| [of.p50, of.p90, of.p99][at];
            let [real, simulated] = means(both.iter().map(|both| both.each_ref().map(value)));
            let off = 100.0 * (simulated / real - 1.0);
            let _ = writeln!(
                out,
                "| {cells} | {name} {rank}, ms | {real:.1} | {simulated:.1} | {off:+.1} % |"
            );
        }
    }
    Ok(out)
}

/// The row of the share that met both targets.
pub(crate) fn attainment_row(cells: &str, runs: &[Run], slo: SloConfig) -> String {
    let [real, simulated] = means(runs.iter().map(|run| run.attained(slo))).map(|of| 100.0 * of);
    let off = simulated - real;
    format!("| {cells} | attainment, % | {real:.1} | {simulated:.1} | {off:+.1} points |\n")
}

fn means(of: impl ExactSizeIterator<Item = [f64; 2]>) -> [f64; 2] {
    let count = of.len() as f64;
    of.fold([0.0; 2], |sum, one| [sum[0] + one[0], sum[1] + one[1]]).map(|sum| sum / count)
}
