//! How long a client waits when a node or a router is killed, stopped or cut off.
//!
//! Two routers, prefill and decode nodes with the simulated engine, each process in a network namespace of its own;
//! needs root and iproute2. Streams run all the time; one decode node goes away in the middle, and those it decoded
//! for wait. Or a prefill node goes away that has just got new prompts, and those wait for their first tokens.
//!
//! *Pause* is the time without a token, or to the first one. Of it, *detection* is the time until the router took the
//! node for lost, *replay* what the prompts that were to be computed again take by the profile that the engine runs by;
//! the rest is everything else: placement, hand-over, other work in the same steps.

//! When a router goes away, its streams go on at the other by `baton-client`, which is what notices it.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool speaks there")]

mod router;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use baton_proto::v1::{
    GenerateRequest, Sampling, TokenIds, generate_request::Prompt, generate_response::Event,
    inference_client::InferenceClient,
};
use baton_tests::{Apart, Engine, Options};
use clap::Parser;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::transport::Channel;

#[derive(Debug, Parser)]
struct Cli {
    /// How often each thing happens.
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// Streams that run all the time.
    #[arg(long, default_value_t = 12)]
    streams: u32,
    /// Tokens of each prompt.
    #[arg(long, default_value_t = 1000)]
    prompt: u32,
    /// Keys of the router's configuration.
    #[arg(long)]
    router_set: Vec<String>,
}

const PREFILL: u32 = 2;
const DECODE: u32 = 3;
/// Microseconds: of a step with prompts, of each of their tokens, of a step that decodes.
const PROFILE: [(&str, f64); 3] =
    [("prefill_us", 2_000.0), ("prefill_token_us", 40.0), ("decode_us", 8_000.0)];
const OUTPUT: u32 = 500;
/// Prompts that come at once to a cluster whose prefill node is about to go.
const BURST: u32 = 6;
/// A stream that hears nothing for so long around that moment was decoded there.
const WAITS: Duration = Duration::from_millis(60);
/// After so long everybody who goes on has gone on.
const LATER: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Killed,
    Stopped,
    CutOff,
}

/// An answer so far.
#[derive(Debug, Default)]
struct Answer {
    /// When its tokens came.
    tokens: Vec<Instant>,
    is_over: bool,
}

type Shared = Arc<Mutex<Answer>>;

fn look<T>(answer: &Shared, at: impl FnOnce(&Answer) -> T) -> T {
    at(&answer.lock().unwrap_or_else(PoisonError::into_inner))
}

/// One that waited.
#[derive(Clone, Copy, Debug)]
struct Waited {
    pause: f64,
    detection: f64,
    replay: f64,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    println!(
        "| node | is | times | waited | pause P50, ms | P99, ms | detection P50 / P99, ms | replay P50 / P99, ms | \
         rest P50 / P99, ms |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    );
    runtime.block_on(async {
        for event in [Fate::Killed, Fate::Stopped] {
            let mut waited = Vec::new();
            let mut cluster = start(&cli)?;
            for round in 0..cli.rounds {
                waited.extend(router::one_round(&mut cluster, &cli, event, round).await?);
            }
            row("router", event, cli.rounds, &waited);
        }
        for victim in ["decode-1", "prefill-1"] {
            for event in [Fate::Killed, Fate::Stopped, Fate::CutOff] {
                let mut waited = Vec::new();
                let mut cluster = start(&cli)?;
                for round in 0..cli.rounds {
                    waited.extend(one_round(&mut cluster, &cli, victim, event, round).await?);
                }
                row(victim, event, cli.rounds, &waited);
            }
        }
        Ok(())
    })
}

fn start(cli: &Cli) -> anyhow::Result<Apart> {
    let mut options = Options::new(Engine::Sim)
        .nodes(PREFILL, DECODE)
        // Otherwise a prompt that was computed before is found where it was.
        .set("scheduler.prefix_cache=false")
        .router_set("policy.local_tokens=0")
        .router_set("rebalance.enabled=false");
    for (key, us) in PROFILE {
        options = options.set(format!("engine.profile.{key}={us}"));
        options = options.router_set(format!("latency.default.{key}={us}"));
    }
    for set in &cli.router_set {
        options = options.router_set(set.clone());
    }
    Apart::start(&Options { routers: 2, ..options })
}

async fn one_round(
    cluster: &mut Apart,
    cli: &Cli,
    victim: &str,
    event: Fate,
    round: u32,
) -> anyhow::Result<Vec<Waited>> {
    let client = InferenceClient::connect(cluster.url()).await?;
    let mut tasks = JoinSet::new();
    let mut ask = |seed: u32, answers: &mut Vec<Shared>| {
        let answer = Shared::default();
        answers.push(Arc::clone(&answer));
        tasks.spawn(stream(client.clone(), cli.prompt, seed, answer));
    };
    let is_decode = victim.starts_with("decode");
    let (mut running, mut new) = (Vec::new(), Vec::new());
    (0..cli.streams).for_each(|at| ask(round * 1000 + at, &mut running));
    // They aren't all at the same point when it happens.
    until("all decode", || running.iter().all(|answer| look(answer, |a| a.tokens.len() > 20)))
        .await?;
    sleep(Duration::from_millis(u64::from(round % 7) * 13)).await;
    let lost_before = lost(cluster)?;
    if !is_decode {
        (0..BURST).for_each(|at| ask(round * 1000 + 500 + at, &mut new));
        let has_work = || {
            let waiting = cluster.samples("baton_requests_waiting").unwrap_or_default();
            let running = cluster.samples("baton_requests_running").unwrap_or_default();
            let of = |samples: &std::collections::BTreeMap<String, f64>| {
                samples.get(victim).copied().unwrap_or(0.0)
            };
            of(&waiting) + of(&running) >= 1.0
        };
        until("it has work", has_work).await?;
    }
    let began = Instant::now();
    strike(cluster, victim, event)?;
    let mut detection = None;
    until("it is lost", || {
        detection = lost(cluster).ok().filter(|lost| *lost > lost_before).map(|_| began.elapsed());
        detection.is_some()
    })
    .await?;
    let detection = millis(detection.context("until it was")?);
    let all = running.iter().chain(&new);
    until("everybody goes on", || {
        all.clone()
            .all(|answer| look(answer, |a| a.is_over || a.tokens.last() > Some(&(began + LATER))))
    })
    .await?;
    let mut waited: Vec<(f64, u32)> = Vec::new();
    if is_decode {
        for answer in &running {
            look(answer, |answer| {
                let gap = answer.tokens.windows(2).enumerate().find(|(_, pair)| {
                    pair[1] > began && pair[1] - pair[0] > WAITS && pair[0] < began + WAITS
                });
                if let Some((at, pair)) = gap {
                    waited.push((millis(pair[1] - pair[0]), cli.prompt + at as u32 + 1));
                }
            });
        }
    } else {
        for answer in &new {
            let first = look(answer, |answer| answer.tokens.first().copied());
            let first = first.context("everybody goes on")?.saturating_duration_since(began);
            let pause = millis(first);
            // Others were on the node that is there.
            if pause > detection {
                waited.push((pause, cli.prompt));
            }
        }
    }
    // All of them, on the prefill nodes that there are then; with what was there already.
    let (nodes, others) =
        if is_decode { (PREFILL, 0) } else { (PREFILL - 1, BURST * cli.prompt / PREFILL) };
    let tokens = waited.iter().map(|(_, tokens)| tokens).sum::<u32>() + others;
    let [(_, step), (_, token), _] = PROFILE;
    let replay = (f64::from(tokens) * token / f64::from(nodes) + step) / 1e3;
    drop(tasks);
    mend(cluster, victim, event)?;
    until("it is back", || {
        cluster.members().is_ok_and(|nodes| nodes == (PREFILL + DECODE) as usize)
    })
    .await?;
    cluster.wait_whole(PATIENCE)?;
    eprintln!("{victim} {event:?}: {} waited, detection {detection:.0} ms", waited.len());
    Ok(waited.into_iter().map(|(pause, _)| Waited { pause, detection, replay }).collect())
}

fn strike(cluster: &Apart, victim: &str, event: Fate) -> anyhow::Result<()> {
    match event {
        Fate::Killed => cluster.process(victim)?.kill()?,
        Fate::Stopped => cluster.process(victim)?.stop()?,
        Fate::CutOff => {
            for other in hosts().filter(|other| other != victim) {
                cluster.part(victim, &other)?;
            }
        }
    }
    Ok(())
}

fn mend(cluster: &mut Apart, victim: &str, event: Fate) -> anyhow::Result<()> {
    match event {
        Fate::Killed => cluster.restart(victim)?,
        Fate::Stopped => cluster.process(victim)?.resume()?,
        Fate::CutOff => {
            for other in hosts().filter(|other| other != victim) {
                cluster.heal(victim, &other)?;
            }
        }
    }
    Ok(())
}

fn hosts() -> impl Iterator<Item = String> {
    let nodes = |role: &'static str, count| (1..=count).map(move |at| format!("{role}-{at}"));
    ["router".to_owned(), "router-2".to_owned()]
        .into_iter()
        .chain(nodes("prefill", PREFILL))
        .chain(nodes("decode", DECODE))
}

fn lost(cluster: &Apart) -> anyhow::Result<f64> {
    let of =
        |reason| cluster.sample(&format!("baton_router_nodes_lost_total{{reason=\"{reason}\"}}"));
    Ok(of("silent")? + of("broken")?)
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !is_so() {
        if begun.elapsed() > PATIENCE {
            bail!("not within {PATIENCE:?}: {what}");
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn stream(
    mut client: InferenceClient<Channel>,
    prompt: u32,
    seed: u32,
    answer: Shared,
) -> anyhow::Result<()> {
    let ids = self::prompt(prompt, seed);
    let request = GenerateRequest {
        model: "sim".to_owned(),
        prompt: Some(Prompt::TokenIds(TokenIds { ids })),
        sampling: Some(Sampling {
            max_tokens: Some(OUTPUT),
            seed: Some(seed.into()),
            ..Sampling::default()
        }),
        ..GenerateRequest::default()
    };
    let mut stream = client.generate(request).await?.into_inner();
    while let Some(said) = stream.message().await? {
        let now = Instant::now();
        let mut answer = answer.lock().unwrap_or_else(PoisonError::into_inner);
        match said.event {
            Some(Event::Chunk(chunk)) => answer.tokens.extend(chunk.token_ids.iter().map(|_| now)),
            Some(Event::Complete(_)) => answer.is_over = true,
            Some(Event::Started(_)) | None => {}
        }
    }
    Ok(())
}

/// No two begin alike.
fn prompt(tokens: u32, seed: u32) -> Vec<u32> {
    let mut state = u64::from(seed) + 1;
    let draw = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        33 + (state >> 33) as u32 % 90
    };
    (0..tokens).map(draw).collect()
}

fn row(victim: &str, event: Fate, rounds: u32, waited: &[Waited]) {
    let sorted = |of: fn(&Waited) -> f64| {
        let mut values: Vec<f64> = waited.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let rank = |values: &[f64], share: f64| {
        let at = (share * values.len() as f64).ceil() as usize;
        values.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    };
    let both = |of| {
        let values = sorted(of);
        format!("{:.0} / {:.0}", rank(&values, 0.5), rank(&values, 0.99))
    };
    let pause = sorted(|waited| waited.pause);
    let event = match event {
        Fate::Killed => "killed",
        Fate::Stopped => "stopped",
        Fate::CutOff => "cut off",
    };
    println!(
        "| {} | {event} | {rounds} | {} | {:.0} | {:.0} | {} | {} | {} |",
        victim.trim_end_matches("-1"),
        waited.len(),
        rank(&pause, 0.5),
        rank(&pause, 0.99),
        both(|waited| waited.detection),
        both(|waited| waited.replay),
        both(|waited| waited.pause - waited.detection - waited.replay),
    );
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
