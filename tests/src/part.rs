//! One part of a cluster, started by itself.

use std::{
    fs::{self, File},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Pid, baton};

const START: Duration = Duration::from_secs(60);

/// A router or a node. Dropped, it is killed.
#[derive(Debug)]
pub struct Part {
    process: Child,
    logs: TempDir,
}

impl Part {
    /// Starts `baton` with these arguments.
    pub fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let logs = tempfile::tempdir()?;
        let mut command = Command::new(baton());
        command.args(arguments).args(["--exit-with-stdin", "--log-format", "json"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let process = command.stderr(File::create(logs.path().join("log"))?).spawn()?;
        Ok(Part { process, logs })
    }

    /// Waits until it has logged something, and returns that.
    pub fn said(&self, message: &str) -> anyhow::Result<Value> {
        let begun = Instant::now();
        while begun.elapsed() < START {
            let log = self.log();
            let mut lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
            if let Some(line) = lines.find(|line: &Value| line["message"] == message) {
                return Ok(line);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("{message:?} was not said within {START:?}:\n{}", self.log())
    }

    /// An address that it told when it began to serve.
    pub fn address(&self, which: &str) -> anyhow::Result<String> {
        let line = self.said("serving")?;
        Ok(line[which].as_str().with_context(|| format!("no {which} in {line}"))?.to_owned())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.logs.path().join("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> anyhow::Result<Pid> {
        Ok(Pid::new(self.process.id())?)
    }

    /// Has it leave in order, and waits for its end.
    pub fn leave(&mut self) -> anyhow::Result<()> {
        drop(self.process.stdin.take());
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(8).collect();
            #[expect(clippy::print_stderr, reason = "the failed test shows it")]
            for line in tail.iter().rev() {
                eprintln!("{}: {line}", self.process.id());
            }
        }
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
