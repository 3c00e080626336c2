//! A cluster whose processes are started one by one, each on a host of its own if need be.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, OpenOptions},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use crate::{
    Engine, Options, Pid, baton,
    cluster::{node_samples, wait_whole},
    etcd,
    ground::Ground,
    http::get_within,
};

const START: Duration = Duration::from_secs(60);
/// Somebody who is stopped or cut off says nothing for longer.
const LOOK: Duration = Duration::from_secs(1);
// Beside what else listens on a machine's every address.
const API: u16 = 28_000;
const CONTROL: u16 = 28_001;
const METRICS: u16 = 29_100;
const ETCD: u16 = 22_379;
const ETCD_PEERS: u16 = 22_380;
/// The name of the host where etcd runs.
const REGISTRY: &str = "etcd";

/// Routers and nodes with the simulated engine, each a process of its own that may end and be started again.
#[derive(Debug)]
pub struct Apart {
    hosts: BTreeMap<String, Host>,
    files: TempDir,
    /// Taken down after the processes.
    ground: Ground,
    options: Options,
}

#[derive(Debug)]
struct Host {
    number: u8,
    program: OsString,
    args: Vec<String>,
    process: Child,
}

/// What the nodes and routers of a cluster are called: `router`, `router-2…`, `prefill-1…`, `decode-1…`.
fn names(options: &Options) -> (Vec<String>, Vec<(&'static str, String)>) {
    let router = |at| if at == 1 { "router".to_owned() } else { format!("router-{at}") };
    let routers = (1..=options.routers).map(router).collect();
    let nodes = [("prefill", options.prefill), ("decode", options.decode)];
    let nodes = nodes
        .into_iter()
        .flat_map(|(role, count)| (1..=count).map(move |at| (role, format!("{role}-{at}"))));
    (routers, nodes.collect())
}

impl Apart {
    /// Each on a host of its own, whose connections can be cut; waits until all serve. Needs root and iproute2.
    pub fn start(options: &Options) -> anyhow::Result<Self> {
        let hosts = options.routers + options.prefill + options.decode;
        Apart::begin(options, Ground::network(u8::try_from(hosts)?)?, false)
    }

    /// The same, and routers and nodes find each other in an etcd on one more host.
    pub fn start_with_etcd(options: &Options) -> anyhow::Result<Self> {
        let hosts = options.routers + options.prefill + options.decode + 1;
        Apart::begin(options, Ground::network(u8::try_from(hosts)?)?, true)
    }

    /// All on this host, each with an address of its own.
    pub fn beside(options: &Options) -> anyhow::Result<Self> {
        Apart::begin(options, Ground::loopback(), false)
    }

    fn begin(options: &Options, ground: Ground, with_etcd: bool) -> anyhow::Result<Self> {
        ensure!(options.engine == Engine::Sim, "that isn't built yet");
        let files = tempfile::tempdir()?;
        let options = options.clone();
        let mut cluster = Apart { hosts: BTreeMap::new(), files, ground, options };
        let (routers, nodes) = names(&cluster.options);
        let mut numbers = 1..;
        let mut next = || numbers.next().context("too many hosts");
        let routers: Vec<(u8, String)> =
            routers.into_iter().map(|name| Ok((next()?, name))).collect::<anyhow::Result<_>>()?;
        let control =
            |number: &u8| format!("--router=http://{}:{CONTROL}", cluster.ground.address(*number));
        let mut found: Vec<String> = routers.iter().map(|(number, _)| control(number)).collect();
        let mut known = Vec::new();
        if with_etcd {
            let number = next()?;
            known = vec![format!("--etcd=http://{}:{ETCD}", cluster.ground.address(number))];
            found.clone_from(&known);
            cluster.run_etcd(number)?;
        }
        for (number, name) in routers {
            cluster.run_router(&name, number, &known)?;
        }
        for (role, name) in nodes {
            cluster.run_node(&name, role, next()?, &found)?;
        }
        cluster.wait_ready()?;
        Ok(cluster)
    }

    fn run_router(&mut self, name: &str, number: u8, known: &[String]) -> anyhow::Result<()> {
        let address = self.ground.address(number);
        let own = [
            "router".to_owned(),
            "--exit-with-stdin".to_owned(),
            format!("--listen={address}:{API}"),
            format!("--control={address}:{CONTROL}"),
            format!("--advertise={address}"),
        ];
        let set = self.options.router_set.iter().map(|set| format!("--set={set}"));
        let args = own.into_iter().chain(known.iter().cloned()).chain(set).collect();
        self.run(name, number, baton().into(), args)
    }

    fn run_node(
        &mut self,
        name: &str,
        role: &str,
        number: u8,
        found: &[String],
    ) -> anyhow::Result<()> {
        let own = [
            format!("{role}-node"),
            "--exit-with-stdin".to_owned(),
            format!("--name={name}"),
            "--sim".to_owned(),
            format!("--host={}", self.ground.address(number)),
            format!("--kv-size={}", self.options.kv_size),
            format!("--set=listen.metrics_port={METRICS}"),
        ];
        let set = self.options.node_set.iter().map(|set| format!("--set={set}"));
        let args = own.into_iter().chain(found.iter().cloned()).chain(set).collect();
        self.run(name, number, baton().into(), args)
    }

    fn run_etcd(&mut self, number: u8) -> anyhow::Result<()> {
        let address = self.ground.address(number);
        let (client, peer) =
            (format!("http://{address}:{ETCD}"), format!("http://{address}:{ETCD_PEERS}"));
        let args = [
            "--name=t".to_owned(),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=error".to_owned(),
            format!("--data-dir={}", self.files.path().join("etcd-data").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=t={peer}"),
        ];
        self.run(REGISTRY, number, etcd::program(), args.to_vec())
    }

    fn run(
        &mut self,
        name: &str,
        number: u8,
        program: OsString,
        args: Vec<String>,
    ) -> anyhow::Result<()> {
        let log =
            OpenOptions::new().create(true).append(true).open(self.files.path().join(name))?;
        let mut command = self.ground.command(number, &program);
        let process = command
            .args(&args)
            // It ends with this process, if it is told to.
            .stdin(Stdio::piped())
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        self.hosts.insert(name.to_owned(), Host { number, program, args, process });
        Ok(())
    }

    fn wait_ready(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !self.all_know_all() {
            if begun.elapsed() > START {
                bail!("not ready within {START:?}; {}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Whether each router serves, and has every node among its members.
    pub fn all_know_all(&self) -> bool {
        let nodes = (self.options.prefill + self.options.decode) as usize;
        let is_up = |url: &String| {
            get_within(&format!("{url}/ready"), LOOK).is_ok_and(|reply| reply.status == 200)
                && members_at(url).is_ok_and(|members| members == nodes)
        };
        self.urls().iter().all(is_up)
    }

    /// The first router's.
    pub fn url(&self) -> String {
        self.api("router")
    }

    /// Of each router's API.
    pub fn urls(&self) -> Vec<String> {
        self.routers().iter().map(|name| self.api(name)).collect()
    }

    /// Names of the routers.
    pub fn routers(&self) -> Vec<String> {
        names(&self.options).0
    }

    /// Names of the nodes.
    pub fn node_names(&self) -> Vec<String> {
        names(&self.options).1.into_iter().map(|(_, name)| name).collect()
    }

    fn api(&self, router: &str) -> String {
        format!("http://{}:{API}", self.ground.address(self.hosts[router].number))
    }

    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.url())
    }

    /// A sample of the first router's metrics; 0 if there is none.
    pub fn sample(&self, name: &str) -> anyhow::Result<f64> {
        sample_at(&self.url(), name)
    }

    /// A sample of any process's metrics; 0 if there is none, or the process doesn't answer.
    pub fn sample_of(&self, process: &str, name: &str) -> f64 {
        let url = match process.starts_with("router") {
            true => self.api(process),
            false => format!("http://{}", self.metrics_of(&self.hosts[process])),
        };
        sample_at(&url, name).unwrap_or(0.0)
    }

    /// Whether the process itself says that it is well.
    pub fn is_healthy(&self, node: &str) -> bool {
        let url = format!("http://{}/health", self.metrics_of(&self.hosts[node]));
        get_within(&url, LOOK).is_ok_and(|reply| reply.status == 200)
    }

    /// Nodes that the first router knows.
    pub fn members(&self) -> anyhow::Result<usize> {
        members_at(&self.url())
    }

    /// Neither hears the other any more.
    pub fn part(&self, one: &str, other: &str) -> anyhow::Result<()> {
        self.cut(one, other)?;
        self.cut(other, one)
    }

    /// What `from` sends to `to` is lost from now on.
    pub fn cut(&self, from: &str, to: &str) -> anyhow::Result<()> {
        self.ground.cut(self.host(from)?.number, self.host(to)?.number)
    }

    /// Both hear each other again.
    pub fn heal(&self, one: &str, other: &str) -> anyhow::Result<()> {
        let (one, other) = (self.host(one)?.number, self.host(other)?.number);
        // One of the two may never have been cut.
        let (there, back) = (self.ground.heal(one, other), self.ground.heal(other, one));
        there.or(back)
    }

    /// Starts a process again that has ended.
    pub fn restart(&mut self, name: &str) -> anyhow::Result<()> {
        let mut host = self.hosts.remove(name).with_context(|| format!("no host is {name}"))?;
        host.process.wait()?;
        self.run(name, host.number, host.program, host.args)
    }

    pub fn process(&self, name: &str) -> anyhow::Result<Pid> {
        Ok(Pid::new(self.host(name)?.process.id())?)
    }

    fn host(&self, name: &str) -> anyhow::Result<&Host> {
        self.hosts.get(name).with_context(|| format!("there is no host {name}"))
    }

    fn nodes(&self) -> BTreeMap<String, String> {
        let names = self.node_names().into_iter();
        names.map(|name| (name.clone(), self.metrics_of(&self.hosts[&name]))).collect()
    }

    fn metrics_of(&self, host: &Host) -> String {
        format!("{}:{METRICS}", self.ground.address(host.number))
    }

    /// One sample of every node's metrics.
    pub fn samples(&self, name: &str) -> anyhow::Result<BTreeMap<String, f64>> {
        node_samples(&self.nodes(), name)
    }

    /// Waits until no node holds, runs or hands over anything: `no-leak`.
    pub fn wait_whole(&self, patience: Duration) -> anyhow::Result<()> {
        wait_whole(&self.nodes(), patience)
    }

    /// Waits until every router has every node again, and nobody has anything left of any request.
    pub fn wait_idle(&self, patience: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        let of_routers = ["baton_router_in_flight", "baton_router_queued"];
        let has_nothing = |router: &String| {
            of_routers
                .iter()
                .all(|name| sample_at(&self.api(router), name).is_ok_and(|of| of == 0.0))
        };
        while !(self.all_know_all() && self.routers().iter().all(has_nothing)) {
            ensure!(begun.elapsed() < patience, "a router isn't idle after {patience:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.wait_whole(patience)
    }

    /// What each process logged, by its name; of those that were started again, all.
    pub fn logs(&self) -> BTreeMap<String, String> {
        let log = |name: &String| fs::read_to_string(self.files.path().join(name));
        self.hosts.keys().map(|name| (name.clone(), log(name).unwrap_or_default())).collect()
    }

    /// What the processes logged last, for a failed test's message.
    pub fn last_words(&self) -> String {
        let tail = |name: &String| {
            let text = fs::read_to_string(self.files.path().join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(10).collect();
            let lines = lines.iter().rev().map(|line| format!("  {line}\n"));
            format!("{name}:\n{}", lines.collect::<String>())
        };
        self.hosts.keys().map(tail).collect()
    }
}

fn sample_at(url: &str, name: &str) -> anyhow::Result<f64> {
    let text = get_within(&format!("{url}/metrics"), LOOK)?.body;
    let mut samples = text.lines().filter_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Ok(samples.next().unwrap_or(0.0))
}

fn members_at(url: &str) -> anyhow::Result<usize> {
    let of = |role| sample_at(url, &format!("baton_router_nodes{{role=\"{role}\"}}"));
    Ok((of("prefill")? + of("decode")?) as usize)
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
