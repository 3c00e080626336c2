use std::time::Duration;

use baton_types::{Slo, Time};
use serde::Serialize;

/// What became of one offered request.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Counted from 0 in order of arrival.
    pub number: u64,
    pub at: Time,
    pub prompt_tokens: u32,
    /// Tokens the client received.
    pub output_tokens: u32,
    pub end: End,
    pub ended: Time,
    pub ttft: Option<Duration>,
    /// Mean time between its tokens; none of one alone.
    pub tpot: Option<Duration>,
    /// The longest time between two of its tokens.
    pub longest_gap: Option<Duration>,
    pub slo: Slo,
    /// Of its class.
    pub priority: u8,
    pub parts: Parts,
    pub cached_tokens: u32,
    pub attempts: u32,
    /// How often it changed nodes while it ran.
    pub moves: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// With all its tokens.
    Completed,
    /// At the door, for this reason.
    Refused(&'static str),
    /// After it had been admitted, for this reason.
    Failed(&'static str),
}

/// Where the time to its second token went; of the last attempt, but for the router's queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// From its arrival until it had a place for the first time.
    pub router_queue: Duration,
    /// From its arrival at the prefill node until it was in the batch.
    pub prefill_queue: Duration,
    /// Until the first token.
    pub prefill: Duration,
    /// From the first token's arrival at the decode node to the last page's.
    pub exposed_transfer: Option<Duration>,
    /// Until it was in the batch there.
    pub decode_admission: Option<Duration>,
    pub first_decode_step: Option<Duration>,
}

impl Outcome {
    /// Whether it got all its tokens and met its targets.
    pub fn met(&self) -> bool {
        self.met_ttft() && self.met_tpot()
    }

    /// Whether it completed, and began in time.
    pub fn met_ttft(&self) -> bool {
        let ttft = self.ttft.filter(|_| self.end == End::Completed);
        ttft.is_some_and(|ttft| self.slo.ttft.is_none_or(|target| ttft <= target))
    }

    /// Whether it completed, and went on in time. One token alone has no time per token.
    pub fn met_tpot(&self) -> bool {
        self.end == End::Completed
            && self.slo.tpot.zip(self.tpot).is_none_or(|(target, tpot)| tpot <= target)
    }
}
