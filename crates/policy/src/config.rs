use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyConfig {
    pub policy: Policy,
    /// Requests that may wait on a prefill node for blocks.
    pub max_waiting: u32,
    /// Requests for one model that may wait in the router.
    pub max_queued: usize,
    /// The longest a request may wait in the router.
    pub max_queue_time: Duration,
    /// How long an output is reckoned to be, when it may be longer and none has ended yet.
    pub expected_output_tokens: u32,
    /// Costs within this share of the best are as good.
    pub near_equal: f64,
    /// Work that a prefill node is given beyond what it does, so that it never waits for the
    /// router. What comes after waits here, where it can still be ordered.
    pub queue_ahead: Duration,
    /// Prompts with at most so many tokens to compute may be computed by the node that decodes.
    pub local_tokens: u32,
    /// Whether decode nodes compute longer prompts too when no prefill node can be in time, as far as
    /// they can spare it.
    pub lend: bool,
    /// Nodes of each role that are paired with each other; the rest are compared role by role.
    pub shortlist: usize,
    /// Of a batch: it is placed on prefill nodes with fewer prompts to compute,
    pub batch_prompts: u32,
    /// and on nodes where this share of all blocks stays free.
    pub batch_spare: f64,
    /// What is a request's of a class counts so many times as much as what is one's of the class below: the time
    /// that others cost it, and its objective.
    pub priority_weight: f64,
}

/// How nodes are chosen. All but [`Policy::Joint`] are there to be compared with: they choose each
/// role's node by itself, as soon as there is room, and know no objectives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Path and nodes together: those that meet the most objectives, then those that cost least.
    #[default]
    Joint,
    /// One after the other.
    RoundRobin,
    Random,
    /// The fewest requests.
    LeastOutstanding,
    /// Of two drawn the one with fewer requests (Mitzenmacher, 2001).
    PowerOfTwo,
    /// The longest cached beginning, unless that node has far more to do than another.
    PrefixAffinity,
    /// Llumnix's freeness: free tokens per request of the batch, what waits counted.
    Freeness,
    /// Dynamo's cost: prompt tokens to compute, and blocks in use.
    KvCost,
}

impl Policy {
    pub const ALL: [Policy; 8] = [
        Policy::Joint,
        Policy::RoundRobin,
        Policy::Random,
        Policy::LeastOutstanding,
        Policy::PowerOfTwo,
        Policy::PrefixAffinity,
        Policy::Freeness,
        Policy::KvCost,
    ];
}

impl Default for PolicyConfig {
    fn default() -> Self {
        PolicyConfig {
            policy: Policy::default(),
            max_waiting: 64,
            max_queued: 1024,
            max_queue_time: Duration::from_secs(30),
            expected_output_tokens: 128,
            near_equal: 0.05,
            queue_ahead: Duration::from_millis(20),
            local_tokens: 0,
            lend: false,
            shortlist: 16,
            batch_prompts: 1,
            batch_spare: 0.25,
            priority_weight: 4.0,
        }
    }
}
