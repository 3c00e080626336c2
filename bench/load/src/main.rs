//! How many requests a second the load test can offer before it is itself what is measured.
//!
//! `load-bench path/to/baton-load [REQUESTS_PER_SECOND]`. A server that answers at once, over HTTP and gRPC, has one core,
//! the load test the other; then, at a tenth of that rate, one whose chunks come 10 ms apart, as an engine's do. Said is what was offered, by how much requests were sent late, and what the load test says
//! of itself.

mod grpc;
mod http;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::Value;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;
const SECONDS: u32 = 10;
/// An answer's chunks, how far apart they come, and by how much the rate is divided.
const LOADS: [(u32, Duration, u32); 3] =
    [(1, Duration::ZERO, 1), (32, Duration::ZERO, 1), (32, Duration::from_millis(10), 10)];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "serve", apart] => serve(Duration::from_millis(apart.parse()?)),
        [_, load] => bench(Path::new(load), 10_000),
        [_, load, rate] => bench(Path::new(load), rate.parse()?),
        _ => bail!("usage: load-bench path/to/baton-load [REQUESTS_PER_SECOND]"),
    }
}

/// Both servers, whose chunks come so far apart, until standard input ends; says where they listen.
#[allow(clippy::print_stdout, reason = "whoever started it reads that")]
fn serve(apart: Duration) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (http, grpc) = (http::Server::bind().await?, grpc::Server::bind(apart).await?);
        println!("{} {}", http.address()?, grpc.address()?);
        tokio::select! {
            ended = http.serve(apart) => ended,
            ended = grpc.serve() => ended,
        }
    })
}

#[allow(clippy::print_stdout, reason = "it is what a benchmark does")]
fn bench(load: &Path, rate: u32) -> anyhow::Result<()> {
    println!(
        "| | chunks | apart | offered/s | answered | sent late P99, ms | heard late P99, ms | busiest thread | bottleneck |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for (chunks, apart, slower) in LOADS {
        let (server, rate) = (Server::start(apart)?, rate / slower);
        for (name, target) in [
            ("HTTP", format!("http://{}", server.http)),
            ("gRPC", format!("grpc://{}", server.grpc)),
        ] {
            let report = run(load, &target, chunks, rate)?;
            let (client, target) = (&report["client"], &report["targets"][0]);
            println!(
                "| {name} | {chunks} | {} ms | {:.0} | {} of {} | {:.2} | {:.2} | {:.0} % | {} |",
                apart.as_millis(),
                number(&target["offered_rate"])?,
                target["completed"],
                target["offered"],
                number(&client["late_ms"]["p99"])?,
                number(&client["lag_ms"]["p99"])?,
                100.0 * number(&client["cpu"])?,
                if client["saturated"].is_null() { "no" } else { "yes" },
            );
        }
    }
    Ok(())
}

fn number(value: &Value) -> anyhow::Result<f64> {
    value.as_f64().with_context(|| format!("{value} is no number"))
}

/// One load test, to its end.
fn run(load: &Path, target: &str, chunks: u32, rate: u32) -> anyhow::Result<Value> {
    let file = std::env::temp_dir().join(format!("load-bench-{}.json", std::process::id()));
    pin(CLIENT_CORE)?;
    let (rate, seconds, chunks) = (rate.to_string(), format!("{SECONDS}s"), chunks.to_string());
    let status = Command::new(load)
        .args([
            "--target",
            target,
            "--model",
            "mock",
            "--arrivals",
            &format!("poisson:rate={rate}"),
        ])
        .args(["--duration", &seconds, "--warmup", "1s", "--input", "128", "--output", &chunks])
        .args(["--no-live", "--json"])
        .arg(&file)
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "{} ended with {status}", load.display());
    let report = serde_json::from_slice(&std::fs::read(&file)?)?;
    std::fs::remove_file(&file)?;
    Ok(report)
}

struct Server {
    child: Child,
    http: String,
    grpc: String,
}

impl Server {
    fn start(apart: Duration) -> anyhow::Result<Self> {
        pin(SERVER_CORE)?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", &apart.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("it has an output")?).read_line(&mut line)?;
        let (http, grpc) = line.trim().split_once(' ').context("the server says nothing")?;
        Ok(Server { child, http: http.to_owned(), grpc: grpc.to_owned() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whatever is started from here on runs there.
fn pin(core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}
