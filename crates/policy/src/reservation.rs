use std::fmt;

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
    /// Prompt tokens the prefill node must compute.
    pub new_tokens: u64,
    /// The whole prompt, in the decode node's context.
    pub context_tokens: u64,
    pub prefill_blocks: u64,
    /// The prompt's and the expected output's.
    pub decode_blocks: u64,
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
}

impl Reserved {
    /// On the prefill node, until the first token,
    pub(crate) fn prefilling(demand: &Demand) -> Self {
        Reserved {
            sequences: 1,
            queued: 1,
            queued_tokens: demand.new_tokens,
            blocks: demand.prefill_blocks,
            context_tokens: 0,
        }
    }

    /// and from then until the pages are handed over.
    pub(crate) fn held(demand: &Demand) -> Self {
        Reserved { queued: 0, queued_tokens: 0, ..Reserved::prefilling(demand) }
    }

    /// On the decode node.
    pub(crate) fn decoding(demand: &Demand) -> Self {
        Reserved {
            sequences: 1,
            context_tokens: demand.context_tokens,
            blocks: demand.decode_blocks,
            ..Reserved::default()
        }
    }

    pub(crate) fn add(&mut self, other: Reserved) {
        self.sequences += other.sequences;
        self.queued += other.queued;
        self.queued_tokens += other.queued_tokens;
        self.context_tokens += other.context_tokens;
        self.blocks += other.blocks;
    }

    pub(crate) fn take(&mut self, other: Reserved) {
        self.sequences -= other.sequences;
        self.queued -= other.queued;
        self.queued_tokens -= other.queued_tokens;
        self.context_tokens -= other.context_tokens;
        self.blocks -= other.blocks;
    }
}
