use std::{fmt, time::Duration};

use baton_types::Time;

/// One placement's promises, kept by the view under this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReservationId(pub(crate) u64);

impl fmt::Display for ReservationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What one placement asks of its nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Prompt tokens that must be computed,
    pub new_tokens: u64,
    /// how long that takes,
    pub prefill: Duration,
    /// and when the first token is due; [`Time::MAX`]: after all others.
    pub due: Time,
    /// The whole prompt, in the decode node's context.
    pub context_tokens: u64,
    pub prefill_blocks: u64,
    /// The prompt's and the expected output's.
    pub decode_blocks: u64,
    /// What each output token may take, if the client said.
    pub tpot: Option<Duration>,
    pub weight: Weight,
}

/// How much a request counts beside others, in thousandths: sums of it are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight(u64);

impl Weight {
    const ONE: u64 = 1000;

    /// `base` to the power of the class's priority.
    pub fn of(base: f64, priority: u8) -> Self {
        let weight = base.max(1.0).powi(priority.min(8).into());
        Weight((weight * Weight::ONE as f64).round() as u64)
    }

    pub fn value(self) -> f64 {
        self.0 as f64 / Weight::ONE as f64
    }
}

/// Of the lowest class.
impl Default for Weight {
    fn default() -> Self {
        Weight(Weight::ONE)
    }
}

impl Demand {
    /// Time left for the first token, as nodes are told.
    pub fn first_token_within(&self, now: Time) -> Option<Duration> {
        (self.due < Time::MAX).then(|| self.due.since(now))
    }
}

/// The sum of promises on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Requests on the node,
    pub sequences: u64,
    /// and those among them whose prompt isn't computed yet,
    pub queued: u64,
    /// with so many tokens to compute.
    pub queued_tokens: u64,
    pub context_tokens: u64,
    pub blocks: u64,
    /// Requests that decode and have an objective,
    pub objectives: u64,
    /// and the sum of its logarithms: of nanoseconds, in millionths.
    objective_logs: i64,
    /// Of those that decode, in thousandths.
    weights: u64,
}

impl Reserved {
    /// On the prefill node, until the first token,
    pub(crate) fn prefilling(demand: &Demand) -> Self {
        Reserved {
            sequences: 1,
            queued: 1,
            queued_tokens: demand.new_tokens,
            blocks: demand.prefill_blocks,
            ..Reserved::default()
        }
    }

    /// and from then until the pages are handed over.
    pub(crate) fn held(demand: &Demand) -> Self {
        Reserved { sequences: 1, blocks: demand.prefill_blocks, ..Reserved::default() }
    }

    /// On the decode node.
    pub(crate) fn decoding(demand: &Demand) -> Self {
        Reserved {
            sequences: 1,
            context_tokens: demand.context_tokens,
            blocks: demand.decode_blocks,
            objectives: demand.tpot.is_some().into(),
            objective_logs: demand.tpot.map_or(0, log),
            weights: demand.weight.0,
            ..Reserved::default()
        }
    }

    /// On the decode node, while it computes the prompt itself.
    pub(crate) fn local(demand: &Demand) -> Self {
        let mut reserved = Reserved::decoding(demand);
        reserved.queued = 1;
        reserved.queued_tokens = demand.new_tokens;
        reserved
    }

    /// The geometric mean of the objectives, in seconds; none without any.
    pub(crate) fn objective(&self) -> Option<f64> {
        (self.objectives > 0)
            .then(|| (self.objective_logs as f64 / self.objectives as f64 / 1e6).exp() / 1e9)
    }

    /// How much one that decodes counts in the mean.
    pub(crate) fn mean_weight(&self) -> f64 {
        match self.sequences {
            0 => 1.0,
            sequences => Weight(self.weights).value() / sequences as f64,
        }
    }

    pub(crate) fn add(&mut self, other: Reserved) {
        self.sequences += other.sequences;
        self.queued += other.queued;
        self.queued_tokens += other.queued_tokens;
        self.context_tokens += other.context_tokens;
        self.blocks += other.blocks;
        self.objectives += other.objectives;
        self.objective_logs += other.objective_logs;
        self.weights += other.weights;
    }

    pub(crate) fn take(&mut self, other: Reserved) {
        self.sequences -= other.sequences;
        self.queued -= other.queued;
        self.queued_tokens -= other.queued_tokens;
        self.context_tokens -= other.context_tokens;
        self.blocks -= other.blocks;
        self.objectives -= other.objectives;
        self.objective_logs -= other.objective_logs;
        self.weights -= other.weights;
    }
}

fn log(objective: Duration) -> i64 {
    ((objective.as_nanos().max(1) as f64).ln() * 1e6).round() as i64
}
