//! The router's state machine of a request: placed, attempted, tried again while that helps, ended;
//! as `baton-router` does it.

use std::{collections::BTreeMap, time::Duration};

use baton_migration::{Arbiter, ArbiterConfig, FromDestination, FromSource};
use baton_policy::{ReservationId, Way};
use baton_types::{
    ChoiceIndex, Epoch, Generation, NodeId, RequestId, Role, RouterId, SequenceKey, Time, TokenId,
};

use super::{
    Simulation,
    event::{Event, Failure, ToNode, ToRouter, Word},
    faults::Part,
    moving::{Attempted, Migration},
    steps::output_token,
};
use crate::{
    node::Work,
    outcome::{End, Outcome, Parts},
    scenario::seconds,
    workload::Request,
};

pub(super) const ROUTER: RouterId = RouterId(1);
/// The first pause before trying again, after the first time; it doubles.
const BACKOFF: Duration = Duration::from_millis(25);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// A request that hasn't ended.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) number: u64,
    pub(super) request: Request,
    /// Of who owns it.
    pub(super) arbiter: Arbiter,
    pub(super) timer: Option<Time>,
    pub(super) migration: Option<Box<Migration>>,
    /// Every attempt to move it.
    pub(super) attempted: Vec<Attempted>,
    pub(super) moves: u32,
    /// Its next token is the first of another node.
    pub(super) handing_over: bool,
    /// From one node's last token to another's first.
    pub(super) gaps: Vec<Duration>,
    pub(super) attempts: u32,
    pub(super) attempt: Option<Attempt>,
    /// Those that failed the last attempt.
    pub(super) exclude: Vec<NodeId>,
    pub(super) placed: bool,
    /// Tokens the client has,
    pub(super) emitted: u32,
    /// and those that came before their turn.
    pub(super) ahead: BTreeMap<u32, Time>,
    pub(super) first: Option<Time>,
    pub(super) last: Time,
    pub(super) longest_gap: Duration,
    pub(super) parts: Parts,
    pub(super) cached_tokens: Option<u32>,
}

/// Nodes at work on it under one epoch.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) reservation: ReservationId,
    /// Those whose streams are open.
    pub(super) prefill: Option<usize>,
    pub(super) decode: Option<usize>,
    /// Prompt and output are one worker's.
    pub(super) whole: bool,
    /// With so many tokens emitted before.
    pub(super) began: u32,
    pub(super) prefilled: bool,
    pub(super) joined: bool,
    pub(super) finished: bool,
}

impl Live {
    /// Whether the output ends with the token of this index.
    pub(super) fn is_last(&self, index: u32) -> bool {
        index + 1 >= self.request.output_len
    }

    /// A token came. Each counts once, in its turn, whatever was tried again.
    fn token(&mut self, index: u32, at: Time) {
        if index > self.emitted {
            self.ahead.insert(index, at);
            return;
        }
        if index < self.emitted {
            return;
        }
        self.emit(at);
        while let Some(ahead) = self.ahead.remove(&self.emitted) {
            self.emit(at.max(ahead));
        }
    }

    fn emit(&mut self, at: Time) {
        if self.first.is_none() {
            self.first = Some(at);
        } else {
            let gap = at - self.last;
            self.longest_gap = self.longest_gap.max(gap);
            if std::mem::take(&mut self.handing_over) {
                self.gaps.push(gap);
            }
        }
        self.last = at;
        self.emitted += 1;
    }

    fn outcome(&self, end: End, ended: Time) -> Outcome {
        let more = self.emitted.checked_sub(1).filter(|more| *more > 0);
        let since_first = self.first.map(|first| self.last - first);
        Outcome {
            number: self.number,
            at: self.request.at,
            prompt_tokens: self.request.prompt.len(),
            output_tokens: self.emitted,
            end,
            ended,
            ttft: self.first.map(|first| first - self.request.at),
            tpot: more.zip(since_first).map(|(more, time)| time / more),
            longest_gap: more.map(|_| self.longest_gap),
            slo: self.request.slo,
            priority: self.request.priority,
            parts: self.parts,
            cached_tokens: self.cached_tokens.unwrap_or(0),
            attempts: self.attempts,
            moves: self.moves,
        }
    }
}

impl Simulation<'_> {
    pub(super) fn expect_arrival(&mut self) {
        self.next = self.workload.next();
        if let Some(next) = &self.next {
            self.queue.push(next.at, Event::Arrival);
        }
    }

    pub(super) fn arrival(&mut self) {
        let Some(request) = self.next.take() else { return };
        let number = self.offered;
        self.offered += 1;
        let live = Live {
            number,
            request,
            arbiter: Arbiter::new(ArbiterConfig::default(), ROUTER),
            timer: None,
            migration: None,
            attempted: Vec::new(),
            moves: 0,
            handing_over: false,
            gaps: Vec::new(),
            attempts: 0,
            attempt: None,
            exclude: Vec::new(),
            placed: false,
            emitted: 0,
            ahead: BTreeMap::new(),
            first: None,
            last: self.now,
            longest_gap: Duration::ZERO,
            parts: Parts::default(),
            cached_tokens: None,
        };
        self.live.insert(number, Box::new(live));
        let deadline = self.now + seconds(self.scenario.cluster.membership.deadline_s);
        self.deadlines.push_back((deadline, number));
        self.expect_arrival();
        self.ask_for_place(number);
        self.place_requests();
    }

    pub(super) fn post(&mut self, at: Time, node: usize, generation: Generation, message: ToNode) {
        self.queue.push(at, Event::ToNode { node, generation, message: Box::new(message) });
    }

    pub(super) fn message(&mut self, node: usize, generation: Generation, message: ToNode) {
        if !self.is_alive(node, generation) {
            return self.bounced(node, message);
        }
        match message {
            ToNode::PrefillRun { spec, capability } => self.prefill_run(node, spec, capability),
            ToNode::DecodeRun { spec, source } => self.decode_run(node, spec, source),
            ToNode::WholeRun { spec } => self.whole_run(node, spec),
            ToNode::Offer { moving, epoch, capability } => {
                self.offer_run(node, moving, epoch, capability);
            }
            ToNode::Adopt { spec, source } => self.adopt_run(node, spec, source),
            ToNode::SourceWord { moving, word } => self.source_hears(node, moving, word),
            ToNode::DestinationWord { moving, word, tokens } => {
                self.destination_hears(node, moving, word, tokens);
            }
            ToNode::Cancel { key, epoch } => match self.nodes[node].work {
                Work::Prefill => self.cancel_prefill(node, key, epoch),
                Work::Decode | Work::Both => self.cancel_decode(node, key, epoch),
            },
            ToNode::Pull { transfer } => self.pull(transfer),
            ToNode::Release { streams } => self.released(node, streams),
            ToNode::Abort { streams, broken } => self.aborted(node, streams, broken),
        }
    }

    /// What a node says of a sequence.
    pub(super) fn say(&mut self, node: usize, key: SequenceKey, epoch: Epoch, word: Word) {
        let number = key.request.0 as u64;
        match self.links.deliver(self.now, Part::Node(node), Part::Router) {
            Some(at) => {
                let word = ToRouter::Word { number, epoch, node, word };
                self.queue.push(at, Event::ToRouter(Box::new(word)));
            }
            None => {
                self.unreachable(number, node);
                let generation = self.nodes[node].generation;
                self.post(self.now, node, generation, ToNode::Cancel { key, epoch });
            }
        }
    }

    /// A node made a token. Unless its way is disturbed, when it comes is known at once.
    pub(super) fn token(&mut self, node: usize, key: SequenceKey, epoch: Epoch, index: u32) {
        if self.links.is_disturbed(node) {
            return self.say(node, key, epoch, Word::Token { index });
        }
        let at = self.now + self.links.router_latency;
        if let Some(live) = self.live_of(key, epoch) {
            live.token(index, at);
        }
    }

    /// The request, if it still goes by this epoch.
    pub(super) fn live_of(&mut self, key: SequenceKey, epoch: Epoch) -> Option<&mut Live> {
        let live = self.live.get_mut(&(key.request.0 as u64))?;
        (live.epoch() == epoch && live.attempt.is_some()).then_some(live)
    }

    pub(super) fn heard(&mut self, message: ToRouter) {
        match message {
            ToRouter::Word { number, epoch, node, word } => self.word(number, epoch, node, word),
            ToRouter::Beat { node, generation, load, reports, events } => {
                self.beat(node, generation, load, &reports, events.as_ref());
            }
            ToRouter::Source { node, moving, said } => self.heard_source(node, moving, said),
            ToRouter::Destination { node, moving, said } => {
                self.heard_destination(node, moving, said);
            }
            ToRouter::Left { moving } => self.has_left(moving),
            ToRouter::Broken { node, generation } => self.node_gone(node, generation),
        }
        self.place_requests();
    }

    fn word(&mut self, number: u64, epoch: Epoch, node: usize, word: Word) {
        if self.live.get(&number).is_none_or(|live| live.epoch() != epoch) {
            return;
        }
        if matches!(word, Word::Failed(_)) && self.failed_in_move(number, node) {
            return;
        }
        let Some(live) = self.live.get_mut(&number) else { return };
        let Some(attempt) = &mut live.attempt else { return };
        let (reservation, is_end) = (attempt.reservation, matches!(word, Word::Finished));
        match word {
            Word::First { finished } => {
                attempt.prefilled = true;
                attempt.finished |= finished;
                let whole = attempt.whole;
                self.placer.view_mut().first_token(reservation, self.now);
                if whole {
                    self.placer.view_mut().handed_over(reservation);
                }
            }
            Word::HandedOver => {
                attempt.prefill = None;
                self.placer.view_mut().handed_over(reservation);
            }
            Word::Joined { bytes, exposed } => {
                attempt.joined = true;
                self.placer.view_mut().joined(reservation, bytes, exposed, self.now);
            }
            Word::Token { index } => live.token(index, self.now),
            Word::Finished => {
                attempt.decode = None;
                attempt.finished = true;
            }
            // Whatever becomes of it now, its work is done.
            Word::Failed(_)
                if attempt.prefill == Some(node) && attempt.prefilled && attempt.joined =>
            {
                attempt.prefill = None;
            }
            Word::Failed(failure) => return self.attempt_failed(number, failure, &[node]),
        }
        // It has done all before it was said that it began.
        if is_end && live.is_granted() {
            self.began_elsewhere(number);
        }
        let Some(live) = self.live.get_mut(&number) else { return };
        let Some(reservation) = live.attempt.as_ref().map(|attempt| attempt.reservation) else {
            return;
        };
        let is_over = live.attempt.as_ref().is_some_and(|attempt| attempt.finished);
        if is_over && live.emitted >= live.request.output_len {
            let began = live.attempt.as_ref().map_or(0, |attempt| attempt.began);
            let tokens = live.emitted - began;
            self.placer.view_mut().finished(reservation, tokens, self.now);
            self.drop_attempt(number);
            self.end(number, End::Completed);
        }
    }

    /// One of the nodes a sequence moves between failed: whether its arbiter says what becomes of it. So it
    /// is also if a node failed that has nothing to do with it any more.
    fn failed_in_move(&mut self, number: u64, node: usize) -> bool {
        let now = self.now;
        let Some(live) = self.live.get_mut(&number) else { return true };
        let Some(epoch) = live.arbiter.attempt() else {
            let works = |attempt: &Attempt| [attempt.prefill, attempt.decode].contains(&Some(node));
            return !live.attempt.as_ref().is_some_and(works);
        };
        match &live.migration {
            Some(migration) if migration.to == node => {
                live.arbiter.from_destination(now, epoch, FromDestination::Gone);
            }
            Some(migration) if migration.from == node && migration.granted => {
                live.arbiter.from_source(now, epoch, FromSource::Gone);
            }
            _ => return false,
        }
        self.obey(number);
        true
    }

    /// The sequence's new owner has spoken.
    fn began_elsewhere(&mut self, number: u64) {
        let now = self.now;
        let Some(live) = self.live.get_mut(&number) else { return };
        if let Some(epoch) = live.arbiter.attempt() {
            live.arbiter.from_destination(now, epoch, FromDestination::Running);
            self.obey(number);
        }
    }

    /// The attempt is over; another one is prepared, or the request ends.
    pub(super) fn attempt_failed(&mut self, number: u64, failure: Failure, nodes: &[usize]) {
        let Some(live) = self.live.get(&number) else { return };
        let both = live.attempt.iter().flat_map(|attempt| [attempt.prefill, attempt.decode]);
        let both: Vec<usize> = both.flatten().collect();
        let nodes = if failure == Failure::HandOver { &both } else { nodes };
        let is_complete = live.emitted >= live.request.output_len;
        for way in self.failed_ways(number, failure, nodes) {
            self.placer.view_mut().troubles.failed(way, self.now);
        }
        self.drop_attempt(number);
        match failure {
            // Only the word was lost that this is the end.
            _ if is_complete => return self.end(number, End::Completed),
            Failure::Request | Failure::Deadline => {
                return self.end(number, End::Failed(failure.label()));
            }
            Failure::Unreachable => nodes.iter().for_each(|&node| self.suspect(node)),
            Failure::Full | Failure::Node | Failure::HandOver => {}
        }
        let exclude = nodes.iter().flat_map(|&node| self.faces(node)).map(|(face, _)| face);
        let exclude = exclude.collect();
        let Some(live) = self.live.get_mut(&number) else { return };
        live.exclude = exclude;
        if live.attempts > self.scenario.cluster.membership.max_retries {
            return self.end(number, End::Failed(failure.label()));
        }
        let pause = live.attempts.checked_sub(2).map_or(Duration::ZERO, |doublings| {
            (BACKOFF * 2_u32.pow(doublings.min(8))).min(LONGEST_BACKOFF)
        });
        let epoch = live.epoch().counter;
        self.queue.push(self.now + pause, Event::Retry { number, epoch });
    }

    /// What of an attempt's ways failed with it, as the router has it.
    fn failed_ways(&self, number: u64, failure: Failure, nodes: &[usize]) -> Vec<Way> {
        let attempt = self.live.get(&number).and_then(|live| live.attempt.as_ref());
        let name = |node: usize, role| {
            let mut faces = self.faces(node).into_iter();
            faces.find(|(_, of)| *of == role).map(|(face, _)| face)
        };
        match (failure, attempt) {
            (Failure::HandOver, Some(Attempt { prefill: Some(from), decode: Some(to), .. })) => {
                let ends = name(*from, Role::Prefill).zip(name(*to, Role::Decode));
                ends.map(|(from, to)| Way::Link(from, to)).into_iter().collect()
            }
            (Failure::Node, _) => {
                let faces = nodes.iter().flat_map(|&node| self.faces(node));
                faces.map(|(face, _)| Way::Node(face)).collect()
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn retry(&mut self, number: u64, epoch: u64) {
        let waits = |live: &Live| live.attempt.is_none() && live.epoch().counter == epoch;
        if self.live.get(&number).is_some_and(|live| waits(live)) {
            self.ask_for_place(number);
            self.place_requests();
        }
    }

    /// Drops both streams, which cancels what still runs, and gives the place back.
    pub(super) fn drop_attempt(&mut self, number: u64) {
        let Some(live) = self.live.get_mut(&number) else { return };
        live.ahead.clear();
        if live.arbiter.attempt().is_some() {
            live.arbiter.draw();
            self.obey(number);
        }
        let Some(live) = self.live.get_mut(&number) else { return };
        live.handing_over = false;
        let Some(attempt) = live.attempt.take() else { return };
        let epoch = live.epoch();
        self.placer.view_mut().release(attempt.reservation);
        for node in [attempt.prefill, attempt.decode].into_iter().flatten() {
            // A stream that breaks cancels too.
            let at = self.links.deliver(self.now, Part::Router, Part::Node(node));
            let at = at.unwrap_or(self.now + self.links.router_latency);
            let generation = self.nodes[node].generation;
            self.post(at, node, generation, ToNode::Cancel { key: key(number), epoch });
        }
    }

    /// Everything that was tried on a node comes to nothing.
    pub(super) fn attempts_lost(&mut self, node: usize) {
        self.departures_over(node);
        let on = |live: &Live| {
            let attempt = live.attempt.as_ref();
            let comes = live.migration.as_ref().is_some_and(|migration| migration.to == node);
            comes || attempt.is_some_and(|a| a.prefill == Some(node) || a.decode == Some(node))
        };
        let mut lost: Vec<u64> =
            self.live.values().filter(|live| on(live)).map(|live| live.number).collect();
        lost.sort_unstable();
        for number in lost {
            if self.failed_in_move(number, node) {
                continue;
            }
            let Some(live) = self.live.get_mut(&number) else { continue };
            match &mut live.attempt {
                Some(attempt)
                    if attempt.prefill == Some(node) && attempt.prefilled && attempt.joined =>
                {
                    attempt.prefill = None;
                }
                _ => self.attempt_failed(number, Failure::Unreachable, &[node]),
            }
        }
    }

    pub(super) fn end(&mut self, number: u64, end: End) {
        let Some(live) = self.live.remove(&number) else { return };
        let ended = match end {
            End::Completed => live.last,
            End::Refused(_) | End::Failed(_) => self.now,
        };
        self.last_ended = self.last_ended.max(ended);
        self.moves.gaps.extend(&live.gaps);
        let outcome = live.outcome(end, ended);
        self.misses += u64::from(!outcome.met());
        self.outcomes.push(outcome);
    }
}

/// The prompt, then what was emitted.
pub(super) fn tokens_of(live: &Live, vocab: u32) -> Vec<TokenId> {
    let emitted = live.emitted;
    let mut tokens = Vec::with_capacity((live.request.prompt.len() + emitted) as usize);
    live.request.prompt.write_tokens(vocab, &mut tokens);
    tokens.extend((0..emitted).map(|index| output_token(live.number, index, vocab)));
    tokens
}

pub(super) fn key(number: u64) -> SequenceKey {
    SequenceKey { request: RequestId(u128::from(number)), choice: ChoiceIndex(0) }
}
