//! What a model costs on a device.

use baton_scheduler::SchedulerConfig;
use baton_types::{KvDtype, LatencyProfile, LayoutError, Mixing};
use serde::{Deserialize, Serialize};

use crate::scenario::{ClusterConfig, ModelConfig, NetworkConfig, Topology, WorkerConfig};

/// Of a device's memory, what weights and KV blocks may fill; the rest is for activations.
pub const MEMORY_SHARE: f64 = 0.9;
/// Tokens of a KV block.
const BLOCK_TOKENS: u32 = 16;
/// The largest pool that is simulated, in blocks.
const MAX_BLOCKS: f64 = (1_u32 << 26) as f64;

/// A model on one kind of device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceProfile {
    pub model: ModelShape,
    pub device: Device,
    /// Of workers with one phase.
    pub scheduler: BatchLimits,
    /// Of workers that do both.
    pub colocated_scheduler: BatchLimits,
    /// One for each tensor parallelism the model can run with.
    pub parallelism: Vec<Parallelism>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelShape {
    pub name: String,
    pub layers: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub kv_dtype: KvDtype,
    pub weights_bytes: u64,
    /// In tokens, prompt and output together.
    pub max_context: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    pub name: String,
    pub memory_bytes: u64,
    /// In any currency.
    pub price_per_hour: f64,
    /// Between workers, of each device, in each direction.
    pub link_bytes_per_second: f64,
    /// One way. Left out: as for the simulator's networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_latency_us: Option<f64>,
}

/// As in the nodes' configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchLimits {
    pub max_batch_tokens: u32,
    pub chunk_tokens: u32,
    pub max_running: u32,
}

/// What steps cost on a worker of so many devices; [`LatencyProfile`]'s keys, none of which has a
/// default here.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parallelism {
    /// Devices of a worker.
    pub tensor: u32,
    pub prefill_us: f64,
    pub prefill_token_us: f64,
    pub prefill_attention_us: f64,
    pub decode_us: f64,
    pub decode_sequence_us: f64,
    pub decode_context_us: f64,
    pub mixing: Mixing,
}

/// Why a profile is impossible.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProfileError {
    #[error("{key} is {given}; it must be {must}")]
    Value { key: String, given: f64, must: &'static str },
    #[error("{key} is empty; name it")]
    Unnamed { key: &'static str },
    #[error("model: {0}")]
    Layout(#[from] LayoutError),
    #[error("parallelism is empty; give step costs for at least one tensor parallelism")]
    NoParallelism,
    #[error("parallelism has tensor = {tensor} twice; give each once")]
    Twice { tensor: u32 },
    #[error(
        "parallelism with tensor = {tensor}: model.weights_bytes is {weights}, but 90 % of {tensor} × \
         device.memory_bytes = {memory} is {room:.0}, which leaves no KV block of {block} bytes; \
         use more devices a worker or a smaller model"
    )]
    Memory { tensor: u32, weights: u64, memory: u64, room: f64, block: u64 },
}

impl Parallelism {
    pub fn new(tensor: u32, steps: LatencyProfile) -> Self {
        let LatencyProfile {
            prefill_us,
            prefill_token_us,
            prefill_attention_us,
            decode_us,
            decode_sequence_us,
            decode_context_us,
            mixing,
        } = steps;
        Parallelism {
            tensor,
            prefill_us,
            prefill_token_us,
            prefill_attention_us,
            decode_us,
            decode_sequence_us,
            decode_context_us,
            mixing,
        }
    }

    pub fn steps(&self) -> LatencyProfile {
        let coefficients = [
            self.prefill_us,
            self.prefill_token_us,
            self.prefill_attention_us,
            self.decode_us,
            self.decode_sequence_us,
            self.decode_context_us,
        ];
        LatencyProfile::from_coefficients(coefficients, self.mixing)
    }
}

impl DeviceProfile {
    /// Refuses what can't be, by key.
    pub fn validate(&self) -> Result<(), ProfileError> {
        let DeviceProfile { model, device, .. } = self;
        for (key, name) in [("model.name", &model.name), ("device.name", &device.name)] {
            if name.trim().is_empty() {
                return Err(ProfileError::Unnamed { key });
            }
        }
        self.model_config().layout().validate()?;
        let integers = [
            ("model.weights_bytes", model.weights_bytes, 0, 1 << 50, "0 to 2^50 bytes"),
            ("model.max_context", model.max_context.into(), 2, 1 << 24, "2 to 16777216 tokens"),
            ("device.memory_bytes", device.memory_bytes, 1, 1 << 50, "1 to 2^50 bytes"),
        ];
        for (key, given, least, most, must) in integers {
            if !(least..=most).contains(&given) {
                return Err(ProfileError::Value { key: key.into(), given: given as f64, must });
            }
        }
        positive("device.price_per_hour", device.price_per_hour)?;
        positive("device.link_bytes_per_second", device.link_bytes_per_second)?;
        if let Some(given) = device.link_latency_us.filter(|us| !(0.0..=1e9).contains(us)) {
            let (key, must) = ("device.link_latency_us".into(), "0 to 1e9 µs");
            return Err(ProfileError::Value { key, given, must });
        }
        self.scheduler.validate("scheduler")?;
        self.colocated_scheduler.validate("colocated_scheduler")?;
        if self.parallelism.is_empty() {
            return Err(ProfileError::NoParallelism);
        }
        for (index, parallelism) in self.parallelism.iter().enumerate() {
            let tensor = parallelism.tensor;
            if self.parallelism[..index].iter().any(|earlier| earlier.tensor == tensor) {
                return Err(ProfileError::Twice { tensor });
            }
            parallelism.validate()?;
            self.kv_blocks(tensor)?;
        }
        Ok(())
    }

    /// Blocks of a worker's KV pool: what its weights leave of its memory.
    pub fn kv_blocks(&self, tensor: u32) -> Result<u32, ProfileError> {
        let block = self.model_config().layout().block_bytes();
        let memory = self.device.memory_bytes;
        let room = MEMORY_SHARE * memory as f64 * f64::from(tensor);
        let blocks = (room - self.model.weights_bytes as f64) / block as f64;
        if blocks < 1.0 {
            let (weights, block) = (self.model.weights_bytes, block as u64);
            return Err(ProfileError::Memory { tensor, weights, memory, room, block });
        }
        Ok(blocks.min(MAX_BLOCKS) as u32)
    }

    /// A cluster of such workers with the `index`th parallelism.
    pub fn cluster(&self, index: usize, topology: Topology) -> Result<ClusterConfig, ProfileError> {
        let prefill = self.worker(index, self.scheduler)?;
        let tensor = self.parallelism.get(index).map_or(1, |parallelism| parallelism.tensor);
        Ok(ClusterConfig {
            topology,
            model: self.model_config(),
            prefill,
            decode: prefill,
            colocated: self.worker(index, self.colocated_scheduler)?,
            network: self.network(tensor),
            ..ClusterConfig::default()
        })
    }

    /// Between workers of so many devices.
    pub(crate) fn network(&self, tensor: u32) -> NetworkConfig {
        let network = NetworkConfig::default();
        NetworkConfig {
            bytes_per_second: f64::from(tensor) * self.device.link_bytes_per_second,
            latency_us: self.device.link_latency_us.unwrap_or(network.latency_us),
            ..network
        }
    }

    pub fn model_config(&self) -> ModelConfig {
        ModelConfig {
            layers: self.model.layers,
            kv_heads: self.model.kv_heads,
            head_dim: self.model.head_dim,
            block_tokens: BLOCK_TOKENS,
            dtype: self.model.kv_dtype,
            max_context: self.model.max_context,
            ..ModelConfig::default()
        }
    }

    /// A worker with the `index`th parallelism.
    pub fn worker(&self, index: usize, limits: BatchLimits) -> Result<WorkerConfig, ProfileError> {
        let parallelism = self.parallelism.get(index).ok_or(ProfileError::NoParallelism)?;
        let scheduler = SchedulerConfig {
            max_batch_tokens: limits.max_batch_tokens,
            chunk_tokens: limits.chunk_tokens,
            max_running: limits.max_running,
            ..SchedulerConfig::default()
        };
        let kv_blocks = self.kv_blocks(parallelism.tensor)?;
        Ok(WorkerConfig { profile: parallelism.steps(), scheduler, kv_blocks, noise: 0.0 })
    }
}

impl BatchLimits {
    fn validate(&self, table: &str) -> Result<(), ProfileError> {
        for (key, given) in [
            ("max_batch_tokens", self.max_batch_tokens),
            ("chunk_tokens", self.chunk_tokens),
            ("max_running", self.max_running),
        ] {
            if !(1..=1 << 20).contains(&given) {
                let (key, given) = (format!("{table}.{key}"), f64::from(given));
                return Err(ProfileError::Value { key, given, must: "1 to 1048576" });
            }
        }
        Ok(())
    }
}

/// A step that costs less is no step: virtual time would stand still.
pub(super) const LEAST_STEP_US: f64 = 1.0;

impl Parallelism {
    fn validate(&self) -> Result<(), ProfileError> {
        let key = |name: &str| format!("parallelism with tensor = {}: {name}", self.tensor);
        if !(1..=1024).contains(&self.tensor) {
            let given = f64::from(self.tensor);
            let must = "1 to 1024 devices";
            return Err(ProfileError::Value { key: "parallelism.tensor".into(), given, must });
        }
        for (name, given) in LatencyProfile::COEFFICIENTS.iter().zip(self.steps().coefficients()) {
            let key = key(&format!("{name}_us"));
            if !(given >= 0.0 && given.is_finite()) {
                return Err(ProfileError::Value { key, given, must: "a number, at least 0" });
            }
            let is_fixed = matches!(*name, "prefill" | "decode");
            if is_fixed && given < LEAST_STEP_US {
                return Err(ProfileError::Value { key, given, must: "at least 1 µs a step" });
            }
        }
        Ok(())
    }
}

fn positive(key: &str, given: f64) -> Result<(), ProfileError> {
    if given > 0.0 && given.is_finite() {
        return Ok(());
    }
    Err(ProfileError::Value { key: key.into(), given, must: "a number above 0" })
}
