//! Which processes a cluster is made of, and whether this machine can hold them.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use baton_engine::Model;

use super::{UpError, memory};

pub(super) const ROUTER: &str = "router";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum EngineChoice {
    /// A model's weights.
    Llama,
    /// No model: tokens are hashes of the KV pages they depend on. For trying and testing.
    Sim,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// Prefill nodes.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    prefill: u16,
    /// Decode nodes.
    #[arg(long, value_name = "M", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    decode: u16,
    /// Routers. Each serves the API; requests go to any of them.
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    routers: u16,
    /// An etcd endpoint, where nodes find the routers and the routers elect one of them. Left out: nodes are
    /// told the routers' addresses. Repeatable, for the members of one etcd cluster.
    #[arg(long, value_name = "http://HOST:PORT")]
    etcd: Vec<String>,
    /// Address everything listens on.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port of the API, HTTP and gRPC, of the first router; 0 takes a free one, as the others do.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Port the nodes register at, of the first router; 0 takes a free one, as the others do.
    #[arg(long, default_value_t = 8001)]
    control_port: u16,
    /// What computes.
    #[arg(long, value_enum, default_value = "llama")]
    engine: EngineChoice,
    /// GGUF file, or folder of safetensors files, to serve instead of the default model.
    #[arg(long, value_name = "MODEL")]
    pub(super) model: Option<PathBuf>,
    /// Compute threads of each node. Left out: the cores divided among the nodes.
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// KV pool of each node, such as 512MiB.
    #[arg(long, value_name = "SIZE", default_value = "512MiB")]
    kv_size: baton_node::config::ByteSize,
    /// Any key of every node's configuration, such as scheduler.chunk_tokens=64. Repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    node_set: Vec<String>,
    /// Any key of the router's configuration, such as timeouts.request=60s. Repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    router_set: Vec<String>,
    /// Leave after the first answer; exit code 0 when it was complete.
    #[arg(long)]
    pub(super) once: bool,
    /// Serve without answering the built-in prompt first.
    #[arg(long)]
    pub(super) no_demo: bool,
    /// Show the logs of all processes.
    #[arg(long, short)]
    pub(super) verbose: bool,
    /// Folder for the logs of all processes, kept. Left out: a temporary one.
    #[arg(long, value_name = "DIR")]
    pub(super) log_dir: Option<PathBuf>,
    /// Folder for uploaded files and batches, kept. Left out: a temporary one.
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// Folder for downloaded models. Left out: `baton` in the user's cache folder.
    #[arg(long, value_name = "DIR", env = "BATON_CACHE_DIR")]
    pub(super) cache_dir: Option<PathBuf>,
}

impl UpArgs {
    pub(super) fn is_sim(&self) -> bool {
        self.engine == EngineChoice::Sim
    }
}

/// A cluster that fits this machine.
#[derive(Debug)]
pub(super) struct Plan {
    /// The routers first.
    pub(super) processes: Vec<Process>,
    /// Where each router serves.
    pub(super) apis: Vec<SocketAddr>,
    pub(super) prefill: u32,
    pub(super) decode: u32,
    model: String,
    threads: usize,
}

/// One child: `baton` with these arguments.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
}

/// Plans the processes, or says in one sentence what is in the way.
pub(super) fn plan(args: &UpArgs, model: Option<PathBuf>, data: &Path) -> Result<Plan, UpError> {
    if let Some(path) = &model {
        check_memory(args, path)?;
    }
    let ports = free_ports(args)?;
    let nodes = usize::from(args.prefill) + usize::from(args.decode);
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = args.threads.map_or((cores / nodes).max(1), NonZeroUsize::get);

    let etcd: Vec<String> = args.etcd.iter().flat_map(|etcd| words(&["--etcd", etcd])).collect();
    let mut processes = Vec::new();
    for (number, &(api, control)) in ports.iter().enumerate() {
        let mut process = router(number, api, control, data);
        process.arguments.extend_from_slice(&etcd);
        let set = args.router_set.iter().flat_map(|set| words(&["--set", set]));
        process.arguments.extend(set);
        processes.push(process);
    }
    let found: Vec<String> = match etcd.is_empty() {
        true => ports
            .iter()
            .flat_map(|(_, control)| words(&["--router", &format!("http://{control}")]))
            .collect(),
        false => etcd,
    };
    let roles = [("prefill", args.prefill), ("decode", args.decode)];
    for (role, number) in
        roles.iter().flat_map(|(role, count)| (1..=*count).map(move |i| (role, i)))
    {
        let name = format!("{role}-{number}");
        let mut arguments = words(&[&format!("{role}-node"), "--exit-with-stdin", "--name", &name]);
        arguments.extend_from_slice(&found);
        arguments.extend(words(&["--host", &args.host.to_string()]));
        arguments.extend(words(&["--kv-size", &args.kv_size.to_string()]));
        match &model {
            Some(path) => arguments.extend(words(&[
                "--model",
                &path.to_string_lossy(),
                "--threads",
                &threads.to_string(),
            ])),
            None => arguments.push("--sim".to_owned()),
        }
        arguments.extend(args.node_set.iter().flat_map(|set| words(&["--set", set])));
        processes.push(Process { name, arguments });
    }
    Ok(Plan {
        processes,
        apis: ports.into_iter().map(|(api, _)| api).collect(),
        prefill: args.prefill.into(),
        decode: args.decode.into(),
        model: model.map_or_else(|| "the simulated engine".to_owned(), |path| file_name(&path)),
        threads,
    })
}

fn router(number: usize, api: SocketAddr, control: SocketAddr, data: &Path) -> Process {
    let (api, control) = (api.to_string(), control.to_string());
    // The first has the name that it has alone.
    let suffix = if number == 0 { String::new() } else { format!("-{}", number + 1) };
    let batches = data.join(format!("batches{suffix}"));
    Process {
        name: format!("{ROUTER}{suffix}"),
        arguments: words(&[
            "router",
            "--exit-with-stdin",
            "--listen",
            &api,
            "--control",
            &control,
            "--batch-dir",
            &batches.to_string_lossy(),
        ]),
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

impl Plan {
    pub(super) fn summary(&self) -> String {
        let plural = |count: u32| if count == 1 { "" } else { "s" };
        format!(
            "{} router{}, {} prefill node{}, {} decode node{}; {}, {} thread{} each",
            self.apis.len(),
            plural(self.apis.len() as u32),
            self.prefill,
            plural(self.prefill),
            self.decode,
            plural(self.decode),
            self.model,
            self.threads,
            plural(self.threads as u32),
        )
    }

    /// Where the routers serve, the first one first.
    pub(super) fn urls(&self) -> Vec<String> {
        self.apis.iter().map(|api| format!("http://{api}")).collect()
    }
}

/// Each router's API and control address, none taken by anybody at this moment.
fn free_ports(args: &UpArgs) -> Result<Vec<(SocketAddr, SocketAddr)>, UpError> {
    if args.port == args.control_port && args.port != 0 {
        return Err(UpError::SamePort { port: args.port });
    }
    let free = |port: u16, flag| {
        TcpListener::bind((args.host, port)).map_err(|error| UpError::Port {
            host: args.host,
            port,
            reason: match error.kind() {
                std::io::ErrorKind::AddrInUse => "it is in use".to_owned(),
                _ => error.to_string(),
            },
            flag,
        })
    };
    // All are held until all are known, so that as many zeros become as many ports.
    let mut held = Vec::new();
    for number in 0..args.routers {
        let port = |first: u16| if number == 0 { first } else { 0 };
        held.push((
            free(port(args.port), "--port")?,
            free(port(args.control_port), "--control-port")?,
        ));
    }
    let address = |listener: &TcpListener| {
        listener.local_addr().map_err(super::io_error("address of a listening socket"))
    };
    held.iter().map(|(api, control)| Ok((address(api)?, address(control)?))).collect()
}

/// Refuses a cluster whose pools and weights can't fit.
fn check_memory(args: &UpArgs, model: &Path) -> Result<(), UpError> {
    let need = memory::Need {
        nodes: u64::from(args.prefill) + u64::from(args.decode),
        kv: args.kv_size.0,
        weights: Model::stored_bytes(model)?,
    };
    match memory::available() {
        Some(available) => need.fits(available),
        None => Ok(()),
    }
}
