//! What happens, and when: the one queue.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use baton_migration::{FromDestination, FromSource, ToDestination, ToSource};
use baton_types::{
    Capability, Epoch, Generation, KvEvents, NodeLoad, SequenceKey, SequenceSpec, StepReport, Time,
    TokenId,
};

use baton_transfer_protocol::StreamId;

use super::TransferId;
use crate::network::Drain;

#[derive(Debug)]
pub(super) enum Event {
    /// The next request comes to the router.
    Arrival,
    /// The router's earliest deadline, of a wait in line or of a request.
    RouterTimer,
    /// The earliest lease's end.
    LeaseTimer,
    /// A request that failed is tried again.
    Retry {
        number: u64,
        epoch: u64,
    },
    ToNode {
        node: usize,
        generation: Generation,
        message: Box<ToNode>,
    },
    ToRouter(Box<ToRouter>),
    Heartbeat {
        node: usize,
        generation: Generation,
    },
    StepEnd {
        node: usize,
        generation: Generation,
    },
    /// A step loop with nothing to compute looks again.
    Wake {
        node: usize,
        generation: Generation,
    },
    SourceTimer {
        node: usize,
        generation: Generation,
    },
    /// The first layer of a step is done.
    Supply {
        transfer: TransferId,
        step: u64,
        bytes_per_second: f64,
    },
    Drain(Drain),
    /// The first token comes to the sink; the last page does.
    FirstAtSink {
        transfer: TransferId,
    },
    LastPage {
        transfer: TransferId,
    },
    SinkTimer {
        transfer: TransferId,
    },
    /// A transfer's connections broke.
    PullBroken {
        transfer: TransferId,
    },
    /// A deadline of one of a move's machines.
    OfferTimer {
        node: usize,
        generation: Generation,
        moving: Moving,
    },
    AdoptTimer {
        node: usize,
        generation: Generation,
        moving: Moving,
    },
    ArbiterTimer {
        number: u64,
    },
    /// A sequence whose tokens are still being computed is looked at again.
    LookAgain {
        node: usize,
        generation: Generation,
        moving: Moving,
    },
    /// Sequences are made to move.
    ForceMove,
    /// The rebalancer looks at the cluster.
    Rebalance,
    FaultBegins(usize),
    FaultEnds(usize),
    /// Whether somebody should change roles.
    Roles,
    /// The advisor looks at the load.
    Advise,
    /// A worker that was asked for is there.
    Started {
        node: usize,
    },
}

/// Over the control plane but for the last three.
#[derive(Clone, Debug)]
pub(super) enum ToNode {
    PrefillRun {
        spec: SequenceSpec,
        capability: Option<Capability>,
    },
    DecodeRun {
        spec: SequenceSpec,
        source: Source,
    },
    /// Prompt and output on one worker.
    WholeRun {
        spec: SequenceSpec,
    },
    /// Live migration: the source is to offer what runs under `epoch`,
    Offer {
        moving: Moving,
        epoch: Epoch,
        capability: Capability,
    },
    /// the destination to pull it;
    Adopt {
        spec: SequenceSpec,
        source: Source,
    },
    /// and the arbiter's later words. Who is to own the sequence gets the tokens made meanwhile.
    SourceWord {
        moving: Moving,
        word: ToSource,
    },
    DestinationWord {
        moving: Moving,
        word: ToDestination,
        tokens: Vec<TokenId>,
    },
    /// The router dropped its stream.
    Cancel {
        key: SequenceKey,
        epoch: Epoch,
    },
    Pull {
        transfer: TransferId,
    },
    /// The puller has everything.
    Release {
        streams: Streams,
    },
    /// The puller gave up, or the connections broke.
    Abort {
        streams: Streams,
        broken: bool,
    },
}

/// A sequence, and the attempt to move it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Moving {
    pub(crate) key: SequenceKey,
    pub(crate) attempt: Epoch,
}

/// A transfer's connections: so many from the first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams {
    pub(super) first: u64,
    pub(super) count: u32,
}

impl Streams {
    pub(super) fn ids(self) -> impl Iterator<Item = (u32, StreamId)> {
        (0..self.count).map(move |index| (index, StreamId(self.first + u64::from(index))))
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub(super) node: usize,
    pub(super) generation: Generation,
    pub(super) capability: Capability,
}

#[derive(Clone, Debug)]
pub(super) enum ToRouter {
    Word {
        number: u64,
        epoch: Epoch,
        node: usize,
        word: Word,
    },
    Beat {
        node: usize,
        generation: Generation,
        load: NodeLoad,
        reports: Vec<StepReport>,
        events: Option<KvEvents>,
    },
    /// What one side of a move says.
    Source {
        node: usize,
        moving: Moving,
        said: FromSource,
    },
    Destination {
        node: usize,
        moving: Moving,
        said: FromDestination,
    },
    /// A source's stream ended: it has nothing of the sequence any more, if that went.
    Left {
        moving: Moving,
    },
    /// A node's connections broke.
    Broken {
        node: usize,
        generation: Generation,
    },
}

/// What a node says of an attempt.
#[derive(Clone, Debug)]
pub(super) enum Word {
    First {
        finished: bool,
    },
    HandedOver,
    /// So many bytes came, the last so long after the prompt was computed.
    Joined {
        bytes: u64,
        exposed: Duration,
    },
    Token {
        index: u32,
    },
    Finished,
    Failed(Failure),
}

/// Why an attempt ended without the sequence's end; as the router's `Kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Request,
    Full,
    Unreachable,
    Node,
    HandOver,
    Deadline,
}

impl Failure {
    pub(super) fn label(self) -> &'static str {
        match self {
            Failure::Request => "request",
            Failure::Full => "full",
            Failure::Unreachable => "unreachable",
            Failure::Node => "node",
            Failure::HandOver => "hand_over",
            Failure::Deadline => "deadline",
        }
    }
}

/// Events in order of time; those of one time in the order they were put in.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
}

#[derive(Debug)]
struct Scheduled {
    at: Time,
    sequence: u64,
    event: Event,
}

impl Queue {
    pub(super) fn push(&mut self, at: Time, event: Event) {
        self.sequence += 1;
        self.heap.push(Reverse(Scheduled { at, sequence: self.sequence, event }));
    }

    pub(super) fn pop(&mut self) -> Option<(Time, Event)> {
        self.heap.pop().map(|Reverse(Scheduled { at, event, .. })| (at, event))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}
