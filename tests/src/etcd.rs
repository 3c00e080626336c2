//! A real etcd on loopback.

use std::{
    env, fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tempfile::TempDir;

/// How long it may take to answer.
const START: Duration = Duration::from_secs(30);

/// One member, which may be stopped and started again.
#[derive(Debug)]
pub struct Etcd {
    process: Option<Child>,
    data: TempDir,
    client: u16,
    peer: u16,
}

impl Etcd {
    /// Starts an empty one on free ports; the program is `BATON_ETCD`, or `etcd` on the path.
    pub fn start() -> anyhow::Result<Self> {
        let held = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let [client, peer] = [held[0].local_addr()?.port(), held[1].local_addr()?.port()];
        drop(held);
        let mut etcd = Etcd { process: None, data: tempfile::tempdir()?, client, peer };
        etcd.restart()?;
        Ok(etcd)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    /// As `kill -9` does.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Forgets everything; it must not run.
    pub fn wipe(&self) -> anyhow::Result<()> {
        Ok(fs::remove_dir_all(self.data.path().join("member"))?)
    }

    /// Starts it where it was, and waits until it answers.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let program = env::var_os("BATON_ETCD").unwrap_or_else(|| "etcd".into());
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer));
        let mut command = Command::new(program);
        command.args(["--name", "t", "--unsafe-no-fsync", "--log-level", "error", "--data-dir"]);
        command.arg(self.data.path());
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.arg(format!("--initial-cluster=t={peer}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let spawned = command.spawn();
        self.process =
            Some(spawned.context("etcd isn't there; run the tests with `cargo xtask test`")?);
        let begun = Instant::now();
        let health = format!("{client}/health");
        while !crate::get(&health).is_ok_and(|reply| reply.body.contains("true")) {
            if begun.elapsed() > START {
                bail!("etcd doesn't answer at {client}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have been killed.
        let _ = self.kill();
    }
}
