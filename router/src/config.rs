//! What a router is told at its start: one typed tree, refused when a key is unknown or a value
//! makes no sense.

mod advice;
mod class;
mod latency;
mod limits;
mod rebalance;
mod roles;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use baton_membership::StepPatience;
use baton_node::{
    config::{ByteSize, ConfigError, RegistryConfig, Sources, Span},
    telemetry::{LogConfig, LogFormat},
};
use baton_policy::{Policy, PolicyConfig};
use serde::{Deserialize, Serialize};

pub(crate) use self::class::DEFAULT as DEFAULT_CLASS;
use self::{advice::AdviceConfig, rebalance::RebalanceConfig, roles::RolesConfig};
pub use self::{class::ClassesConfig, latency::LatencyConfig, limits::LimitsConfig};

/// Prefix of the environment variables a router listens to.
const ENVIRONMENT: &str = "BATON_ROUTER_";
/// What a tenant's share may be.
const SHARES: std::ops::RangeInclusive<f64> = 1e-3..=1e3;

/// Configuration of a router.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouterConfig {
    /// Where clients come: HTTP and gRPC on one port, with `/metrics`, `/health` and `/ready`.
    pub listen: SocketAddr,
    /// Where nodes register.
    pub control_listen: SocketAddr,
    /// The host that nodes reach the control port at. Needed with a registry when the port listens on all
    /// addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// Where nodes find this router and the others, and where one of them is elected.
    pub registry: RegistryConfig,
    pub limits: LimitsConfig,
    pub timeouts: TimeoutsConfig,
    pub policy: PlacementConfig,
    pub latency: LatencyConfig,
    pub advice: AdviceConfig,
    pub rebalance: RebalanceConfig,
    pub roles: RolesConfig,
    pub batches: BatchesConfig,
    /// What requests may be of; see `docs/placement.md`.
    pub classes: ClassesConfig,
    /// What tenants get, in proportion to each other, while their requests wait; others: 1.
    pub tenant_shares: BTreeMap<String, f64>,
    pub log: LogConfig,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutsConfig {
    /// A request's whole life; a client may ask for less.
    pub request: Span,
    /// The longest a request waits for a place.
    pub queue: Span,
    /// A node that has said nothing for so long is no member any more.
    pub lease: Span,
    /// How often nodes speak.
    pub heartbeat: Span,
    /// A node whose engine has computed one step for so long, and for eight times what such steps take there, counts
    /// as dead until the step ends.
    pub step: Span,
    /// How long requests may finish after the signal to stop.
    pub drain: Span,
    /// How long a streamed HTTP answer waits for its client to come again with `Last-Event-ID`
    /// after its connection broke; 0: not at all, its request is cancelled at once.
    pub resume: Span,
}

/// How placements are chosen; see `baton_policy`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlacementConfig {
    pub policy: Policy,
    /// Requests that may wait on a prefill node for blocks.
    pub max_waiting: u32,
    /// How long an output is reckoned to be, when it may be longer.
    pub expected_output_tokens: u32,
    /// Costs within this share of the best are as good.
    pub near_equal: f64,
    /// Work that a prefill node is given beyond what it does; what comes after waits in the
    /// router, where it can still be ordered.
    pub queue_ahead: Span,
    /// Prompts with at most so many tokens to compute may be computed by the node that decodes; 0:
    /// none are.
    pub local_tokens: u32,
    /// Whether nodes that decode compute longer prompts too when no prefill node can be in time, as
    /// far as they can spare it.
    pub lend: bool,
    /// What is a request's of a class counts so many times as much as what is one's of the class below: the time
    /// that others cost it, and its objective.
    pub priority_weight: f64,
}

/// The files and batches a router keeps; see `docs/batches.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchesConfig {
    /// Where they are kept: one router's alone. Empty: nowhere, and `/v1/files` and `/v1/batches`
    /// say so.
    pub directory: PathBuf,
    /// Lines of all batches that run or wait for a place at one time.
    pub max_running: u32,
    /// Prefill nodes with so many prompts to compute are left to others.
    pub max_prompts: u32,
    /// The share of each node's blocks that batches leave free for others.
    pub spare: f64,
    /// Lines of one batch.
    pub max_lines: u32,
    /// Batches that are known; the oldest that have ended are forgotten for new ones.
    pub max_batches: u32,
    /// Largest file that is taken.
    pub max_file: ByteSize,
    /// Files that are kept, and their bytes together. Outputs count, and are never refused.
    pub max_files: u32,
    pub max_bytes: ByteSize,
    /// How long a batch may take; at most what clients ask for, 24 hours.
    pub window: Span,
}

impl Default for RouterConfig {
    fn default() -> Self {
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        RouterConfig {
            listen: local(8000),
            control_listen: local(8001),
            advertise: None,
            registry: RegistryConfig::default(),
            limits: LimitsConfig::default(),
            timeouts: TimeoutsConfig::default(),
            policy: PlacementConfig::default(),
            latency: LatencyConfig::default(),
            advice: AdviceConfig::default(),
            rebalance: RebalanceConfig::default(),
            roles: RolesConfig::default(),
            batches: BatchesConfig::default(),
            classes: ClassesConfig::default(),
            tenant_shares: BTreeMap::new(),
            log: LogConfig::default(),
        }
    }
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        TimeoutsConfig {
            request: Span::from_secs(600),
            queue: Span::from_secs(30),
            lease: Span::from_millis(750),
            heartbeat: Span::from_millis(250),
            step: Span::from_secs(1),
            drain: Span::from_secs(30),
            resume: Span::from_secs(5),
        }
    }
}

impl Default for BatchesConfig {
    fn default() -> Self {
        let PolicyConfig { batch_prompts, batch_spare, .. } = PolicyConfig::default();
        BatchesConfig {
            directory: PathBuf::new(),
            max_running: 16,
            max_prompts: batch_prompts,
            spare: batch_spare,
            max_lines: 50_000,
            max_batches: 1000,
            max_file: ByteSize(200 << 20),
            max_files: 10_000,
            max_bytes: ByteSize(10 << 30),
            window: Span::from_secs(24 * 3600),
        }
    }
}

impl Default for PlacementConfig {
    fn default() -> Self {
        let PolicyConfig { policy, max_waiting, expected_output_tokens, near_equal, .. } =
            PolicyConfig::default();
        let PolicyConfig { queue_ahead, local_tokens, lend, priority_weight, .. } =
            PolicyConfig::default();
        let queue_ahead = Span(queue_ahead);
        PlacementConfig {
            policy,
            max_waiting,
            expected_output_tokens,
            near_equal,
            queue_ahead,
            local_tokens,
            lend,
            priority_weight,
        }
    }
}

impl RouterConfig {
    /// Refuses values that parse and make no sense; the error names the key and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.listen == self.control_listen && self.listen.port() != 0 {
            let why = "must differ from listen";
            return Err(ConfigError::invalid("control_listen", self.control_listen, why));
        }
        for (key, value) in [
            ("policy.expected_output_tokens", u64::from(self.policy.expected_output_tokens)),
            ("batches.max_running", self.batches.max_running.into()),
            ("batches.max_prompts", self.batches.max_prompts.into()),
            ("batches.max_lines", self.batches.max_lines.into()),
            ("batches.max_batches", self.batches.max_batches.into()),
            ("batches.max_file", self.batches.max_file.0),
        ] {
            if value == 0 {
                return Err(ConfigError::invalid(key, 0, "must be at least 1"));
            }
        }
        let (timeouts, least) = (&self.timeouts, Span::from_millis(10));
        for (key, value) in [
            ("timeouts.request", timeouts.request),
            ("timeouts.lease", timeouts.lease),
            ("timeouts.heartbeat", timeouts.heartbeat),
            ("timeouts.step", timeouts.step),
            ("batches.window", self.batches.window),
        ] {
            if value < least {
                return Err(ConfigError::invalid(key, value, "must be at least 10ms"));
            }
        }
        // One word may be lost, and the next one late.
        if timeouts.lease.0 < timeouts.heartbeat.0 * 3 {
            let why = "must be at least three times timeouts.heartbeat";
            return Err(ConfigError::invalid("timeouts.lease", timeouts.lease, why));
        }
        let (window, day) = (self.batches.window, Span::from_secs(24 * 3600));
        if window > day {
            let why = "must be at most 24h, which is what clients ask for";
            return Err(ConfigError::invalid("batches.window", window, why));
        }
        for (key, share) in
            [("policy.near_equal", self.policy.near_equal), ("batches.spare", self.batches.spare)]
        {
            if !(0.0..=1.0).contains(&share) {
                return Err(ConfigError::invalid(key, share, "must be a share from 0 to 1"));
            }
        }
        let weight = self.policy.priority_weight;
        if !(1.0..=16.0).contains(&weight) {
            let why = "must be from 1 to 16";
            return Err(ConfigError::invalid("policy.priority_weight", weight, why));
        }
        for (tenant, &share) in &self.tenant_shares {
            if !SHARES.contains(&share) {
                let why = format!("the share of {tenant:?} must be from 0.001 to 1000");
                return Err(ConfigError::invalid("tenant_shares", share, why));
            }
        }
        self.registry.validate()?;
        if !self.registry.etcd.is_empty()
            && self.advertise.is_none()
            && self.control_listen.ip().is_unspecified()
        {
            let why = "set advertise to the host that nodes reach this router at";
            return Err(ConfigError::invalid("control_listen", self.control_listen, why));
        }
        self.limits.validate()?;
        self.classes.validate()?;
        self.advice.validate()?;
        self.rebalance.validate()?;
        self.roles.validate()?;
        self.latency.validate()
    }

    /// How long a step may be under way.
    pub(crate) fn step_patience(&self) -> StepPatience {
        let least = self.timeouts.step.0;
        StepPatience { least, factor: STEP_FACTOR, unlearned: UNLEARNED_STEP.max(least) }
    }

    /// What the policy is told.
    pub(crate) fn policy(&self) -> PolicyConfig {
        let PlacementConfig {
            policy,
            max_waiting,
            expected_output_tokens,
            near_equal,
            queue_ahead,
            local_tokens,
            lend,
            priority_weight,
        } = self.policy;
        PolicyConfig {
            policy,
            max_waiting,
            expected_output_tokens,
            near_equal,
            queue_ahead: queue_ahead.0,
            local_tokens,
            lend,
            priority_weight,
            max_queued: self.limits.max_queued as usize,
            max_queue_time: self.timeouts.queue.0,
            batch_prompts: self.batches.max_prompts,
            batch_spare: self.batches.spare,
            ..PolicyConfig::default()
        }
    }
}

/// A step may take so many times what such steps take,
const STEP_FACTOR: u32 = 8;
/// and so long while that isn't known.
const UNLEARNED_STEP: Duration = Duration::from_secs(30);

/// Flags of a router. Every key of the configuration can be reached by `--set`; the ones people
/// need daily have a name.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RouterFlags {
    /// TOML file with the configuration.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where clients come: HTTP and gRPC on one port.
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where nodes register.
    #[arg(long, value_name = "IP:PORT")]
    pub control: Option<SocketAddr>,
    /// An etcd endpoint, where nodes find this router. Repeatable, for the members of one etcd cluster.
    #[arg(long, value_name = "http://HOST:PORT")]
    pub etcd: Vec<String>,
    /// The Kubernetes service that this router is behind, with all others.
    #[arg(long, value_name = "SERVICE", conflicts_with = "etcd")]
    pub kubernetes: Option<String>,
    /// The host nodes reach the control port at.
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,
    /// Folder for uploaded files and batches, this router's alone.
    #[arg(long, value_name = "DIR")]
    pub batch_dir: Option<PathBuf>,
    /// How to log.
    #[arg(long, value_name = "text|json")]
    pub log_format: Option<LogFormat>,
    /// Any key of the configuration, such as limits.max_in_flight=64. Repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print the configuration as TOML and exit.
    #[arg(long)]
    pub print_config: bool,
}

impl RouterFlags {
    /// The configuration from file, environment and flags, later ones winning, validated.
    /// `environment` is what `main` read, `std::env::vars()`.
    pub fn load(
        &self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<RouterConfig, ConfigError> {
        let config: RouterConfig = Sources::new(self.config.as_deref())
            .environment(ENVIRONMENT, environment)
            .flag("--listen", "listen", self.listen)
            .flag("--control", "control_listen", self.control)
            .flag("--etcd", "registry.etcd", Some(&self.etcd).filter(|etcd| !etcd.is_empty()))
            .flag("--kubernetes", "registry.kubernetes.service", self.kubernetes.as_ref())
            .flag("--advertise", "advertise", self.advertise.as_ref())
            .flag("--batch-dir", "batches.directory", self.batch_dir.clone())
            .flag("--log-format", "log.format", self.log_format)
            .set(&self.set)?
            .load()?;
        config.validate()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use baton_types::LatencyProfile;

    use super::*;

    fn load(environment: &[(&str, &str)], set: &[&str]) -> Result<RouterConfig, String> {
        let flags = RouterFlags {
            set: set.iter().map(|pair| (*pair).to_owned()).collect(),
            ..RouterFlags::default()
        };
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        flags.load(environment).map_err(|error| error.to_string())
    }

    #[test]
    fn later_sources_win_and_the_rest_has_defaults() {
        let environment =
            [("BATON_ROUTER_LISTEN", "127.0.0.1:1"), ("BATON_ROUTER_LIMITS__MAX_QUEUED", "7")];
        let config = load(&environment, &["listen=\"127.0.0.1:2\""]).unwrap();
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.limits.max_queued, 7);
        assert_eq!(config.policy().max_queued, 7);
        assert_eq!(config.timeouts, TimeoutsConfig::default());
    }

    #[test]
    fn what_is_printed_reads_back() {
        let config = RouterConfig::default();
        let printed = baton_node::config::to_toml(&config).unwrap();
        assert_eq!(Sources::new(None).set(&[]).unwrap().load::<RouterConfig>().unwrap(), config);
        for line in ["listen = \"127.0.0.1:8000\"", "max_body = \"8MiB\"", "lease = \"750ms\""] {
            assert!(printed.contains(line), "{line} is not in\n{printed}");
        }
    }

    #[test]
    fn models_may_have_a_latency_profile_of_their_own() {
        let set = ["latency.models={\"m-1.5\"={decode_us=7.0}}", "latency.default.decode_us=8"];
        let config = load(&[], &set).unwrap();
        for (model, decode_us) in [("m-1.5", 7.0), ("other", 8.0)] {
            let expected = LatencyProfile { decode_us, ..LatencyProfile::default() };
            assert_eq!(config.latency.fit(&model.into()).profile(), expected, "{model}");
        }
        let printed = baton_node::config::to_toml(&config).unwrap();
        assert!(printed.contains("[latency.models.\"m-1.5\"]"), "{printed}");
    }

    #[test]
    fn with_a_registry_others_must_know_where_the_router_is() {
        let set = ["registry.etcd=[\"http://e:2379\"]", "control_listen=\"0.0.0.0:8001\""];
        let error = load(&[], &set).unwrap_err();
        assert!(error.contains("control_listen = 0.0.0.0:8001: set advertise"), "{error}");
        let advertised = [set[0], set[1], "advertise=\"router-0\""];
        assert_eq!(load(&[], &advertised).unwrap().advertise.as_deref(), Some("router-0"));
    }

    /// Nodes find it where its pod is.
    #[test]
    fn behind_a_kubernetes_service_a_router_needs_no_address_of_its_own() {
        let set = ["registry.kubernetes.service=\"r\"", "control_listen=\"0.0.0.0:8001\""];
        assert_eq!(load(&[], &set).unwrap().advertise, None);
        let both = [set[0], "registry.etcd=[\"http://e:2379\"]", "advertise=\"router-0\""];
        let error = load(&[], &both).unwrap_err();
        assert!(
            error.contains("registry.kubernetes = r") && error.contains("http://e:2379"),
            "{error}"
        );
    }

    #[test]
    fn bad_values_are_refused_by_key_and_value() {
        for (set, expected) in [
            ("listen=nowhere", "listen"),
            ("colour=1", "colour"),
            ("control_listen=\"127.0.0.1:8000\"", "control_listen = 127.0.0.1:8000"),
            ("limits.max_in_flight=0", "limits.max_in_flight = 0"),
            ("timeouts.lease=1ms", "timeouts.lease = 1ms"),
            ("timeouts.lease=700ms", "timeouts.lease = 700ms"),
            ("timeouts.step=1ms", "timeouts.step = 1ms"),
            ("policy.near_equal=2.0", "policy.near_equal = 2"),
            ("policy.priority_weight=0.5", "policy.priority_weight = 0.5"),
            ("batches.spare=-0.5", "batches.spare = -0.5"),
            ("batches.window=25h", "batches.window = 25h"),
            ("batches.max_running=0", "batches.max_running = 0"),
            ("classes.gold.ttft=\"0s\"", "classes = 0us: an objective of gold"),
            ("classes.gold.prio=1", "prio"),
            ("classes.gold.priority=256", "256"),
            ("classes.gold.service=\"slow\"", "slow"),
            ("classes={\"a b\"={}}", "classes = \"a b\""),
            ("classes.auto.priority=1", "classes = \"auto\""),
            ("classes.batch.service=\"interactive\"", "classes.batch.service = interactive"),
            ("tenant_shares.acme=0", "tenant_shares = 0: the share of \"acme\""),
            ("advice.formula=\"guess\"", "predicted"),
            ("advice.attainment=1.0", "advice.attainment = 1"),
            ("rebalance.at_once=0", "rebalance.at_once = 0"),
            ("rebalance.link_share=2.0", "rebalance.link_share = 2"),
            ("roles.threshold=-1.0", "roles.threshold = -1"),
            ("advice.threshold=-1.0", "advice.threshold = -1"),
            ("advice.window=0s", "advice.window = 0"),
            ("advice.up_after=10m", "advice.up_after = 600s: must be down_after at most"),
            ("latency.seed_spread=0", "latency.seed_spread = 0"),
            ("latency.memory_steps=9", "latency.memory_steps = 9"),
            ("latency.default.decode_us=-1.5", "latency.default = -1.5: decode_us must be"),
            ("latency.default.decode_ms=1", "decode_ms"),
            ("latency.models={\"a.b\"={prefill_us=1000000000000}}", "prefill_us of a.b must be"),
        ] {
            let error = load(&[], &[set]).expect_err(set);
            assert!(error.contains(expected), "{set}: {error:?}");
        }
    }
}
