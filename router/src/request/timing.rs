//! Where a request's time went.

use std::time::Duration;

use baton_proto::{
    convert::micros,
    node::v1::{FirstToken, Joined},
    v1,
};
use baton_types::{NodeId, Time};

use super::failure::Pair;

/// Collected while the request runs; the nodes' parts are those of the last attempt.
#[derive(Clone, Debug)]
pub(crate) struct Timing {
    arrived: Time,
    first: Option<Time>,
    last: Option<Time>,
    parts: v1::Timings,
    cached_tokens: Option<u32>,
}

impl Timing {
    pub(crate) fn new(arrived: Time) -> Self {
        let parts = v1::Timings::default();
        Timing { arrived, first: None, last: None, parts, cached_tokens: None }
    }

    /// The request has a place, for the first time or again.
    pub(crate) fn placed(&mut self, now: Time, pair: &Pair) {
        let name = |node: Option<&NodeId>| node.map(ToString::to_string).unwrap_or_default();
        let router_queue_us = match self.parts.router_queue_us {
            0 => micros(now - self.arrived),
            first => first,
        };
        self.parts = v1::Timings {
            router_queue_us,
            prefill_node: name(pair.prefill.as_ref().or(pair.decode.as_ref())),
            decode_node: name(pair.decode.as_ref()),
            ..v1::Timings::default()
        };
    }

    /// The sequence runs on another node now.
    pub(crate) fn moved(&mut self, node: &NodeId) {
        self.parts.decode_node = node.to_string();
        self.parts.migrations += 1;
    }

    pub(crate) fn prefilled(&mut self, first: &FirstToken) {
        self.parts.prefill_queue_us = first.queue_us;
        self.parts.prefill_us = first.prefill_us;
        // A replay finds its own output in the cache, which is no part of the prompt.
        self.cached_tokens.get_or_insert(first.cached_tokens);
    }

    pub(crate) fn joined(&mut self, joined: &Joined) {
        self.parts.exposed_transfer_us = joined.exposed_transfer_us;
        self.parts.decode_admission_us = joined.admission_us;
        self.parts.pages_moved = joined.pages;
        self.parts.bytes_moved = joined.bytes;
    }

    /// The node that decodes has begun with the prompt.
    pub(crate) fn begun(&mut self, joined: &Joined) {
        self.parts.prefill_queue_us = joined.admission_us;
        self.cached_tokens.get_or_insert(joined.cached_tokens);
    }

    pub(crate) fn stepped(&mut self, step_us: u64) {
        if self.parts.first_decode_step_us == 0 {
            self.parts.first_decode_step_us = step_us;
        }
    }

    /// Tokens leave for the client.
    pub(crate) fn leaving(&mut self, now: Time) {
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// From the request's arrival to its first token's departure.
    pub(crate) fn ttft(&self) -> Option<Duration> {
        self.first.map(|first| first - self.arrived)
    }

    /// The mean time between `tokens` tokens.
    pub(crate) fn tpot(&self, tokens: u32) -> Option<Duration> {
        let (first, last) = (self.first?, self.last?);
        tokens.checked_sub(1).filter(|gaps| *gaps > 0).map(|gaps| (last - first) / gaps)
    }

    /// When the client of an output of `tokens` tokens is due the next, at this mean time between them; at once
    /// without an objective.
    pub(crate) fn next_due(&self, tokens: u32, tpot: Option<Duration>) -> Option<Time> {
        let begun = || match (self.first, self.last, tpot) {
            (Some(first), _, Some(tpot)) => first + tpot * tokens,
            (_, last, _) => last.unwrap_or(self.arrived),
        };
        (tokens > 0).then(begun)
    }

    pub(crate) fn cached_tokens(&self) -> u32 {
        self.cached_tokens.unwrap_or(0)
    }

    /// Everything, for an output of `tokens` tokens.
    pub(crate) fn timings(&self, tokens: u32) -> v1::Timings {
        v1::Timings {
            ttft_us: self.ttft().map_or(0, micros),
            tpot_us: self.tpot(tokens).map_or(0, micros),
            ..self.parts.clone()
        }
    }
}
