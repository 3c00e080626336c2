//! A cluster whose processes are hosts of their own.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use crate::{
    Engine, Options, Pid, baton,
    cluster::{node_samples, wait_whole},
    get,
    network::Network,
};

const START: Duration = Duration::from_secs(60);
const ROUTER: u8 = 1;
const API: u16 = 8000;
const CONTROL: u16 = 8001;
const METRICS: u16 = 9100;

/// A router and nodes with the simulated engine, each on its own host.
#[derive(Debug)]
pub struct Apart {
    hosts: BTreeMap<String, Host>,
    logs: TempDir,
    /// Taken down after the processes.
    network: Network,
}

#[derive(Debug)]
struct Host {
    number: u8,
    args: Vec<String>,
    process: Child,
}

impl Apart {
    /// Starts `router`, `prefill-1…` and `decode-1…`, and waits until it serves.
    pub fn start(options: &Options) -> anyhow::Result<Self> {
        ensure!(options.engine == Engine::Sim && options.routers == 1, "that isn't built yet");
        let nodes = [("prefill", options.prefill), ("decode", options.decode)];
        let nodes: Vec<(&str, u32)> =
            nodes.into_iter().flat_map(|(role, n)| (1..=n).map(move |at| (role, at))).collect();
        let network = Network::new(u8::try_from(nodes.len() + 1)?)?;
        let mut cluster = Apart { hosts: BTreeMap::new(), logs: tempfile::tempdir()?, network };
        let address = cluster.network.address(ROUTER);
        let own = [format!("--listen={address}:{API}"), format!("--control={address}:{CONTROL}")];
        let set = options.router_set.iter().map(|set| format!("--set={set}"));
        let args = ["router".to_owned()].into_iter().chain(own).chain(set);
        cluster.run("router", ROUTER, args.collect())?;
        for (number, (role, at)) in (ROUTER + 1..).zip(nodes) {
            let (name, own) = (format!("{role}-{at}"), cluster.network.address(number));
            let args = [
                format!("{role}-node"),
                format!("--name={name}"),
                "--sim".to_owned(),
                format!("--host={own}"),
                format!("--router=http://{address}:{CONTROL}"),
                format!("--kv-size={}", options.kv_size),
                format!("--set=listen.metrics_port={METRICS}"),
            ];
            let set = options.node_set.iter().map(|set| format!("--set={set}"));
            cluster.run(&name, number, args.into_iter().chain(set).collect())?;
        }
        cluster.wait_ready()?;
        Ok(cluster)
    }

    fn run(&mut self, name: &str, number: u8, args: Vec<String>) -> anyhow::Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.logs.path().join(name))?;
        let mut command = self.network.command(number);
        let process = command
            .arg(baton())
            .args(&args)
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        self.hosts.insert(name.to_owned(), Host { number, args, process });
        Ok(())
    }

    fn wait_ready(&self) -> anyhow::Result<()> {
        let (begun, nodes) = (Instant::now(), self.hosts.len() - 1);
        let is_up = || get(&self.path("/ready")).is_ok_and(|reply| reply.status == 200);
        while !is_up() || self.members()? < nodes {
            if begun.elapsed() > START {
                bail!("not ready within {START:?}; {}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    pub fn url(&self) -> String {
        format!("http://{}:{API}", self.network.address(ROUTER))
    }

    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.url())
    }

    /// A sample of the router's metrics; 0 if there is none.
    pub fn sample(&self, name: &str) -> anyhow::Result<f64> {
        let text = get(&self.path("/metrics"))?.body;
        let mut samples =
            text.lines().filter_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Ok(samples.next().unwrap_or(0.0))
    }

    /// Nodes that the router knows.
    pub fn members(&self) -> anyhow::Result<usize> {
        let of = |role| self.sample(&format!("baton_router_nodes{{role=\"{role}\"}}"));
        Ok((of("prefill")? + of("decode")?) as usize)
    }

    /// Neither hears the other any more.
    pub fn part(&self, one: &str, other: &str) -> anyhow::Result<()> {
        self.cut(one, other)?;
        self.cut(other, one)
    }

    /// What `from` sends to `to` is lost from now on.
    pub fn cut(&self, from: &str, to: &str) -> anyhow::Result<()> {
        self.network.cut(self.host(from)?.number, self.host(to)?.number)
    }

    /// Both hear each other again.
    pub fn heal(&self, one: &str, other: &str) -> anyhow::Result<()> {
        let (one, other) = (self.host(one)?.number, self.host(other)?.number);
        // One of the two may never have been cut.
        let (there, back) = (self.network.heal(one, other), self.network.heal(other, one));
        there.or(back)
    }

    /// Starts a process again that has ended.
    pub fn restart(&mut self, name: &str) -> anyhow::Result<()> {
        let mut host = self.hosts.remove(name).with_context(|| format!("no host is {name}"))?;
        host.process.wait()?;
        self.run(name, host.number, host.args)
    }

    pub fn process(&self, name: &str) -> anyhow::Result<Pid> {
        Ok(Pid::new(self.host(name)?.process.id())?)
    }

    fn host(&self, name: &str) -> anyhow::Result<&Host> {
        self.hosts.get(name).with_context(|| format!("there is no host {name}"))
    }

    fn nodes(&self) -> BTreeMap<String, String> {
        let nodes = self.hosts.iter().filter(|(name, _)| *name != "router");
        let address = |host: &Host| format!("{}:{METRICS}", self.network.address(host.number));
        nodes.map(|(name, host)| (name.clone(), address(host))).collect()
    }

    /// One sample of every node's metrics.
    pub fn samples(&self, name: &str) -> anyhow::Result<BTreeMap<String, f64>> {
        node_samples(&self.nodes(), name)
    }

    /// Waits until no node holds, runs or hands over anything: `no-leak`.
    pub fn wait_whole(&self, patience: Duration) -> anyhow::Result<()> {
        wait_whole(&self.nodes(), patience)
    }

    /// What the processes logged last, for a failed test's message.
    pub fn last_words(&self) -> String {
        let tail = |name: &String| {
            let text = fs::read_to_string(self.logs.path().join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(10).collect();
            let lines = lines.iter().rev().map(|line| format!("  {line}\n"));
            format!("{name}:\n{}", lines.collect::<String>())
        };
        self.hosts.keys().map(tail).collect()
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "the failed test shows it")]
            {
                eprintln!("{}", self.last_words());
            }
        }
        for host in self.hosts.values_mut() {
            let _ = host.process.kill();
            let _ = host.process.wait();
        }
    }
}
