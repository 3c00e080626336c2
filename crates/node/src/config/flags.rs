//! The command line of a node.

use std::{net::IpAddr, path::PathBuf};

use super::{ConfigError, NodeConfig, Sources};
use crate::telemetry::LogFormat;

/// Prefix of the environment variables a node listens to.
const ENVIRONMENT: &str = "BATON_NODE_";

/// Flags of a node. Every key of the configuration can be reached by `--set`; the ones people need
/// daily have a name.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct NodeFlags {
    /// TOML file with the configuration.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of this node, unique in the cluster.
    #[arg(long)]
    pub name: Option<String>,
    /// A router's control address. Repeatable: the node registers with each.
    #[arg(long, value_name = "http://HOST:PORT")]
    pub router: Vec<String>,
    /// An etcd endpoint, where routers are found. Repeatable, for the members of one etcd cluster.
    #[arg(long, value_name = "http://HOST:PORT")]
    pub etcd: Vec<String>,
    /// The Kubernetes service that the routers are behind.
    #[arg(long, value_name = "SERVICE", conflicts_with = "etcd")]
    pub kubernetes: Option<String>,
    /// Address to listen on.
    #[arg(long, value_name = "IP")]
    pub host: Option<IpAddr>,
    /// GGUF file, or folder of safetensors files, to serve.
    #[arg(long, value_name = "MODEL", conflicts_with = "sim")]
    pub model: Option<PathBuf>,
    /// Serve with the simulated engine.
    #[arg(long)]
    pub sim: bool,
    /// Name clients use for the model.
    #[arg(long, value_name = "NAME")]
    pub served_model: Option<String>,
    /// Compute threads.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Size of the KV pool, such as 512MiB.
    #[arg(long, value_name = "SIZE")]
    pub kv_size: Option<String>,
    /// How to log.
    #[arg(long, value_name = "text|json")]
    pub log_format: Option<LogFormat>,
    /// Any key of the configuration, such as listen.control_port=9000. Repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print the configuration as TOML and exit.
    #[arg(long)]
    pub print_config: bool,
}

impl NodeFlags {
    /// The configuration from file, environment and flags, later ones winning, validated.
    /// `environment` is what `main` read, `std::env::vars()`.
    pub fn load(
        &self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<NodeConfig, ConfigError> {
        let kind = self.sim.then_some("sim").or(self.model.as_ref().map(|_| "llama"));
        let config: NodeConfig = Sources::new(self.config.as_deref())
            .environment(ENVIRONMENT, environment)
            .flag("--name", "name", self.name.as_ref())
            .flag("--router", "routers", some(&self.router))
            .flag("--etcd", "registry.etcd", some(&self.etcd))
            .flag("--kubernetes", "registry.kubernetes.service", self.kubernetes.as_ref())
            .flag("--host", "listen.host", self.host.as_ref())
            .flag(if self.sim { "--sim" } else { "--model" }, "engine.kind", kind)
            .flag("--model", "engine.model", self.model.as_ref())
            .flag("--served-model", "model", self.served_model.as_ref())
            .flag("--threads", "engine.threads", self.threads)
            .flag("--kv-size", "kv.size", self.kv_size.as_ref())
            .flag("--log-format", "log.format", self.log_format)
            .set(&self.set)?
            .required("engine", "name a model with --model MODEL, or take --sim")
            .load()?;
        config.validate()?;
        Ok(config)
    }
}

/// A repeatable flag, if it was given.
fn some(given: &[String]) -> Option<&[String]> {
    (!given.is_empty()).then_some(given)
}
