//! What a live migration costs: how long a client waits for its next token, and by what the source's
//! steps are longer meanwhile.
//!
//! One prefill and two decode nodes on loopback TCP, the real model, one engine thread each; the node that
//! sequences leave from is alone on its core, everything else shares another. Nodes keep no prefix
//! caches, so that each destination is a cold one. A long answer goes from the one node to the other
//! and back, again and again; only moves away from the node that has a core of its own are counted.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool speaks there")]

use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use baton_proto::v1::{
    GenerateRequest, MigrateRequest, Sampling, TokenIds, generate_request::Prompt,
    generate_response::Event, inference_client::InferenceClient,
    operations_client::OperationsClient,
};
use baton_tests::{Cluster, Engine, Options, Pid};
use clap::Parser;
use rustix::{
    process::Pid as RawPid,
    thread::{CpuSet, sched_setaffinity},
};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Streaming, transport::Channel};

#[derive(Debug, Parser)]
struct Cli {
    /// Moves at each context length.
    #[arg(long, default_value_t = 100)]
    moves: usize,
    /// Context lengths, in tokens.
    #[arg(long, value_delimiter = ',', default_values_t = [512, 2048, 7500])]
    contexts: Vec<u32>,
    /// Keys of every node's configuration.
    #[arg(long)]
    set: Vec<String>,
}

/// The node that sequences leave from, where its core is, and where they go.
const SOURCE: (&str, usize) = ("decode-1", 0);
const DESTINATION: &str = "decode-2";
const REST_CORE: usize = 1;
const MODEL_CONTEXT: u32 = 8192;
/// By which share of it a context may grow before it counts as another one.
const GROWTH: f64 = 0.3;
/// Tokens between two moves, by which steps without one are judged.
const BETWEEN: usize = 12;

/// One move away from the source.
#[derive(Clone, Copy, Debug)]
struct Moved {
    /// From the source's last token to the destination's first, less the destination's median step.
    downtime: f64,
    /// Of it: until the destination had all pages; what its first step took beyond its median one; the rest.
    tail: f64,
    first_step: f64,
    took: f64,
    /// Mean time between tokens while it moved and was still decoded at the source, and before. Milliseconds.
    during: Option<f64>,
    before: f64,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    println!(
        "| context | moves | downtime P50, ms | P99, ms | tail P50 / P99, ms | first step P50 / P99, ms | rest \
         P50 / P99, ms | took, ms | steps while moving, ms | before, ms | longer |\n| --- | --- | --- | --- | \
         --- | --- | --- | --- | --- | --- | --- |"
    );
    let mut options = Options { kv_size: "1GiB", ..Options::new(Engine::Llama) }
        .set("engine.threads=1")
        .set("scheduler.prefix_cache=false")
        .router_set("policy.local_tokens=0");
    for set in &cli.set {
        options = options.set(set.clone());
    }
    let cluster = Cluster::start(&options)?;
    for child in cluster.children() {
        pin(child, REST_CORE)?;
    }
    pin(cluster.child(SOURCE.0)?, SOURCE.1)?;
    for &context in &cli.contexts {
        let mut moves = Vec::new();
        while moves.len() < cli.moves {
            let before = moves.len();
            runtime.block_on(one_answer(&cluster, context, cli.moves, &mut moves))?;
            ensure!(moves.len() > before, "an answer of {context} tokens allowed no move");
            eprintln!("{context} tokens: {} moves", moves.len());
        }
        let of = |value: &dyn Fn(&Moved) -> f64| sorted(moves.iter().map(value).collect());
        let (downtime, took) = (of(&|moved| moved.downtime), of(&|moved| moved.took));
        let part = |value: &dyn Fn(&Moved) -> f64| {
            let values = of(value);
            format!("{:.1} / {:.1}", rank(&values, 0.5), rank(&values, 0.99))
        };
        let (tail, first_step) = (part(&|moved| moved.tail), part(&|moved| moved.first_step));
        let rest = part(&|moved| moved.downtime - moved.tail - moved.first_step);
        let pairs: Vec<(f64, f64)> =
            moves.iter().filter_map(|moved| Some((moved.during?, moved.before))).collect();
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let during = mean(pairs.iter().map(|pair| pair.0).collect());
        let before = mean(pairs.iter().map(|pair| pair.1).collect());
        println!(
            "| {context} | {} | {:.1} | {:.1} | {tail} | {first_step} | {rest} | {:.0} | {during:.2} | {before:.2} | {:+.1} % |",
            moves.len(),
            rank(&downtime, 0.5),
            rank(&downtime, 0.99),
            rank(&took, 0.5),
            100.0 * (during / before - 1.0),
        );
    }
    Ok(())
}

/// An answer's stream, and when its tokens came.
struct Answer {
    stream: Streaming<baton_proto::v1::GenerateResponse>,
    at: Vec<Instant>,
    is_over: bool,
}

impl Answer {
    /// Takes in what comes until `until`.
    async fn read_until(&mut self, until: Instant) -> anyhow::Result<()> {
        while !self.is_over {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(said) = timeout(left, self.stream.message()).await else { return Ok(()) };
            match said?.and_then(|said| said.event) {
                Some(Event::Chunk(chunk)) => {
                    let now = Instant::now();
                    self.at.extend(chunk.token_ids.iter().map(|_| now));
                }
                Some(Event::Complete(_)) | None => self.is_over = true,
                Some(Event::Started(_)) => {}
            }
        }
        Ok(())
    }

    /// Takes in `more` tokens.
    async fn read(&mut self, more: usize) -> anyhow::Result<()> {
        let wanted = self.at.len() + more;
        while self.at.len() < wanted && !self.is_over {
            self.read_until(Instant::now() + Duration::from_millis(5)).await?;
        }
        Ok(())
    }

    /// Milliseconds between tokens from the `from`th on.
    fn gaps(&self, from: usize, to: usize) -> Vec<f64> {
        let at = &self.at[from.min(to)..to];
        at.windows(2).map(|two| 1e3 * (two[1] - two[0]).as_secs_f64()).collect()
    }
}

/// Moves one answer there and back until its context has grown too much, or there are enough moves.
async fn one_answer(
    cluster: &Cluster,
    context: u32,
    wanted: usize,
    moves: &mut Vec<Moved>,
) -> anyhow::Result<()> {
    let url = cluster.url().to_owned();
    let mut client = InferenceClient::connect(url.clone()).await?;
    let mut operations = OperationsClient::connect(url).await?;
    let salt = moves.len() as u32;
    let ids = (0..context).map(|i| 33 + (i * 7 + i / 11 + salt * 13) % 90).collect();
    let max_tokens = (MODEL_CONTEXT - context - 1).min(4000);
    let most = (f64::from(context) * GROWTH) as usize;
    let request = GenerateRequest {
        model: String::new(),
        prompt: Some(Prompt::TokenIds(TokenIds { ids })),
        sampling: Some(Sampling {
            temperature: Some(0.0),
            max_tokens: Some(max_tokens),
            min_tokens: Some(max_tokens),
            ..Sampling::default()
        }),
        ..GenerateRequest::default()
    };
    let models = client.list_models(baton_proto::v1::ListModelsRequest {}).await?.into_inner();
    let model = models.models.first().context("no model is served")?.id.clone();
    let mut stream = client.generate(GenerateRequest { model, ..request }).await?.into_inner();
    let started = stream.message().await?.and_then(|said| said.event);
    let Some(Event::Started(started)) = started else { anyhow::bail!("the answer didn't start") };
    let id = started.request_id;
    let mut answer = Answer { stream, at: Vec::new(), is_over: false };
    answer.read(4).await?;
    // Wherever it began, it leaves from the source.
    let _ = go(&mut operations, &id, SOURCE.0, &mut answer).await?;
    while moves.len() < wanted && !answer.is_over && answer.at.len() < most {
        answer.read(BETWEEN).await?;
        let from = answer.at.len();
        let gone = go(&mut operations, &id, DESTINATION, &mut answer).await?;
        let Some(Gone { took, gap, tail, step: first_step }) = gone else { break };
        let during = answer.gaps(from, answer.at.len());
        answer.read(BETWEEN).await?;
        let step =
            median(answer.gaps(answer.at.len().saturating_sub(BETWEEN - 2), answer.at.len()));
        let before = answer.gaps(from.saturating_sub(BETWEEN - 2), from);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        // The last of them is the gap between the two nodes.
        let steps = &during[..during.len().saturating_sub(2)];
        moves.push(Moved {
            downtime: gap - step,
            tail,
            first_step: first_step - step,
            took,
            during: (!steps.is_empty()).then(|| mean(steps)),
            before: mean(&before),
        });
        if go(&mut operations, &id, SOURCE.0, &mut answer).await?.is_none() {
            break;
        }
    }
    Ok(())
}

/// What a move told of itself, in milliseconds.
struct Gone {
    took: f64,
    gap: f64,
    tail: f64,
    step: f64,
}

/// Moves the answer and takes in its tokens meanwhile. None if it has ended.
async fn go(
    operations: &mut OperationsClient<Channel>,
    id: &str,
    node: &str,
    answer: &mut Answer,
) -> anyhow::Result<Option<Gone>> {
    let request = MigrateRequest { request_id: id.to_owned(), node: node.to_owned() };
    let mut operations = operations.clone();
    let moving =
        tokio::task::JoinSet::from_iter([async move { operations.migrate(request).await }]);
    let mut moving = moving;
    let moved = loop {
        answer.read_until(Instant::now() + Duration::from_millis(1)).await?;
        if let Some(moved) = moving.try_join_next() {
            break moved?;
        }
        if answer.is_over {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let Ok(moved) = moved else { return Ok(None) };
    let moved = moved.into_inner().migrations;
    let one = moved.first().context("no sequence moved")?;
    if !one.stays.is_empty() {
        ensure!(answer.is_over || one.stays.contains("already"), "it stays: {}", one.stays);
        return Ok(None);
    }
    let ms = |us: u64| us as f64 / 1e3;
    let (took, gap, tail, step) = (one.took_us, one.gap_us, one.tail_us, one.step_us);
    Ok(Some(Gone { took: ms(took), gap: ms(gap), tail: ms(tail), step: ms(step) }))
}

/// Binds all of a process's threads to a core; those to come inherit it.
fn pin(process: &Pid, core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    for entry in fs::read_dir(format!("/proc/{}/task", process.id()))? {
        let thread = entry?;
        let id = thread.file_name().to_str().and_then(|id| id.parse().ok());
        let id = id.and_then(RawPid::from_raw).context("a thread has a number")?;
        sched_setaffinity(Some(id), &cores).with_context(|| format!("binding {id:?} to {core}"))?;
    }
    Ok(())
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The value at a rank of sorted ones.
fn rank(values: &[f64], rank: f64) -> f64 {
    let at = (rank * values.len() as f64).ceil() as usize;
    values.get(at.clamp(1, values.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

fn median(values: Vec<f64>) -> f64 {
    rank(&sorted(values), 0.5)
}
