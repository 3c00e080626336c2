//! What is compared: a policy and how the workers are used.

use std::sync::Arc;

use baton_policy::{Policy, PolicyConfig, rebalance::RebalanceConfig};
use baton_sim::{
    Scenario, Topology,
    plan::{DeviceProfile, ProfileError},
    workload::{SloConfig, Trace, WorkloadConfig},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Prefill nodes and decode nodes.
    Split,
    /// Every worker does both, prompts in chunks beside decoding.
    Chunked,
    /// Every worker does both, whole prompts first: what DistServe compared with.
    PrefillFirst,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct System {
    pub(crate) policy: Policy,
    pub(crate) shape: Shape,
}

/// A workload, its targets, and the machines there are for it.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) profile: Arc<DeviceProfile>,
    /// The longest sequence, instead of the profile's.
    pub(crate) max_context: Option<u32>,
    pub(crate) slo: SloConfig,
    pub(crate) workload: WorkloadConfig,
    /// Instead of drawn requests: each seed replays another.
    pub(crate) traces: Vec<Arc<Trace>>,
    pub(crate) workers: u32,
    /// What decode nodes' pools hold, in tokens, instead of all that fits beside the weights.
    pub(crate) decode_tokens: Option<u32>,
}

impl System {
    pub(crate) const JOINT: System = System { policy: Policy::Joint, shape: Shape::Split };

    pub(crate) fn policy_name(self) -> String {
        let policy = format!("{:?}", self.policy);
        let mut words = String::new();
        for letter in policy.chars() {
            if letter.is_uppercase() && !words.is_empty() {
                words.push(' ');
            }
            words.extend(letter.to_lowercase());
        }
        words
    }

    pub(crate) fn name(self) -> String {
        let policy = self.policy_name();
        match self.shape {
            Shape::Split => policy,
            Shape::Chunked => format!("colocated, chunked, {policy}"),
            Shape::PrefillFirst => format!("colocated, prefill first, {policy}"),
        }
    }
}

impl World {
    /// `prefill` of the workers compute prompts, if they are split.
    pub(crate) fn scenario(
        &self,
        system: System,
        prefill: u32,
        seed: u64,
    ) -> Result<Scenario, ProfileError> {
        let topology = match system.shape {
            Shape::Split => Topology::Disaggregated { prefill, decode: self.workers - prefill },
            Shape::Chunked | Shape::PrefillFirst => Topology::Colocated { workers: self.workers },
        };
        let mut cluster = self.profile.cluster(0, topology)?;
        cluster.model.max_context = self.max_context.unwrap_or(cluster.model.max_context);
        if system.shape == Shape::PrefillFirst {
            let scheduler = &mut cluster.colocated.scheduler;
            scheduler.max_batch_tokens = cluster.model.max_context;
            scheduler.chunk_tokens = cluster.model.max_context;
        }
        if let Some(tokens) = self.decode_tokens {
            cluster.decode.kv_blocks = tokens.div_ceil(cluster.model.block_tokens);
        }
        // A quarter of what a step computes: decoding hardly feels it.
        let local_tokens = cluster.decode.scheduler.max_batch_tokens / 4;
        let policy =
            PolicyConfig { policy: system.policy, local_tokens, ..PolicyConfig::default() };
        // What placing is worth is told without moving, and what moving is worth by itself.
        let rebalance = RebalanceConfig { enabled: false, ..RebalanceConfig::default() };
        Ok(Scenario {
            rebalance,
            seed,
            cluster,
            policy,
            workload: self.workload.clone(),
            slo: self.slo,
            ..Scenario::default()
        })
    }

    pub(crate) fn trace(&self, seed: u64) -> Option<&Arc<Trace>> {
        let index = usize::try_from(seed).ok()?.checked_rem(self.traces.len())?;
        self.traces.get(index)
    }
}
