//! What a node is told at its start: one typed tree, refused when a key is unknown or a value makes
//! no sense.

mod flags;
mod load;
mod registry;
mod units;

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use baton_scheduler::{SchedulerConfig, sim::SimConfig};
use baton_types::{KvDtype, Role};
use serde::{Deserialize, Serialize};

pub use self::{
    flags::NodeFlags,
    load::{ConfigError, Sources, to_toml},
    registry::{KubernetesConfig, RegistryConfig},
    units::{ByteSize, Span, UnitError},
};
use crate::telemetry::LogConfig;

/// Configuration of a prefill or decode node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Unique in the cluster. Unset: the role and four random hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The name clients use for the model. Unset: the model file's stem, its folder's
    /// name, or `sim`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Control addresses of routers, `http://host:port`. Without any, and without a registry, the node
    /// serves whoever calls.
    #[serde(default)]
    pub routers: Vec<String>,
    /// How long running requests may finish after the signal to stop.
    #[serde(default = "default_drain")]
    pub drain: Span,
    pub engine: EngineConfig,
    /// Where routers are found besides.
    #[serde(default)]
    pub registry: RegistryConfig,
    #[serde(default)]
    pub listen: ListenConfig,
    #[serde(default)]
    pub kv: KvConfig,
    #[serde(default)]
    pub scheduler: SchedulerConfig,
    #[serde(default)]
    pub transfer: TransferConfig,
    #[serde(default)]
    pub log: LogConfig,
}

/// Where a node listens. Port 0 takes a free one; the router learns it from the node's hello.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenConfig {
    pub host: IpAddr,
    /// The host others reach this node at. Needed when `host` is `0.0.0.0` or `::`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// gRPC services.
    pub control_port: u16,
    /// Page transfer (prefill nodes).
    pub data_port: u16,
    /// `/metrics`, `/health`, `/ready`.
    pub metrics_port: u16,
}

/// What computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum EngineConfig {
    /// A model's weights, of any architecture the engine runs.
    Llama(LlamaConfig),
    /// No model: tokens are hashes of the pages they depend on, steps take the time of a profile;
    /// see `baton_scheduler::sim`.
    Sim(SimConfig),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlamaConfig {
    /// A GGUF file, or a folder of safetensors files.
    pub model: PathBuf,
    /// Compute threads. Unset: one for each core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Keep each of them on a core of its own: for a node that has its cores to itself.
    #[serde(default)]
    pub pin: bool,
    #[serde(default = "default_dtype")]
    pub kv_dtype: KvDtype,
    #[serde(default = "default_block_tokens")]
    pub block_tokens: u32,
    /// `portable`, `avx2`, `avx512`, `amx` or `neon`. Unset: the best this machine has. The tokens are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isa: Option<IsaChoice>,
    /// Shortens the model's context. Unset: as trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_context: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IsaChoice {
    Portable,
    Avx2,
    Avx512,
    Amx,
    Neon,
}

/// Size of the KV pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KvConfig {
    /// Unset, and `blocks` unset too: the smaller of 1 GiB and an eighth of the free memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,
    /// The pool in blocks; excludes `size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<u32>,
    /// Take its memory at the start, in huge pages where the system has them: steps over long contexts are shorter,
    /// and no request waits for memory.
    pub prefault: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransferConfig {
    /// How long a node keeps finished pages for a puller.
    pub lease: Span,
    /// TCP connections to each source.
    pub streams: u32,
    /// Pulls at one time (decode nodes); more wait.
    pub max_pulls: u32,
    /// Sequences that migrate away at one time, and as many that come (decode nodes); more are refused.
    pub max_migrations: u32,
    /// Of the time, what sending the pages of sequences that migrate may take while they still run here:
    /// the steps of all that run here take about as much longer. A node that drains takes all it can.
    pub migration_share: f64,
}

const fn default_drain() -> Span {
    Span::from_secs(30)
}

const fn default_dtype() -> KvDtype {
    KvDtype::F16
}

const fn default_block_tokens() -> u32 {
    16
}

impl Default for ListenConfig {
    fn default() -> Self {
        ListenConfig {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            advertise: None,
            control_port: 0,
            data_port: 0,
            metrics_port: 0,
        }
    }
}

impl Default for TransferConfig {
    fn default() -> Self {
        TransferConfig {
            lease: Span::from_secs(30),
            streams: 2,
            max_pulls: 64,
            max_migrations: 8,
            migration_share: 0.03,
        }
    }
}

impl NodeConfig {
    /// Everything but the engine at its default.
    pub fn new(engine: EngineConfig) -> Self {
        NodeConfig {
            name: None,
            model: None,
            routers: Vec::new(),
            drain: default_drain(),
            engine,
            registry: RegistryConfig::default(),
            listen: ListenConfig::default(),
            kv: KvConfig::default(),
            scheduler: SchedulerConfig::default(),
            transfer: TransferConfig::default(),
            log: LogConfig::default(),
        }
    }

    /// The configured name, or a fresh one from `random`.
    pub fn name_or(&self, role: Role, random: u16) -> String {
        self.name.clone().unwrap_or_else(|| format!("{role}-{random:04x}"))
    }

    /// The name clients use for the model.
    pub fn model_name(&self) -> String {
        let own = || match &self.engine {
            EngineConfig::Llama(llama) => {
                let file = llama.model.extension().is_some_and(|extension| extension == "gguf");
                let name = if file { llama.model.file_stem() } else { llama.model.file_name() };
                name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
            }
            EngineConfig::Sim(_) => "sim".to_owned(),
        };
        self.model.clone().unwrap_or_else(own)
    }

    /// Refuses values that parse and make no sense; the error names the key and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |key, value: &dyn ToString, why: &str| {
            Err(ConfigError::invalid(key, value.to_string(), why))
        };
        if let Some(name) = &self.name
            && !is_name(name)
        {
            return refuse("name", name, "use 1 to 63 letters, digits, `-`, `_` or `.`");
        }
        if let Some(router) = self.routers.iter().find(|router| !is_http_address(router)) {
            return refuse("routers", router, "expected http://host:port");
        }
        self.registry.validate()?;
        if self.listen.host.is_unspecified() && self.listen.advertise.is_none() {
            let why = "set listen.advertise to the host others reach this node at";
            return refuse("listen.host", &self.listen.host, why);
        }
        if self.kv.blocks == Some(0) {
            return refuse("kv.blocks", &0, "must be at least 1");
        }
        if let (Some(size), Some(_)) = (self.kv.size, self.kv.blocks) {
            return refuse("kv.size", &size, "excludes kv.blocks: set one of them");
        }
        for (key, value) in self.positive() {
            if value == 0 {
                return refuse(key, &0, "must be at least 1");
            }
        }
        let share = self.transfer.migration_share;
        if !(share > 0.0 && share <= 1.0) {
            return refuse("transfer.migration_share", &share, "must be above 0 and at most 1");
        }
        if self.transfer.lease.0 < Duration::from_millis(10) {
            return refuse("transfer.lease", &self.transfer.lease, "must be at least 10ms");
        }
        self.engine.validate()
    }

    fn positive(&self) -> [(&'static str, u64); 7] {
        [
            ("scheduler.max_batch_tokens", self.scheduler.max_batch_tokens.into()),
            ("scheduler.chunk_tokens", self.scheduler.chunk_tokens.into()),
            ("scheduler.max_running", self.scheduler.max_running.into()),
            ("scheduler.max_waiting", self.scheduler.max_waiting.into()),
            ("transfer.streams", self.transfer.streams.into()),
            ("transfer.max_pulls", self.transfer.max_pulls.into()),
            ("transfer.max_migrations", self.transfer.max_migrations.into()),
        ]
    }
}

impl EngineConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        match self {
            EngineConfig::Llama(llama) => llama.validate(),
            EngineConfig::Sim(sim) => sim
                .layout
                .validate()
                .map_err(|why| ConfigError::invalid("engine.layout", sim.layout, why.to_string())),
        }
    }
}

impl LlamaConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        let block_tokens = self.block_tokens;
        if block_tokens == 0 || !block_tokens.is_multiple_of(16) || block_tokens > 256 {
            let why = "must be a multiple of 16, at most 256";
            return Err(ConfigError::invalid("engine.block_tokens", block_tokens, why));
        }
        for (key, value) in [
            ("engine.threads", self.threads.map(|threads| threads as u64)),
            ("engine.max_context", self.max_context.map(u64::from)),
        ] {
            if value == Some(0) {
                return Err(ConfigError::invalid(key, 0, "must be at least 1"));
            }
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn is_http_address(address: &str) -> bool {
    address
        .strip_prefix("http://")
        .and_then(|rest| rest.rsplit_once(':'))
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0))
}

#[cfg(test)]
mod tests;
