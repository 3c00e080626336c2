//! Random schedules: messages are lost, doubled, reordered and late, nodes crash, hang and come back, links
//! break, and migrations are begun all the while. After every event the invariants are checked; then
//! the faults stop, and the sequence must come to its end with nothing left anywhere.
//!
//! A failing schedule is its seed: `BATON_SCHEDULE=SEED cargo test -p baton-migration --test schedules`
//! runs it alone, and its log lies in the file that the failure names.
#![allow(clippy::unwrap_used)]

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    env, fs,
    time::Duration,
};

use baton_migration::{
    Arbiter, ArbiterConfig, Destination, DestinationConfig, DestinationOrder, Ended,
    FromDestination, FromSource, Order, Source, SourceConfig, SourceOrder, Standing, ToDestination,
    ToSource,
};
use baton_types::{Epoch, RouterId, Time};
use rand::{Rng, SeedableRng, rngs::SmallRng};

/// Of a run of the tests; `cargo xtask soak` asks for more.
const SCHEDULES: u64 = 10_000;
const NODES: usize = 4;
const PROMPT: u32 = 40;
/// Tokens at which the sequence ends.
const TOTAL: u32 = PROMPT + 400;
const BLOCK: u32 = 16;
const STEP: u64 = 5;
/// After which the arbiter hears that a node or its link is gone.
const DETECTION: u64 = 60;
/// Faults stop here,
const FAULTS: u64 = 4_000;
/// and everything is over by then.
const END: u64 = FAULTS + 40_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Step(usize),
    Timers,
    ToSource(usize, Epoch, Word),
    FromSource(usize, Epoch, Word),
    ToDestination(usize, Epoch, Word),
    FromDestination(usize, Epoch, Word),
    /// The data plane: pages have been sent up to this block; the last have, and so many tokens are cached.
    Sent {
        from: usize,
        epoch: Epoch,
        blocks: u32,
    },
    Pulled {
        to: usize,
        epoch: Epoch,
        cached: Option<u32>,
    },
    Tokens {
        from: usize,
        epoch: Epoch,
        made: u32,
    },
    Place {
        at: usize,
        epoch: Epoch,
        tokens: u32,
    },
    /// The sequence is cancelled there, under this epoch or an older one.
    Cancel {
        at: usize,
        epoch: Epoch,
    },
    Begin,
    Crash(usize),
    Restart(usize),
    /// Nothing passes between a node and the arbiter, or between two nodes.
    Cut(usize, usize),
    Mend(usize, usize),
    Suspect(usize),
    /// The router dies, and nobody hears of it.
    RouterDies,
}

/// A message's contents, ordered so that events can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Offer,
    Resume(Epoch),
    Release,
    Frozen(u32),
    Bare,
    Gone,
    Prepare,
    Own,
    Drop,
    Prepared(u32),
    Running,
}

/// The arbiter's place in the table of links.
const ROUTER: usize = NODES;

#[derive(Clone, Debug)]
struct Sequence {
    epoch: Epoch,
    /// Prompt included.
    tokens: u32,
    runs: bool,
    /// It has its pages only from its second step on, after a placement.
    has_pages: bool,
}

#[derive(Clone, Debug, Default)]
struct Node {
    up: bool,
    sequence: Option<Sequence>,
    source: Option<(Source, usize)>,
    destination: Option<(Destination, usize)>,
    /// What it holds for a sequence that it doesn't own.
    holds: Option<u32>,
}

struct World {
    rng: SmallRng,
    now: u64,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    events: u64,
    arbiter: Arbiter,
    /// Where the arbiter believes the owner to be, and the attempt's both sides.
    owner_at: usize,
    sides: BTreeMap<Epoch, (usize, usize)>,
    nodes: Vec<Node>,
    cut: [[bool; NODES + 1]; NODES + 1],
    delivered: u32,
    done: bool,
    router_lives: bool,
    moved: u32,
    log: Vec<String>,
}

fn time(ms: u64) -> Time {
    Time::ZERO + Duration::from_millis(ms)
}

impl World {
    fn new(seed: u64) -> Self {
        let config = ArbiterConfig {
            attempt: Duration::from_millis(1500),
            takeover: Duration::from_millis(300),
            again: Duration::from_millis(40),
        };
        let mut world = World {
            rng: SmallRng::seed_from_u64(seed),
            now: 0,
            queue: BinaryHeap::new(),
            events: 0,
            arbiter: Arbiter::new(config, RouterId(7)),
            owner_at: 0,
            sides: BTreeMap::new(),
            nodes: vec![Node { up: true, ..Node::default() }; NODES],
            cut: [[false; NODES + 1]; NODES + 1],
            delivered: PROMPT,
            done: false,
            router_lives: true,
            moved: 0,
            log: Vec::new(),
        };
        let epoch = world.arbiter.owner();
        world.at(1, Event::Place { at: 0, epoch, tokens: PROMPT });
        for node in 0..NODES {
            world.at(STEP + node as u64, Event::Step(node));
        }
        world.at(1, Event::Timers);
        let begins = world.rng.random_range(1..12);
        for _ in 0..begins {
            let at = world.rng.random_range(0..FAULTS);
            world.at(at, Event::Begin);
        }
        for _ in 0..world.rng.random_range(0..5) {
            let (at, node) = (world.rng.random_range(0..FAULTS), world.rng.random_range(0..NODES));
            world.at(at, Event::Crash(node));
        }
        for _ in 0..world.rng.random_range(0..5) {
            let at = world.rng.random_range(0..FAULTS);
            let (a, b) = (world.rng.random_range(0..NODES), world.rng.random_range(0..=NODES));
            if a != b {
                world.at(at, Event::Cut(a, b));
            }
        }
        if world.rng.random_bool(0.1) {
            let at = world.rng.random_range(0..FAULTS);
            world.at(at, Event::RouterDies);
        }
        world
    }

    fn at(&mut self, at: u64, event: Event) {
        self.events += 1;
        self.queue.push(Reverse((at, self.events, event)));
    }

    /// Sends a message, if it passes; once or twice; sooner or later.
    fn send(&mut self, from: usize, to: usize, event: Event) {
        if self.cut[from][to] || (!self.router_lives && (from == ROUTER || to == ROUTER)) {
            return;
        }
        let faulty = self.now < FAULTS;
        if faulty && self.rng.random_bool(0.08) {
            return;
        }
        let copies = if faulty && self.rng.random_bool(0.08) { 2 } else { 1 };
        for _ in 0..copies {
            let late = if faulty && self.rng.random_bool(0.1) { 120 } else { 4 };
            let delay = self.rng.random_range(1..=late);
            self.at(self.now + delay, event);
        }
    }

    fn run(mut self) -> Result<u32, Vec<String>> {
        while let Some(Reverse((at, _, event))) = self.queue.pop() {
            self.now = at;
            if at > END {
                let problem = format!("heals: {} of {TOTAL} tokens at the end", self.delivered);
                return Err(self.failed(problem));
            }
            if !matches!(event, Event::Step(_) | Event::Timers) {
                self.log.push(format!("{at:>6} {event:?}"));
            }
            self.happen(event);
            self.obey();
            if let Err(problem) = self.check() {
                return Err(self.failed(problem));
            }
            if self.is_over() {
                return Ok(self.moved);
            }
        }
        Err(self.failed("the queue ran empty".to_owned()))
    }

    fn failed(mut self, problem: String) -> Vec<String> {
        self.log.push(format!("{:>6} {problem}\n{:#?}\n{:#?}", self.now, self.arbiter, self.nodes));
        self.log
    }

    /// The sequence is at its end, no fault comes any more, and nothing is left of it. Without a router
    /// it has no end, but nobody may hold anything that nobody uses.
    fn is_over(&self) -> bool {
        if !self.router_lives {
            let holds_nothing = |node: &Node| {
                node.source.is_none()
                    && node.holds.is_none()
                    && node.sequence.as_ref().is_none_or(|s| s.runs)
            };
            return self.now > FAULTS + 2_000 && self.nodes.iter().all(holds_nothing);
        }
        let is_clean = |node: &Node| {
            node.sequence.is_none()
                && node.source.is_none()
                && node.destination.is_none()
                && node.holds.is_none()
        };
        self.done && self.now > FAULTS && self.nodes.iter().all(is_clean)
    }

    fn check(&self) -> Result<(), String> {
        let owner = self.arbiter.owner();
        let owns = |node: &&Node| {
            node.up && node.sequence.as_ref().is_some_and(|s| s.runs && s.epoch == owner)
        };
        match self.nodes.iter().filter(owns).count() {
            0 | 1 => Ok(()),
            several => Err(format!("one-owner: {several} nodes run under {owner}")),
        }
    }

    fn happen(&mut self, event: Event) {
        let now = time(self.now);
        let is_routers = matches!(
            event,
            Event::FromSource(..) | Event::FromDestination(..) | Event::Tokens { .. }
        );
        if is_routers && !self.router_lives {
            return;
        }
        match event {
            Event::Step(node) => {
                self.step(node);
                self.at(self.now + STEP, Event::Step(node));
            }
            Event::Timers => {
                self.timers(now);
                self.at(self.now + 10, Event::Timers);
            }
            Event::ToSource(node, epoch, word) => self.source_hears(node, epoch, word),
            Event::FromSource(node, epoch, word) => {
                let said = match word {
                    Word::Frozen(tokens) => {
                        // Over a stream the tokens come before it.
                        if self.arbiter.attempt() == Some(epoch) {
                            self.delivered = self.delivered.max(tokens);
                        }
                        FromSource::Frozen { tokens }
                    }
                    Word::Bare => FromSource::Bare,
                    _ => FromSource::Gone,
                };
                self.sides.entry(epoch).or_insert((node, node));
                self.arbiter.from_source(now, epoch, said);
            }
            Event::FromDestination(node, epoch, word) => {
                let said = match word {
                    Word::Prepared(tokens) => FromDestination::Prepared { tokens },
                    Word::Running => FromDestination::Running,
                    _ => FromDestination::Gone,
                };
                self.sides.entry(epoch).or_insert((node, node));
                self.arbiter.from_destination(now, epoch, said);
            }
            Event::ToDestination(node, epoch, word) => self.destination_hears(node, epoch, word),
            Event::Sent { from, epoch, blocks } => {
                if let Some((source, _)) = &mut self.nodes[from].source
                    && source.attempt() == epoch
                {
                    source.sent(blocks);
                }
            }
            Event::Pulled { to, epoch, cached } => {
                if let Some((destination, _)) = &mut self.nodes[to].destination
                    && destination.attempt() == epoch
                {
                    destination.pulled(now, cached);
                }
            }
            Event::Tokens { from, epoch, made } => self.tokens(from, epoch, made),
            Event::Place { at, epoch, tokens } => self.placed(at, epoch, tokens),
            Event::Cancel { at, epoch } => self.cancel(at, epoch),
            Event::Begin => self.begin(now),
            Event::Crash(node) => {
                self.nodes[node] = Node::default();
                let (restart, hears) = (self.rng.random_range(50..800), self.now + DETECTION);
                self.at(self.now + restart, Event::Restart(node));
                self.at(hears, Event::Suspect(node));
            }
            Event::Restart(node) => self.nodes[node].up = true,
            Event::Cut(a, b) => {
                (self.cut[a][b], self.cut[b][a]) = (true, true);
                let lasts = self.rng.random_range(20..600);
                self.at(self.now + lasts, Event::Mend(a, b));
                if b == ROUTER && lasts > DETECTION {
                    self.at(self.now + DETECTION, Event::Suspect(a));
                } else if b != ROUTER {
                    self.break_pulls(a, b);
                }
            }
            Event::Mend(a, b) => (self.cut[a][b], self.cut[b][a]) = (false, false),
            Event::Suspect(node) => self.suspect(node),
            Event::RouterDies => self.router_lives = false,
        }
    }

    /// What the arbiter learns when a node's streams break.
    fn suspect(&mut self, node: usize) {
        let now = time(self.now);
        let sides =
            self.arbiter.attempt().and_then(|epoch| Some((epoch, *self.sides.get(&epoch)?)));
        match sides {
            Some((epoch, (from, _))) if from == node => {
                self.arbiter.from_source(now, epoch, FromSource::Gone);
            }
            Some((epoch, (_, to))) if to == node => {
                self.arbiter.from_destination(now, epoch, FromDestination::Gone);
            }
            Some(_) => {}
            None if self.owner_at == node && !self.done => self.arbiter.owner_lost(),
            None => {}
        }
    }

    fn break_pulls(&mut self, a: usize, b: usize) {
        for (to, from) in [(a, b), (b, a)] {
            if let Some((destination, source)) = &self.nodes[to].destination
                && *source == from
            {
                let epoch = destination.attempt();
                self.at(self.now + 3, Event::Pulled { to, epoch, cached: None });
            }
        }
    }

    fn begin(&mut self, now: Time) {
        if self.done {
            return;
        }
        let to = self.rng.random_range(0..NODES);
        if to != self.owner_at
            && let Ok(epoch) = self.arbiter.begin(now)
        {
            self.sides.insert(epoch, (self.owner_at, to));
        }
    }

    fn step(&mut self, node: usize) {
        let Some(sequence) = &mut self.nodes[node].sequence else { return };
        if !sequence.runs {
            return;
        }
        if std::mem::replace(&mut sequence.has_pages, true) && sequence.tokens < TOTAL {
            sequence.tokens += 1;
        }
        let (epoch, made) = (sequence.epoch, sequence.tokens);
        if let Some((destination, _)) = &mut self.nodes[node].destination {
            destination.began();
        }
        self.send(node, ROUTER, Event::Tokens { from: node, epoch, made });
    }

    fn tokens(&mut self, from: usize, epoch: Epoch, made: u32) {
        if epoch != self.arbiter.owner() || self.done {
            let attempt = self.arbiter.attempt();
            let is_source =
                attempt.is_some_and(|a| self.sides.get(&a).is_some_and(|s| s.0 == from));
            if self.done || !is_source {
                self.send(ROUTER, from, Event::Cancel { at: from, epoch });
            }
            return;
        }
        self.delivered = self.delivered.max(made);
        if self.delivered >= TOTAL && self.arbiter.attempt().is_none_or(|_| true) {
            self.done = true;
            self.arbiter.give_up();
        }
    }

    fn placed(&mut self, at: usize, epoch: Epoch, tokens: u32) {
        if !self.nodes[at].up {
            return;
        }
        let is_newer = self.nodes[at].sequence.as_ref().is_none_or(|s| s.epoch < epoch);
        if is_newer {
            self.nodes[at].source = None;
            let (runs, has_pages) = (true, false);
            self.nodes[at].sequence = Some(Sequence { epoch, tokens, runs, has_pages });
        }
    }

    fn cancel(&mut self, at: usize, epoch: Epoch) {
        let node = &mut self.nodes[at];
        if node.sequence.as_ref().is_some_and(|s| s.epoch <= epoch) {
            (node.sequence, node.source) = (None, None);
        }
        if node.destination.as_ref().is_some_and(|(d, _)| d.attempt() <= epoch) {
            (node.destination, node.holds) = (None, None);
        }
    }

    fn timers(&mut self, now: Time) {
        if self.arbiter.poll_timeout().is_some_and(|at| at <= now) {
            self.arbiter.handle_timeout(now);
        }
        for node in 0..NODES {
            if let Some((source, _)) = &mut self.nodes[node].source {
                source.handle_timeout(now);
            }
            if let Some((destination, _)) = &mut self.nodes[node].destination {
                destination.handle_timeout(now);
            }
        }
        // Streams of a request that is over break, and those of nodes that are owed a placement are tried
        // again.
        let owner = self.arbiter.owner();
        if self.done {
            for at in 0..NODES {
                self.send(ROUTER, at, Event::Cancel { at, epoch: owner });
            }
        } else if self.arbiter.attempt().is_none() {
            let at = self.owner_at;
            let has_it = self.nodes[at].sequence.as_ref().is_some_and(|s| s.epoch == owner)
                || self.nodes[at].source.is_some();
            if !has_it && self.now % 100 < 10 {
                // Nothing was heard of it.
                let is_expected = self.queue.iter().any(|Reverse((.., event))| match event {
                    Event::Place { epoch, .. } => *epoch == owner,
                    Event::ToSource(_, _, word) => *word == Word::Resume(owner),
                    Event::ToDestination(_, epoch, word) => *epoch == owner && *word == Word::Own,
                    _ => false,
                });
                if !is_expected {
                    self.arbiter.owner_lost();
                }
            }
        }
    }

    fn source_hears(&mut self, node: usize, epoch: Epoch, word: Word) {
        if !self.nodes[node].up {
            return;
        }
        if word == Word::Offer {
            let current = self.nodes[node].source.as_ref().map(|(source, _)| source.attempt());
            let to = self.sides.get(&epoch).map_or(node, |sides| sides.1);
            let owner = self.nodes[node].sequence.as_ref().map(|s| s.epoch);
            // One attempt after the other; an old one is told that it is over when it asks.
            if current.is_none() && owner.is_none_or(|owner| owner < epoch) {
                let config = SourceConfig {
                    attempt: Duration::from_millis(2_000),
                    lease: Duration::from_millis(1500),
                    again: Duration::from_millis(40),
                    ..SourceConfig::new(BLOCK)
                };
                self.nodes[node].source = Some((Source::new(config, time(self.now), epoch), to));
            }
            return;
        }
        if let Some((source, _)) = &mut self.nodes[node].source {
            source.hears(
                epoch,
                match word {
                    Word::Resume(epoch) => ToSource::Resume { epoch },
                    _ => ToSource::Release,
                },
            );
        }
    }

    fn destination_hears(&mut self, node: usize, epoch: Epoch, word: Word) {
        if !self.nodes[node].up {
            return;
        }
        if word == Word::Prepare {
            let from = self.sides.get(&epoch).map_or(node, |sides| sides.0);
            let current = self.nodes[node].destination.as_ref().map(|(d, _)| d.attempt());
            let is_newer = self.nodes[node].sequence.as_ref().is_none_or(|s| s.epoch < epoch);
            if current.is_none_or(|current| current < epoch) && is_newer {
                if self.rng.random_bool(0.1) {
                    let full = Event::FromDestination(node, epoch, Word::Gone);
                    return self.send(node, ROUTER, full);
                }
                let config = DestinationConfig {
                    attempt: Duration::from_millis(2500),
                    lease: Duration::from_millis(1500),
                    again: Duration::from_millis(40),
                };
                let destination = Destination::new(config, time(self.now), epoch);
                self.nodes[node].destination = Some((destination, from));
                self.nodes[node].holds = Some(0);
            }
            return;
        }
        if let Some((destination, _)) = &mut self.nodes[node].destination {
            let word = if word == Word::Own { ToDestination::Own } else { ToDestination::Drop };
            destination.hears(epoch, word);
        }
    }

    /// Everything the machines want done, until they want nothing more.
    fn obey(&mut self) {
        while let Some(order) = self.arbiter.poll_order() {
            self.arbiter_wants(order);
        }
        for node in 0..NODES {
            while let Some((source, to)) = &mut self.nodes[node].source
                && let (epoch, to) = (source.attempt(), *to)
                && let Some(order) = source.poll_order()
            {
                self.source_wants(node, to, epoch, order);
            }
            if self.nodes[node].source.as_ref().is_some_and(|(source, _)| source.is_over()) {
                self.nodes[node].source = None;
            }
            while let Some((destination, from)) = &mut self.nodes[node].destination
                && let (epoch, from) = (destination.attempt(), *from)
                && let Some(order) = destination.poll_order()
            {
                self.destination_wants(node, from, epoch, order);
            }
        }
    }

    fn arbiter_wants(&mut self, order: Order) {
        match order {
            Order::ToSource(epoch, word) => {
                let at = self.sides[&epoch].0;
                let word = match word {
                    ToSource::Offer => Word::Offer,
                    ToSource::Resume { epoch } => Word::Resume(epoch),
                    ToSource::Release => Word::Release,
                };
                self.send(ROUTER, at, Event::ToSource(at, epoch, word));
            }
            Order::ToDestination(epoch, word) => {
                let at = self.sides[&epoch].1;
                let word = match word {
                    ToDestination::Prepare => Word::Prepare,
                    ToDestination::Own => Word::Own,
                    ToDestination::Drop => Word::Drop,
                };
                self.send(ROUTER, at, Event::ToDestination(at, epoch, word));
            }
            Order::Ended(epoch, ended) => {
                self.log.push(format!("{:>6} {epoch} {ended:?}", self.now));
                if ended == Ended::Moved {
                    self.owner_at = self.sides[&epoch].1;
                    self.moved += 1;
                }
            }
            Order::Replay => {
                if !self.done {
                    let at = self.rng.random_range(0..NODES);
                    let (epoch, tokens) = (self.arbiter.draw(), self.delivered);
                    self.owner_at = at;
                    self.send(ROUTER, at, Event::Place { at, epoch, tokens });
                }
            }
        }
    }

    fn source_wants(&mut self, node: usize, to: usize, epoch: Epoch, order: SourceOrder) {
        let now = time(self.now);
        let sequence = self.nodes[node].sequence.clone();
        let source = |world: &mut World, feed: &dyn Fn(&mut Source)| {
            if let Some((source, _)) = &mut world.nodes[node].source {
                feed(source);
            }
        };
        let cached = |s: &Sequence| s.tokens - 1;
        match order {
            SourceOrder::Look => {
                let standing = match &sequence {
                    None => Standing::Gone,
                    Some(s) if !s.has_pages => Standing::Waiting,
                    Some(s) => Standing::Decoding { cached: cached(s) },
                };
                source(self, &|source| source.stands(standing));
            }
            SourceOrder::Offer { tokens } => {
                // As fast as the link is, once somebody pulls.
                let delay = self.rng.random_range(1..60);
                let blocks = tokens / BLOCK;
                if !self.cut[node][to] {
                    self.at(self.now + delay, Event::Sent { from: node, epoch, blocks });
                }
            }
            SourceOrder::Freeze => {
                let tokens = sequence.filter(|s| s.runs).map(|s| s.tokens);
                if let (Some(_), Some(s)) = (tokens, &mut self.nodes[node].sequence) {
                    s.runs = false;
                }
                source(self, &|source| source.frozen(now, tokens));
            }
            SourceOrder::Last { cached } => {
                let delay = self.rng.random_range(1..8);
                let broken =
                    self.cut[node][to] || (self.now < FAULTS && self.rng.random_bool(0.05));
                let cached = (!broken).then_some(cached);
                self.at(self.now + delay, Event::Pulled { to, epoch, cached });
            }
            SourceOrder::Tell(said) => {
                let word = match said {
                    FromSource::Frozen { tokens } => Word::Frozen(tokens),
                    FromSource::Bare => Word::Bare,
                    FromSource::Gone => Word::Gone,
                };
                self.send(node, ROUTER, Event::FromSource(node, epoch, word));
            }
            SourceOrder::Thaw { epoch } => {
                if let Some(s) = &mut self.nodes[node].sequence
                    && s.epoch <= epoch
                {
                    (s.runs, s.epoch) = (true, epoch);
                }
            }
            SourceOrder::Release => {
                let is_frozen = sequence.as_ref().is_some_and(|s| !s.runs);
                if is_frozen {
                    self.nodes[node].sequence = None;
                }
            }
        }
    }

    fn destination_wants(
        &mut self,
        node: usize,
        from: usize,
        epoch: Epoch,
        order: DestinationOrder,
    ) {
        match order {
            DestinationOrder::Pull => {
                if self.cut[node][from] {
                    self.at(self.now + 3, Event::Pulled { to: node, epoch, cached: None });
                }
                // A source that never offers is noticed.
                let at = self.now + 2_000;
                self.at(at, Event::Pulled { to: node, epoch, cached: None });
            }
            DestinationOrder::Tell(said) => {
                let word = match said {
                    FromDestination::Prepared { tokens } => {
                        self.nodes[node].holds = Some(tokens);
                        Word::Prepared(tokens)
                    }
                    FromDestination::Running => Word::Running,
                    FromDestination::Gone => {
                        self.nodes[node].destination = None;
                        Word::Gone
                    }
                };
                self.send(node, ROUTER, Event::FromDestination(node, epoch, word));
            }
            DestinationOrder::Run => {
                let tokens = self.nodes[node].holds.take().unwrap();
                let (runs, has_pages) = (true, true);
                self.nodes[node].sequence = Some(Sequence { epoch, tokens, runs, has_pages });
            }
            DestinationOrder::Abandon => {
                let node = &mut self.nodes[node];
                node.holds = None;
                if node.sequence.as_ref().is_some_and(|s| s.epoch == epoch) {
                    (node.sequence, node.source) = (None, None);
                }
                if node.destination.as_ref().is_some_and(|(d, _)| d.is_over()) {
                    node.destination = None;
                }
            }
        }
    }
}

fn run(seed: u64) -> u32 {
    match World::new(seed).run() {
        Ok(moved) => moved,
        Err(log) => {
            let path = env::temp_dir().join(format!("baton-schedule-{seed}.log"));
            fs::write(&path, log.join("\n")).unwrap();
            let last = log.last().map(|line| line.lines().next().unwrap_or_default().to_owned());
            panic!("schedule {seed}: {}; its log: {}", last.unwrap_or_default(), path.display());
        }
    }
}

/// `one-owner`, `no-lost-request`, `no-leak` and `heals`, whatever is lost, doubled, reordered or late, and
/// whoever dies.
#[test]
fn any_schedule_leaves_one_owner_and_comes_to_its_end() {
    if let Ok(seed) = env::var("BATON_SCHEDULE") {
        run(seed.parse().expect("BATON_SCHEDULE is a seed"));
        return;
    }
    let schedules = env::var("BATON_SCHEDULES").map_or(SCHEDULES, |n| n.parse().unwrap());
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let moved: u64 = std::thread::scope(|scope| {
        let part = |first: u64| {
            let seeds = (first..schedules).step_by(threads as usize);
            seeds.map(|seed| u64::from(run(seed))).sum::<u64>()
        };
        let parts: Vec<_> = (0..threads).map(|first| scope.spawn(move || part(first))).collect();
        parts.into_iter().map(|part| part.join().expect("the failure is told above")).sum()
    });
    assert!(moved > schedules, "{moved} migrations in {schedules} schedules are hardly a test");
}
