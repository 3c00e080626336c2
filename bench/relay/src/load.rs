//! The load, and what is measured of it.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use futures::future::join_all;

use crate::{
    WARM_UP, WINDOW, client,
    stalls::{Stall, Watch},
};

/// Time between a stream's tokens: a fast decode step.
pub(crate) const STEP: Duration = Duration::from_millis(10);
/// Sequences that decode together.
pub(crate) const BATCH: usize = 16;
/// Tokens of each stream; more than any run reads.
pub(crate) const TOKENS: usize = 2_000;

/// Streams, and when each of their tokens was sent.
#[derive(Clone)]
pub(crate) struct Load {
    nodes: usize,
    sent: Arc<Vec<AtomicU64>>,
    begin: Instant,
}

/// How the tokens come.
pub(crate) enum Path {
    /// From the decode node at this address.
    Straight(String),
    /// From who serves `Generate` there.
    Generate(String),
    /// As server-sent events.
    Http(SocketAddr),
}

pub(crate) struct Measured {
    /// Tokens a second that arrived.
    pub(crate) passed: f64,
    /// CPU time of the process in between, for each token.
    pub(crate) cpu_us: f64,
    pub(crate) all: Ways,
    /// Of those that no stall disturbed.
    pub(crate) undisturbed: Ways,
    /// Share of the time in which some core stood still.
    pub(crate) still: f64,
    /// The longest of it.
    pub(crate) longest_ms: f64,
}

/// How long tokens were on their way.
pub(crate) struct Ways {
    pub(crate) tokens: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// A token's.
#[derive(Clone, Copy)]
pub(crate) struct OneWay {
    sent: Duration,
    arrived: Duration,
}

/// One client's notes of the window's tokens.
pub(crate) struct Notes {
    load: Load,
    stream: usize,
    next: usize,
    window: (u64, u64),
    pub(crate) ways: Vec<OneWay>,
}

impl Load {
    /// `rate`: tokens a second, of all streams.
    pub(crate) fn new(rate: u32, begin: Instant) -> Self {
        let streams = f64::from(rate) * STEP.as_secs_f64();
        let nodes = (streams / BATCH as f64).ceil() as usize;
        let sent = (0..nodes * BATCH * TOKENS).map(|_| AtomicU64::new(0)).collect();
        Load { nodes, sent: Arc::new(sent), begin }
    }

    pub(crate) fn nodes(&self) -> usize {
        self.nodes
    }

    pub(crate) fn streams(&self) -> usize {
        self.nodes * BATCH
    }

    pub(crate) fn rate(&self) -> f64 {
        self.streams() as f64 / STEP.as_secs_f64()
    }

    fn now(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }

    /// Token `index` of `stream` leaves its node.
    pub(crate) fn sends(&self, stream: usize, index: usize) {
        self.sent[stream * TOKENS + index].store(self.now(), Ordering::Relaxed);
    }

    /// Runs all streams along `path`; `process` is the one in between.
    pub(crate) async fn measure(
        &self,
        path: &Path,
        process: Option<u32>,
        watch: &Watch,
    ) -> anyhow::Result<Measured> {
        let from = self.now() + WARM_UP.as_nanos() as u64;
        let window = (from, from + WINDOW.as_nanos() as u64);
        let notes =
            |stream| Notes { load: self.clone(), stream, next: 0, window, ways: Vec::new() };
        let clients = client::all(path, self.streams(), notes).await?;
        let cpu = async {
            tokio::time::sleep(WARM_UP).await;
            let before = process.map(cpu_time).transpose()?;
            tokio::time::sleep(WINDOW).await;
            let after = process.map(cpu_time).transpose()?;
            anyhow::Ok(after.zip(before).map_or(0.0, |(after, before)| after - before))
        };
        let (ways, cpu) = tokio::join!(join_all(clients), cpu);
        let ways: Vec<OneWay> = ways.into_iter().collect::<anyhow::Result<Vec<_>>>()?.concat();
        let (from, to) = (Duration::from_nanos(window.0), Duration::from_nanos(window.1));
        let stalls = watch.between(from, to);
        let still: Duration = stalls.iter().map(Stall::length).sum();
        let longest = stalls.iter().map(Stall::length).max().unwrap_or_default();
        let cpu = cpu?;
        let share = cpu / WINDOW.as_secs_f64();
        let disturbed = |way: &OneWay, stall: &Stall| stall.disturbs(way.sent, way.arrived, share);
        let undisturbed = |way: &&OneWay| !stalls.iter().any(|stall| disturbed(way, stall));
        Ok(Measured {
            passed: ways.len() as f64 / WINDOW.as_secs_f64(),
            cpu_us: cpu * 1e6 / ways.len() as f64,
            all: Ways::of(ways.iter())?,
            undisturbed: Ways::of(ways.iter().filter(undisturbed))?,
            still: still.as_secs_f64() / WINDOW.as_secs_f64(),
            longest_ms: longest.as_secs_f64() * 1e3,
        })
    }
}

impl Ways {
    fn of<'a>(ways: impl Iterator<Item = &'a OneWay>) -> anyhow::Result<Self> {
        let mut times: Vec<Duration> =
            ways.map(|way| way.arrived.saturating_sub(way.sent)).collect();
        anyhow::ensure!(!times.is_empty(), "no token arrived, or a stall disturbed every one");
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        let ms = |share| at(share).as_secs_f64() * 1e3;
        Ok(Ways { tokens: times.len(), p50_ms: ms(0.5), p99_ms: ms(0.99) })
    }
}

impl Notes {
    pub(crate) fn stream(&self) -> usize {
        self.stream
    }

    /// So many more tokens are here. False when the window is over.
    pub(crate) fn arrived(&mut self, tokens: usize) -> bool {
        let now = self.load.now();
        for _ in 0..tokens {
            let at = self.stream * TOKENS + self.next;
            // The first token comes from prefill, which isn't timed.
            if self.next > 0 && (self.window.0..self.window.1).contains(&now) {
                let sent = self.load.sent[at].load(Ordering::Relaxed);
                let (sent, arrived) = (Duration::from_nanos(sent), Duration::from_nanos(now));
                self.ways.push(OneWay { sent, arrived });
            }
            self.next += 1;
        }
        now < self.window.1
    }
}

/// Seconds of CPU a process has used.
fn cpu_time(process: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, after) = stat.rsplit_once(')').context("a process has a name")?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
