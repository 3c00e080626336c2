//! What came of it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::OpenOptions,
    io::Write as _,
    time::{Duration, Instant},
};

use baton_tests::{Answer, Apart, footprint};

use super::trouble::Troubles;

/// From one look at the processes' memory to the next.
const EVERY: Duration = Duration::from_secs(1);
/// That a process may come to hold beside twice what it held at the start, in KiB.
const MORE: u64 = 32 << 10;

/// A process's own memory, in KiB.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    start: u64,
    peak: u64,
    end: u64,
}

#[derive(Debug)]
pub(super) struct Report {
    memory: BTreeMap<String, Memory>,
    looked: Instant,
}

fn memory(cluster: &Apart) -> impl Iterator<Item = (String, u64)> {
    let names = cluster.routers().into_iter().chain(cluster.node_names());
    names.filter_map(|name| {
        let process = cluster.process(&name).ok()?;
        Some((name, footprint(process.id())?.memory))
    })
}

impl Report {
    pub(super) fn begin(cluster: &Apart) -> Self {
        let start =
            memory(cluster).map(|(name, start)| (name, Memory { start, ..Memory::default() }));
        Report { memory: start.collect(), looked: Instant::now() }
    }

    /// Looks now and then how much memory they have.
    pub(super) fn look(&mut self, cluster: &Apart) {
        if self.looked.elapsed() < EVERY {
            return;
        }
        self.looked = Instant::now();
        for (name, now) in memory(cluster) {
            let of = self.memory.entry(name).or_default();
            of.peak = of.peak.max(now);
        }
    }

    /// Checks what is to be checked of all together, and tells.
    pub(super) fn end(
        mut self,
        cluster: &Apart,
        answers: &[Answer],
        troubles: &Troubles,
        took: Duration,
    ) {
        for (name, now) in memory(cluster) {
            self.memory.entry(name).or_default().end = now;
        }
        let logs = cluster.logs();
        let panics = logs.values().map(|log| log.matches("panicked").count()).sum::<usize>();
        assert_eq!(panics, 0, "somebody panicked: {}", cluster.last_words());
        assert!(
            answers.len() as u64 > took.as_secs(),
            "{} answers are hardly a test",
            answers.len()
        );
        let text = self.text(&logs, answers, troubles, took);
        tell(&text);
        for (name, Memory { start, end, .. }) in &self.memory {
            assert!(*end < 2 * start + MORE, "{name} grew from {start} to {end} KiB\n{text}");
        }
    }

    fn text(
        &self,
        logs: &BTreeMap<String, String>,
        answers: &[Answer],
        troubles: &Troubles,
        took: Duration,
    ) -> String {
        let mut pauses: Vec<Duration> = answers.iter().map(|answer| answer.longest_pause).collect();
        pauses.sort();
        let pause = |share: f64| {
            let rank = ((share * pauses.len() as f64).ceil() as usize).clamp(1, pauses.len());
            format!("{:.0}", pauses[rank - 1].as_secs_f64() * 1e3)
        };
        let sum = |of: fn(&Answer) -> u32| answers.iter().map(of).sum::<u32>();
        let tokens = answers.iter().map(|answer| answer.text.len()).sum::<usize>();
        let retries = logs.values().map(|log| log.matches("attempt failed").count()).sum::<usize>();
        let counts = troubles.counts;
        let rows = [
            ("seconds", took.as_secs().to_string()),
            ("requests, each with all its tokens once", answers.len().to_string()),
            ("tokens, all compared", tokens.to_string()),
            ("nodes killed", counts.nodes_killed.to_string()),
            ("nodes stopped and continued", counts.nodes_stopped.to_string()),
            ("routers killed", counts.routers_killed.to_string()),
            ("routers stopped and continued", counts.routers_stopped.to_string()),
            ("links cut", counts.cut.to_string()),
            ("links cut in one direction", counts.cut_one_way.to_string()),
            ("attempts that failed and were made again", retries.to_string()),
            ("streams asked for again", sum(|answer| answer.resumed).to_string()),
            ("answers to come later", sum(|answer| answer.put_off).to_string()),
            ("longest pause of a stream, P50, ms", pause(0.5)),
            ("P99, ms", pause(0.99)),
            ("the longest of all, ms", pause(1.0)),
        ];
        let mut text = "| what | |\n| --- | --- |\n".to_owned();
        for (what, value) in rows {
            writeln!(text, "| {what} | {value} |").unwrap();
        }
        text += "\n| process | own memory at the start, MiB | peak | at the end |\n| --- | --- | --- | --- |\n";
        let mib = |kib: u64| kib as f64 / 1024.0;
        for (name, Memory { start, peak, end }) in &self.memory {
            let (start, peak, end) = (mib(*start), mib(*peak), mib(*end));
            writeln!(text, "| {name} | {start:.1} | {peak:.1} | {end:.1} |").unwrap();
        }
        text
    }
}

/// In the test's output, and in the file that is to have it.
#[expect(clippy::print_stdout, reason = "a test's output")]
fn tell(text: &str) {
    println!("{text}");
    if let Some(path) = std::env::var_os("BATON_SOAK_REPORT") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{text}").unwrap();
    }
}
