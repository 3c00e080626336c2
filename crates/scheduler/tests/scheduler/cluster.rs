//! Two nodes and a router's bookkeeping: prefill here, copy the pages, decode there.

use baton_kv_cache::{BlockRef, block_hashes};
use baton_scheduler::{Engine, Event, Goal, ImportedToken, SchedulerConfig, Start, Submission};
use baton_types::{SequenceSpec, TokenId};

use crate::node::{BLOCK_TOKENS, Drawn, Node, alone, epoch, key};

pub(crate) struct Cluster {
    pub(crate) prefill: Node,
    pub(crate) decode: Node,
    pub(crate) requests: Vec<Request>,
    /// Blocks others hold on the decode node.
    pub(crate) others: Vec<BlockRef>,
}

pub(crate) struct Request {
    /// As the client sent it.
    spec: SequenceSpec,
    epoch: u64,
    stream: Vec<Drawn>,
    state: State,
}

enum State {
    /// On the prefill node.
    Prefill,
    /// Prefilled; the pages wait to be pulled.
    Held(Vec<BlockRef>),
    /// On the decode node.
    Decode,
    /// It came to its end.
    Complete,
    /// Cancelled, refused or failed.
    Cut,
}

impl Cluster {
    pub(crate) fn new(blocks: [u32; 2], configs: [SchedulerConfig; 2]) -> Self {
        Cluster {
            prefill: Node::new(blocks[0], configs[0]),
            decode: Node::new(blocks[1], configs[1]),
            requests: Vec::new(),
            others: Vec::new(),
        }
    }

    pub(crate) fn submit(&mut self, mut spec: SequenceSpec, disaggregated: bool) {
        spec.key = key(self.requests.len() as u128);
        spec.epoch = epoch(1);
        let result = match disaggregated {
            true => self.prefill.submit(spec.clone(), Goal::FirstToken),
            false => self.decode.submit(spec.clone(), Goal::Finish),
        };
        let state = match (result, disaggregated) {
            (Ok(()), true) => State::Prefill,
            (Ok(()), false) => State::Decode,
            (Err(_), _) => State::Cut,
        };
        self.requests.push(Request { spec, epoch: 1, stream: Vec::new(), state });
    }

    /// Runs what is left of a request on the decode node under a fresh epoch, as after a crash.
    pub(crate) fn replay(&mut self, at: usize) {
        let request = &mut self.requests[at];
        match request.state {
            State::Complete | State::Cut => return,
            State::Prefill => {
                assert!(self.prefill.scheduler.cancel(request.spec.key, epoch(request.epoch)));
            }
            State::Held(_) | State::Decode => {}
        }
        request.epoch += 1;
        request.state = match self.decode.submit(request.continuation(), Goal::Finish) {
            Ok(()) => State::Decode,
            Err(_) => {
                self.decode.scheduler.cancel(request.spec.key, epoch(request.epoch - 1));
                State::Cut
            }
        };
    }

    pub(crate) fn cancel(&mut self, at: usize) {
        let request = &mut self.requests[at];
        let (key, epoch) = (request.spec.key, epoch(request.epoch));
        let node = match request.state {
            State::Prefill => Some(&mut self.prefill),
            State::Decode => Some(&mut self.decode),
            _ => None,
        };
        if let Some(node) = node {
            assert!(node.scheduler.cancel(key, epoch));
        }
        if !matches!(request.state, State::Complete) {
            request.state = State::Cut;
        }
    }

    /// Pulls the pages of every held request the decode node has room for.
    pub(crate) fn hand_over(&mut self) {
        for request in &mut self.requests {
            let State::Held(pages) = &request.state else { continue };
            let decode = &mut self.decode;
            if pages.len() > decode.cache.usage().total as usize {
                request.state = State::Cut;
                continue;
            }
            let mut spec = request.continuation();
            let first = spec.tokens.pop().expect("the first token");
            let numerics = decode.engine.info().numerics;
            let hashes = block_hashes(numerics, spec.cache_salt, &spec.tokens, BLOCK_TOKENS);
            let mut blocks = match decode.config.prefix_cache {
                true => decode.cache.lookup(&hashes),
                false => Vec::new(),
            };
            let cached = blocks.len();
            if decode.cache.reserve_into(pages.len() - cached, &mut blocks).is_err() {
                continue;
            }
            for (from, to) in pages.iter().zip(&blocks).skip(cached) {
                for layer in 0..decode.engine.info().layout.layers {
                    self.prefill.slots.copy_page(layer, from.id(), &decode.slots, to.id());
                }
            }
            let start = Start::Imported {
                blocks,
                cached_tokens: cached as u32 * BLOCK_TOKENS,
                first: ImportedToken { token: first },
            };
            let submission = Submission { spec, start, goal: Goal::Finish, constraint: None };
            request.state = match decode.scheduler.submit(decode.now, submission) {
                Ok(()) => State::Decode,
                Err(_) => State::Cut,
            };
        }
    }

    pub(crate) fn step_prefill(&mut self) {
        let events = self.prefill.step().1;
        self.deliver(events);
    }

    pub(crate) fn step_decode(&mut self) {
        let events = self.decode.step().1;
        self.deliver(events);
    }

    /// The router's part: every event of the granted epoch goes to its stream, in order.
    pub(crate) fn deliver(&mut self, events: Vec<Event>) {
        for event in events {
            let at = event.key().request.0 as usize;
            let request = &mut self.requests[at];
            if event.epoch() != epoch(request.epoch) {
                assert!(matches!(event, Event::Failed { .. }), "one-owner: {event:?}");
                continue;
            }
            match event {
                Event::Admitted { .. } => {}
                Event::Token { index, token, logits_digest, .. } => {
                    assert_eq!(index as usize, request.stream.len(), "exact-stream");
                    request.stream.push((token, logits_digest));
                }
                Event::Prefilled { blocks, .. } => request.state = State::Held(blocks),
                Event::Finished { .. } => request.state = State::Complete,
                Event::Failed { .. } => request.state = State::Cut,
            }
        }
    }

    /// Lets everything end (`no-lost-request`), then checks every stream and both pools.
    pub(crate) fn settle(mut self) {
        self.others.clear();
        for round in 0.. {
            self.hand_over();
            self.step_prefill();
            self.step_decode();
            let live = |r: &Request| !matches!(r.state, State::Complete | State::Cut);
            if !self.requests.iter().any(live) {
                break;
            }
            assert!(round < 20_000, "no-lost-request: {:?}", self.decode.scheduler.load());
        }
        self.prefill.assert_whole();
        self.decode.assert_whole();
        for request in &self.requests {
            request.check();
        }
    }
}

impl Request {
    /// The request as a node is asked to go on with it.
    fn continuation(&self) -> SequenceSpec {
        let mut spec = self.spec.clone();
        spec.epoch = epoch(self.epoch);
        spec.tokens.extend(self.stream.iter().map(|&(token, _)| token));
        spec
    }

    /// `same-tokens`: all of what it yields alone, or as much as it came to.
    fn check(&self) {
        if self.stream.is_empty() && matches!(self.state, State::Cut) {
            return;
        }
        let expect = alone(&self.spec);
        match self.state {
            State::Complete => assert_eq!(self.stream, expect, "same-tokens"),
            _ => assert_eq!(self.stream, expect[..self.stream.len()], "same-tokens"),
        }
    }
}

/// A prompt that shares its first `shared` tokens with all others of its family.
pub(crate) fn prompt(family: u32, shared: u32, own: u32, salt: u32) -> Vec<TokenId> {
    let common = (0..shared).map(|i| family * 50 + i);
    let unique = (0..own).map(|i| salt * 13 + i * 3);
    common.chain(unique).map(|token| TokenId(token % 256)).collect()
}
