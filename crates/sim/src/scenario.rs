//! What is simulated.

use std::time::Duration;

use baton_policy::{
    FitConfig, LatencyFit, LatencyModel, Link, PolicyConfig,
    advice::{AdviceConfig, AdviceError, RolesConfig},
    rebalance::{RebalanceConfig, RebalanceError},
};
use baton_scheduler::SchedulerConfig;
use baton_types::{KvDtype, KvLayout, LatencyProfile, LayoutError, Role};
use serde::{Deserialize, Serialize};

use crate::{
    fault::{Fault, FaultError},
    workload::{SloConfig, WorkloadConfig, WorkloadError},
};

/// A cluster, what is asked of it, and what goes wrong meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    pub seed: u64,
    pub cluster: ClusterConfig,
    pub policy: PolicyConfig,
    pub rebalance: RebalanceConfig,
    pub latency: LatencyConfig,
    pub workload: WorkloadConfig,
    pub slo: SloConfig,
    pub faults: Vec<Fault>,
    /// Running requests that are made to change nodes, at random, in a second: to see that nobody notices.
    pub forced_moves_per_s: f64,
    /// Left out: all workers keep their roles.
    pub roles: Option<RolesScenario>,
    /// Left out: all workers are there all the time.
    pub scaling: Option<ScalingConfig>,
}

/// Workers change roles as the load does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolesScenario {
    pub switch: RolesConfig,
    /// By which it is reckoned how many of each are needed.
    pub advice: AdviceConfig,
}

/// Workers come and go as is advised. The topology's are the most there can be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScalingConfig {
    /// At the start.
    pub prefill: u32,
    pub decode: u32,
    /// From when a worker is asked for until it is there.
    pub start_s: f64,
    pub advice: AdviceConfig,
}

/// What the router knows of its workers' latency before they report steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatencyConfig {
    /// Left out: their very profiles.
    pub seed: Option<LatencyProfile>,
    /// How fast pages move; left out: as the network is alone.
    pub link: Option<Link>,
    pub fit: FitConfig,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    pub topology: Topology,
    pub model: ModelConfig,
    /// Of prefill nodes.
    pub prefill: WorkerConfig,
    /// Of decode nodes.
    pub decode: WorkerConfig,
    /// Of workers that do both.
    pub colocated: WorkerConfig,
    pub network: NetworkConfig,
    pub transfer: TransferConfig,
    pub membership: MembershipConfig,
}

/// Who there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Topology {
    /// `p0, p1, …` prefill, `d0, d1, …` decode.
    Disaggregated { prefill: u32, decode: u32 },
    /// `w0, w1, …` do both: the baseline. With the scheduler's defaults they prefill in chunks beside
    /// decoding; with `max_batch_tokens` and `chunk_tokens` as large as the context they compute
    /// whole prompts first, and decoding waits.
    Colocated { workers: u32 },
}

/// What all workers serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    pub layers: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub block_tokens: u32,
    pub dtype: KvDtype,
    /// The longest sequence, in tokens, prompt and output together.
    pub max_context: u32,
    pub vocab: u32,
}

/// One worker, and all others of its role.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    pub profile: LatencyProfile,
    pub scheduler: SchedulerConfig,
    /// Size of the KV pool.
    pub kv_blocks: u32,
    /// Coefficient of variation of a step's duration around the profile's; 0: none.
    pub noise: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// Of each node, in each direction.
    pub bytes_per_second: f64,
    /// One way, between nodes.
    pub latency_us: f64,
    /// One way, between the router and a node.
    pub router_latency_us: f64,
}

/// As in the nodes' configuration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransferConfig {
    /// How long finished pages wait for their puller's next sign of life.
    pub lease_s: f64,
    /// How long a pull waits for its offer.
    pub park_s: f64,
    /// The longest silence once the first token came.
    pub silence_s: f64,
    /// Connections a transfer uses; at most one a layer.
    pub streams: u32,
    /// Sequences pulled at a time.
    pub max_pulls: u32,
    /// Running sequences that may come to a node at the same time.
    pub max_migrations: u32,
    /// Of a node's bandwidth, what the pages of one running sequence may take while it runs.
    pub migration_share: f64,
}

/// As in the router's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MembershipConfig {
    /// How often nodes speak.
    pub heartbeat_s: f64,
    /// A node that has said nothing for so long is no member any more.
    pub lease_s: f64,
    /// How often a request is tried again.
    pub max_retries: u32,
    /// A request's whole life.
    pub deadline_s: f64,
}

impl Default for Topology {
    fn default() -> Self {
        Topology::Disaggregated { prefill: 1, decode: 1 }
    }
}

impl Default for ModelConfig {
    /// About a 1B model.
    fn default() -> Self {
        ModelConfig {
            layers: 16,
            kv_heads: 8,
            head_dim: 64,
            block_tokens: 16,
            dtype: KvDtype::F16,
            max_context: 8192,
            vocab: 32_000,
        }
    }
}

impl Default for WorkerConfig {
    fn default() -> Self {
        WorkerConfig {
            profile: LatencyProfile::default(),
            scheduler: SchedulerConfig::default(),
            kv_blocks: 8192,
            noise: 0.0,
        }
    }
}

impl Default for NetworkConfig {
    /// Ten gigabits.
    fn default() -> Self {
        NetworkConfig { bytes_per_second: 1.25e9, latency_us: 100.0, router_latency_us: 100.0 }
    }
}

impl Default for TransferConfig {
    fn default() -> Self {
        TransferConfig {
            lease_s: 30.0,
            park_s: 120.0,
            silence_s: 3.0,
            streams: 2,
            max_pulls: 64,
            max_migrations: 8,
            migration_share: 0.03,
        }
    }
}

impl Default for ScalingConfig {
    fn default() -> Self {
        ScalingConfig { prefill: 1, decode: 1, start_s: 20.0, advice: AdviceConfig::default() }
    }
}

impl Default for MembershipConfig {
    fn default() -> Self {
        MembershipConfig { heartbeat_s: 0.25, lease_s: 0.75, max_retries: 5, deadline_s: 600.0 }
    }
}

/// What can't be simulated.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error("there is no {role} worker; requests need at least one (cluster.topology)")]
    NoWorkers { role: &'static str },
    #[error("{name} is {given}; it must be {must}")]
    Value { name: &'static str, given: f64, must: &'static str },
    #[error("cluster.model: {0}")]
    Layout(#[from] LayoutError),
    #[error(
        "scaling starts with {given} {role} workers; it must be from 1 to the topology's {most}"
    )]
    Scaling { role: &'static str, given: u32, most: u32 },
    #[error(transparent)]
    Rebalance(#[from] RebalanceError),
    #[error("scaling: {0}")]
    Advice(#[from] AdviceError),
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    #[error(transparent)]
    Fault(#[from] FaultError),
}

impl Topology {
    pub fn workers(&self) -> u32 {
        match *self {
            Topology::Disaggregated { prefill, decode } => prefill.saturating_add(decode),
            Topology::Colocated { workers } => workers,
        }
    }

    /// The workers' names.
    pub(crate) fn names(&self) -> Vec<String> {
        let numbered = |prefix, count| (0..count).map(move |index| format!("{prefix}{index}"));
        match *self {
            Topology::Disaggregated { prefill, decode } => {
                numbered("p", prefill).chain(numbered("d", decode)).collect()
            }
            Topology::Colocated { workers } => numbered("w", workers).collect(),
        }
    }
}

impl ModelConfig {
    pub fn layout(&self) -> KvLayout {
        KvLayout {
            layers: self.layers,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            block_tokens: self.block_tokens,
            dtype: self.dtype,
        }
    }
}

/// The most workers a scenario may have, and the largest pool of each: what a simulation keeps in
/// memory must have a bound.
const MAX_WORKERS: u32 = 65_536;
const MAX_BLOCKS: u32 = 1 << 26;

impl Scenario {
    /// Refuses what makes no sense, by name.
    pub fn validate(&self) -> Result<(), ScenarioError> {
        let ClusterConfig { topology, model, network, transfer, membership, .. } = &self.cluster;
        let none = match *topology {
            Topology::Disaggregated { prefill: 0, .. } => Some("prefill"),
            Topology::Disaggregated { decode: 0, .. } => Some("decode"),
            Topology::Colocated { workers: 0 } => Some("colocated"),
            _ => None,
        };
        if let Some(role) = none {
            return Err(ScenarioError::NoWorkers { role });
        }
        model.layout().validate()?;
        let at_most = |name, given: u32, max: u32, must| match given {
            given if (1..=max).contains(&given) => Ok(()),
            given => Err(ScenarioError::Value { name, given: given.into(), must }),
        };
        at_most("cluster.topology's workers", topology.workers(), MAX_WORKERS, "at most 65536")?;
        at_most("cluster.model.max_context", model.max_context, 1 << 24, "2 to 16777216 tokens")?;
        at_most("cluster.model.vocab", model.vocab, u32::MAX, "at least 2")?;
        at_most("cluster.transfer.streams", transfer.streams, 64, "1 to 64")?;
        at_most("cluster.transfer.max_pulls", transfer.max_pulls, u32::MAX, "at least 1")?;
        for (role, worker) in self.workers() {
            let blocks = worker.kv_blocks;
            at_most("kv_blocks", blocks, MAX_BLOCKS, "1 to 67108864 blocks")
                .map_err(|error| error.of(role))?;
            if !(0.0..=10.0).contains(&worker.noise) {
                let must = "a number from 0 to 10";
                return Err(ScenarioError::Value { name: "noise", given: worker.noise, must });
            }
        }
        for (name, given) in [
            ("cluster.network.bytes_per_second", network.bytes_per_second),
            ("cluster.transfer.lease_s", transfer.lease_s),
            ("cluster.transfer.park_s", transfer.park_s),
            ("cluster.transfer.silence_s", transfer.silence_s),
            ("cluster.membership.heartbeat_s", membership.heartbeat_s),
            ("cluster.membership.lease_s", membership.lease_s),
            ("cluster.membership.deadline_s", membership.deadline_s),
        ] {
            if !(given > 0.0 && given.is_finite()) {
                return Err(ScenarioError::Value { name, given, must: "a number above 0" });
            }
        }
        for (name, given) in [
            ("cluster.network.latency_us", network.latency_us),
            ("cluster.network.router_latency_us", network.router_latency_us),
        ] {
            if !(given >= 0.0 && given.is_finite()) {
                return Err(ScenarioError::Value { name, given, must: "a number, at least 0" });
            }
        }
        self.rebalance.validate()?;
        let share = transfer.migration_share;
        if !(share > 0.0 && share <= 1.0) {
            let (name, must) = ("cluster.transfer.migration_share", "above 0 and at most 1");
            return Err(ScenarioError::Value { name, given: share, must });
        }
        if !(0.0..=1e6).contains(&self.forced_moves_per_s) {
            let (name, given) = ("forced_moves_per_s", self.forced_moves_per_s);
            return Err(ScenarioError::Value { name, given, must: "a number from 0 to 1e6" });
        }
        if let Some(Link { rtt_us, bytes_per_second }) = self.latency.link {
            let name = "latency.link";
            for (given, least) in [(rtt_us, 0.0), (bytes_per_second, 1.0)] {
                if !(given >= least && given.is_finite()) {
                    let must = "rtt_us of at least 0 and bytes_per_second of at least 1";
                    return Err(ScenarioError::Value { name, given, must });
                }
            }
        }
        if let Some(roles) = &self.roles {
            roles.advice.validate()?;
        }
        if let Some(scaling) = &self.scaling {
            scaling.validate(*topology)?;
        }
        self.workload.validate()?;
        self.slo.validate()?;
        let names = topology.names();
        self.faults.iter().try_for_each(|fault| fault.validate(&names))?;
        Ok(())
    }

    /// The workers of each role that there is.
    pub(crate) fn workers(&self) -> Vec<(&'static str, &WorkerConfig)> {
        let cluster = &self.cluster;
        match cluster.topology {
            Topology::Disaggregated { .. } => {
                vec![("prefill", &cluster.prefill), ("decode", &cluster.decode)]
            }
            Topology::Colocated { .. } => vec![("colocated", &cluster.colocated)],
        }
    }

    /// Where the router's learning of a worker begins.
    pub(crate) fn latency_fit(&self, role: Role) -> LatencyFit {
        let seed = self.latency.seed.unwrap_or(self.worker(role).profile);
        LatencyFit::new(seed, self.latency.fit)
    }

    /// Where the router's learning of a worker's link begins.
    pub(crate) fn link(&self) -> Link {
        let NetworkConfig { bytes_per_second, latency_us, .. } = self.cluster.network;
        let network = Link { rtt_us: 2.0 * latency_us, bytes_per_second };
        // A worker's pages are where they are.
        let here = Link { rtt_us: 0.0, bytes_per_second: f64::INFINITY };
        let real = if self.cluster.topology.is_colocated() { here } else { network };
        self.latency.link.unwrap_or(real)
    }

    /// What steps cost on workers of a role.
    pub(crate) fn latency_model(&self, role: Role) -> LatencyModel {
        let WorkerConfig { profile, scheduler, .. } = *self.worker(role);
        let SchedulerConfig { max_batch_tokens, chunk_tokens, .. } = scheduler;
        LatencyModel { profile, max_batch_tokens, chunk_tokens }
    }

    /// Who computes prompts, and who generates.
    pub(crate) fn worker(&self, role: Role) -> &WorkerConfig {
        match (self.cluster.topology, role) {
            (Topology::Colocated { .. }, _) => &self.cluster.colocated,
            (Topology::Disaggregated { .. }, Role::Prefill) => &self.cluster.prefill,
            (Topology::Disaggregated { .. }, Role::Decode) => &self.cluster.decode,
        }
    }
}

impl ScalingConfig {
    fn validate(&self, topology: Topology) -> Result<(), ScenarioError> {
        let most = match topology {
            Topology::Disaggregated { prefill, decode } => [prefill, decode],
            // Workers that do both have no roles to advise on.
            Topology::Colocated { .. } => [0, 0],
        };
        for ((role, given), most) in
            [("prefill", self.prefill), ("decode", self.decode)].into_iter().zip(most)
        {
            if !(1..=most).contains(&given) {
                return Err(ScenarioError::Scaling { role, given, most });
            }
        }
        if !(self.start_s >= 0.0 && self.start_s.is_finite()) {
            let (name, must) = ("scaling.start_s", "a number, at least 0");
            return Err(ScenarioError::Value { name, given: self.start_s, must });
        }
        Ok(self.advice.validate()?)
    }
}

impl ScenarioError {
    fn of(self, role: &'static str) -> Self {
        match self {
            ScenarioError::Value { name: "kv_blocks", given, must } => {
                let name = match role {
                    "prefill" => "cluster.prefill.kv_blocks",
                    "decode" => "cluster.decode.kv_blocks",
                    _ => "cluster.colocated.kv_blocks",
                };
                ScenarioError::Value { name, given, must }
            }
            other => other,
        }
    }
}

pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

pub(crate) fn micros(us: f64) -> Duration {
    seconds(us / 1e6)
}
