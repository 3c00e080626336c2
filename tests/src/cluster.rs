//! A cluster under test.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use crate::{Pid, children_of, get, process::command_of};

/// How long a cluster may take to serve; a debug build loads its model in a few seconds.
const START: Duration = Duration::from_secs(120);

/// What the nodes compute with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Sim,
    /// The default model.
    Llama,
}

/// A cluster to start: one prefill and two decode nodes unless said otherwise.
#[derive(Clone, Debug)]
pub struct Options {
    pub engine: Engine,
    pub prefill: u32,
    pub decode: u32,
    pub routers: u32,
    /// An etcd endpoint where they find each other; none: nodes are told the routers' addresses.
    pub etcd: Option<String>,
    /// Keys of every node's configuration.
    pub node_set: Vec<String>,
    /// Keys of the router's.
    pub router_set: Vec<String>,
    /// Memory for each node's pages.
    pub kv_size: &'static str,
    /// Where files and batches are kept; none: for this cluster only.
    pub data: Option<PathBuf>,
}

impl Options {
    pub fn new(engine: Engine) -> Self {
        Options {
            engine,
            prefill: 1,
            decode: 2,
            routers: 1,
            etcd: None,
            node_set: Vec::new(),
            router_set: Vec::new(),
            kv_size: "256MiB",
            data: None,
        }
    }

    pub fn nodes(self, prefill: u32, decode: u32) -> Self {
        Options { prefill, decode, ..self }
    }

    /// Sets a key of the router's configuration.
    pub fn router_set(mut self, pair: impl Into<String>) -> Self {
        self.router_set.push(pair.into());
        self
    }

    /// Sets a key of every node's configuration, such as `scheduler.chunk_tokens=64`.
    pub fn set(mut self, pair: impl Into<String>) -> Self {
        self.node_set.push(pair.into());
        self
    }
}

/// A running cluster: `baton up` and its children.
#[derive(Debug)]
pub struct Cluster {
    up: Child,
    urls: Vec<String>,
    logs: TempDir,
    /// Where files and batches are, unless the options say where.
    _data: TempDir,
    children: Vec<Pid>,
}

/// The binary under test.
pub fn baton() -> PathBuf {
    let path = env::var_os("BATON_BIN").map_or_else(
        || {
            // target/debug/deps/suite-… → target/debug/baton
            let test = env::current_exe().expect("a test knows its own path");
            test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps").join("baton")
        },
        PathBuf::from,
    );
    assert!(path.is_file(), "{} isn't built; run `cargo build -p baton` first", path.display());
    path
}

/// The default model's file: `BATON_MODEL`, or what `baton model pull` has.
pub fn model() -> PathBuf {
    if let Some(path) = env::var_os("BATON_MODEL") {
        return PathBuf::from(path);
    }
    let output = Command::new(baton())
        .args(["model", "pull"])
        .stdin(Stdio::null())
        .output()
        .expect("baton starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`baton model pull` failed: {said}");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

impl Cluster {
    /// Starts a cluster on free ports and waits until it serves.
    pub fn start(options: &Options) -> anyhow::Result<Self> {
        let (logs, data) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let mut command = Command::new(baton());
        command
            .args(["up", "--no-demo", "--port=0", "--control-port=0"])
            .arg(format!("--prefill={}", options.prefill))
            .arg(format!("--decode={}", options.decode))
            .arg(format!("--routers={}", options.routers))
            .args(options.etcd.iter().map(|etcd| format!("--etcd={etcd}")))
            .arg(format!("--kv-size={}", options.kv_size))
            .arg("--data-dir")
            .arg(options.data.as_deref().unwrap_or(data.path()))
            .args(["--node-set=log.format=\"json\"", "--log-dir"])
            .arg(logs.path())
            .args(options.node_set.iter().map(|set| format!("--node-set={set}")))
            .args(options.router_set.iter().map(|set| format!("--router-set={set}")));
        match options.engine {
            Engine::Sim => command.arg("--engine=sim"),
            Engine::Llama => command.arg("--model").arg(model()),
        };
        let mut up = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting `baton up`")?;
        let stdout = up.stdout.take().context("standard output is a pipe")?;
        // From here on dropping ends everything.
        let mut cluster = Cluster { up, urls: Vec::new(), logs, _data: data, children: Vec::new() };
        cluster.urls = serving_at(stdout).with_context(|| cluster.last_words())?;
        cluster.children = children_of(cluster.up.id());
        let expected = options.routers + options.prefill + options.decode;
        let found = cluster.children.len();
        ensure!(found == expected as usize, "{expected} children expected, {found} found");
        Ok(cluster)
    }

    /// `http://host:port` of the API, the first router's.
    pub fn url(&self) -> &str {
        &self.urls[0]
    }

    /// Of each router's.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.url())
    }

    /// Id of the `baton up` process.
    pub fn parent(&self) -> anyhow::Result<Pid> {
        Ok(Pid::new(self.up.id())?)
    }

    /// The router's and the nodes' processes.
    pub fn children(&self) -> &[Pid] {
        &self.children
    }

    /// The router's process.
    pub fn router(&self) -> anyhow::Result<&Pid> {
        let is_router = |child: &&Pid| command_of(child.id()).is_some_and(|name| name == "router");
        self.children.iter().find(is_router).context("no child is a router")
    }

    /// The process of the router that serves there.
    pub fn router_at(&self, url: &str) -> anyhow::Result<&Pid> {
        let address = url.strip_prefix("http://").context("a url")?;
        self.child(address)
    }

    /// Waits for `baton up` to end and returns its exit code.
    pub fn wait(&mut self) -> anyhow::Result<Option<i32>> {
        Ok(self.up.wait()?.code())
    }

    /// Every node's name and the address of its metrics, from its log.
    pub fn nodes(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut nodes = BTreeMap::new();
        for (name, log) in self.logs()? {
            if !name.starts_with("router") {
                let address = metrics_address(&log);
                nodes.insert(name.clone(), address.with_context(|| format!("{name} names none"))?);
            }
        }
        Ok(nodes)
    }

    /// What each process logged, by its name.
    pub fn logs(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut logs = BTreeMap::new();
        for entry in fs::read_dir(self.logs.path())? {
            let path = entry?.path();
            let name = path.file_stem().context("a log has a name")?.to_string_lossy().into_owned();
            logs.insert(name, fs::read_to_string(&path)?);
        }
        Ok(logs)
    }

    /// The child that was started with `name` among its arguments, such as `decode-1`.
    pub fn child(&self, name: &str) -> anyhow::Result<&Pid> {
        let is_named = |child: &&Pid| {
            let line = fs::read(format!("/proc/{}/cmdline", child.id())).unwrap_or_default();
            line.split(|&byte| byte == 0).any(|word| word == name.as_bytes())
        };
        self.children.iter().find(is_named).with_context(|| format!("no child is {name}"))
    }

    /// One sample of every node's metrics, such as `baton_kv_blocks{state="held"}`.
    pub fn samples(&self, name: &str) -> anyhow::Result<BTreeMap<String, f64>> {
        node_samples(&self.nodes()?, name)
    }

    /// Waits until no node holds, runs or hands over anything: `no-leak`.
    pub fn wait_whole(&self, patience: Duration) -> anyhow::Result<()> {
        wait_whole(&self.nodes()?, patience)
    }

    /// The same of all nodes but one that was killed.
    pub fn wait_whole_without(&self, killed: &str, patience: Duration) -> anyhow::Result<()> {
        let mut nodes = self.nodes()?;
        nodes.remove(killed).with_context(|| format!("no node is {killed}"))?;
        wait_whole(&nodes, patience)
    }

    /// What the processes logged last, for a failed test's message.
    pub fn last_words(&self) -> String {
        let mut words = String::new();
        for entry in fs::read_dir(self.logs.path()).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(8).collect();
            words += &format!("{}:\n", entry.path().display());
            words.extend(tail.iter().rev().map(|line| format!("  {line}\n")));
        }
        words
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "the failed test shows it")]
            {
                eprintln!("{}", self.last_words());
            }
        }
        // Killing the parent ends the children; a test of its own proves that.
        let _ = self.up.kill();
        let _ = self.up.wait();
        for child in &self.children {
            if !child.wait_end(Duration::from_secs(10)) {
                let _ = child.kill();
            }
        }
    }
}

/// One sample of each node's metrics; by its name, the address of those is given.
pub(crate) fn node_samples(
    nodes: &BTreeMap<String, String>,
    name: &str,
) -> anyhow::Result<BTreeMap<String, f64>> {
    let sample = |(node, address): (&String, &String)| {
        let text = get(&format!("http://{address}/metrics"))?.body;
        let sample = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = sample.with_context(|| format!("{node} has no {name} in\n{text}"))?;
        Ok((node.clone(), value.trim().parse()?))
    };
    nodes.iter().map(sample).collect()
}

/// Waits until none of the nodes holds, runs or hands over anything.
pub(crate) fn wait_whole(
    nodes: &BTreeMap<String, String>,
    patience: Duration,
) -> anyhow::Result<()> {
    let names = [
        "baton_kv_blocks{state=\"held\"}",
        "baton_transfers_held",
        "baton_requests_running",
        "baton_requests_waiting",
    ];
    let start = std::time::Instant::now();
    loop {
        let mut rest = Vec::new();
        for name in names {
            let samples = node_samples(nodes, name)?;
            rest.extend(samples.into_iter().filter(|(_, v)| *v != 0.0).map(|s| (name, s)));
        }
        if rest.is_empty() {
            return Ok(());
        }
        if start.elapsed() > patience {
            bail!("not whole after {patience:?}: {rest:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Reads `baton up`'s output until it says where it serves; afterwards somebody must go on
/// reading, or the pipe fills.
fn serving_at(stdout: ChildStdout) -> anyhow::Result<Vec<String>> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if line.starts_with("Serving") {
                let urls = line.split_whitespace().filter(|word| word.starts_with("http://"));
                let _ = tell.send(urls.map(str::to_owned).collect());
            }
        }
    });
    told.recv_timeout(START).context("`baton up` never said that it serves")
}

fn metrics_address(log: &str) -> Option<String> {
    let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
    lines.into_iter().find_map(|line: serde_json::Value| Some(line["metrics"].as_str()?.to_owned()))
}
