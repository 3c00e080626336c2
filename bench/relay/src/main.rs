//! What passing tokens on costs: the router against the plainest relay that tonic can be.
//!
//! `relay-bench path/to/baton [TOKENS_PER_SECOND]`. Nodes that do nothing but pace tokens, and the
//! clients, share a process pinned to one core; the router and the plain relay have the other, by
//! turns. Every token's way is timed by the same clock: straight from the nodes, through the plain
//! relay, and through the router over gRPC and over HTTP.

mod client;
mod load;
mod plain;
mod source;
mod stalls;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::thread::{CpuSet, sched_setaffinity};

use self::{
    load::{Load, Measured, Path as Way},
    source::Source,
    stalls::Watch,
};

/// The same as Baton's, so that allocators aren't compared.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The core of whatever passes tokens on, and of everything else.
const RELAY_CORE: usize = 0;
const REST_CORE: usize = 1;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "plain", listen, source] => run(plain::serve(listen.parse()?, (*source).to_owned())),
        [_, baton] => bench(baton, 50_000),
        [_, baton, rate] => bench(baton, rate.parse()?),
        _ => bail!("usage: relay-bench path/to/baton [TOKENS_PER_SECOND]"),
    }
}

fn run(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(work)
}

#[allow(clippy::print_stderr, reason = "it is what a benchmark does")]
fn bench(baton: &str, rate: u32) -> anyhow::Result<()> {
    let [api, control, plain] = free_ports()?;
    pin(RELAY_CORE)?;
    let router = Running::start(
        Path::new(baton),
        &[
            "router",
            "--exit-with-stdin",
            "--listen",
            &api.to_string(),
            "--control",
            &control.to_string(),
            "--set",
            "limits.max_in_flight=100000",
            "--set",
            "log.filter=\"warn\"",
        ],
    )?;
    pin(REST_CORE)?;
    let begin = Instant::now();
    let watch = Watch::start(&[RELAY_CORE, REST_CORE], begin).unwrap_or_else(|error| {
        eprintln!("stalls aren't watched: {error:#}");
        Watch::none()
    });
    run(async {
        let load = Load::new(rate, begin);
        let source = Source::start(&load, &format!("http://{control}")).await?;
        pin(RELAY_CORE)?;
        let program = std::env::current_exe()?;
        let relay = Running::start(&program, &["plain", &plain.to_string(), &source.address])?;
        pin(REST_CORE)?;
        client::wait_until_open(plain).await?;
        let ways = [
            (Way::Straight(source.address.clone()), None),
            (Way::Generate(format!("http://{plain}")), Some(&relay)),
            (Way::Generate(format!("http://{api}")), Some(&router)),
            (Way::Http(api), Some(&router)),
        ];
        let mut measured = Vec::new();
        for (way, process) in &ways {
            measured.push(load.measure(way, process.map(|process| process.0.id()), &watch).await?);
        }
        report(&load, &measured);
        Ok(())
    })
}

/// What is printed: lines for people, and measurements as JSON.
#[allow(clippy::print_stdout, reason = "it is what a benchmark does")]
fn report(load: &Load, measured: &[Measured]) {
    let names = ["straight", "plain relay", "router, gRPC", "router, HTTP"];
    println!("{} streams, {} tokens/s offered", load.streams(), load.rate());
    for (name, one) in names.iter().zip(measured) {
        println!(
            "{name:>13}: {:>6.0} tokens/s passed, {:>6.2} µs of CPU each, P50 {:.3} ms, P99 {:.3} ms; \
             stood still {:.1} % of the time, at most {:.1} ms; \
             undisturbed {:.0} %: P50 {:.3} ms, P99 {:.3} ms",
            one.passed,
            one.cpu_us,
            one.all.p50_ms,
            one.all.p99_ms,
            one.still * 100.0,
            one.longest_ms,
            one.undisturbed.tokens as f64 / one.all.tokens as f64 * 100.0,
            one.undisturbed.p50_ms,
            one.undisturbed.p99_ms,
        );
    }
    let [straight, plain, grpc, http] = measured else { return };
    for (name, one) in [("grpc", grpc), ("http", http)] {
        let line = |name: String, value: f64, unit: &str, anchor: Option<f64>| {
            let mut line = serde_json::json!({ "name": name, "value": value, "unit": unit });
            if let Some(anchor) = anchor {
                line["anchor"] = "plain tonic relay".into();
                line["ratio"] = (value / anchor).into();
            }
            println!("{line}");
        };
        let capacity = |one: &Measured| 1e6 / one.cpu_us;
        line(format!("relay_{name}"), capacity(one), "tokens/s per core", Some(capacity(plain)));
        line(format!("relay_{name}_passed"), one.passed, "tokens/s", None);
        let added = one.all.p99_ms - straight.all.p99_ms;
        line(format!("relay_{name}_added_p99"), added, "ms", None);
        let added = one.undisturbed.p99_ms - straight.undisturbed.p99_ms;
        line(format!("relay_{name}_added_p99_undisturbed"), added, "ms", None);
    }
}

fn pin(core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).with_context(|| format!("pinning to core {core}"))
}

fn free_ports() -> anyhow::Result<[SocketAddr; 3]> {
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
    }
    let ports: Result<Vec<_>, _> = listeners.iter().map(TcpListener::local_addr).collect();
    ports?.try_into().map_err(|_| anyhow::anyhow!("three listeners have three ports"))
}

/// A process that ends with this one. It keeps to the core this one was pinned to at its start.
struct Running(Child);

impl Running {
    fn start(program: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped());
        Ok(Running(command.spawn().with_context(|| program.display().to_string())?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How long a run warms up, and how long it is measured.
const WARM_UP: Duration = Duration::from_millis(1500);
const WINDOW: Duration = Duration::from_secs(5);
