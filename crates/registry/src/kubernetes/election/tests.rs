//! Candidates whose clocks differ, one record, and a network that loses, delays and repeats nothing for good.

use std::{cmp::Reverse, collections::BinaryHeap};

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::*;

const LEASE: Duration = Duration::from_secs(5);
const MS: u64 = 1_000_000;
/// Faults end then,
const CALM: u64 = 60_000 * MS;
/// and everything then.
const END: u64 = 120_000 * MS;

/// A candidate as its driver is.
#[derive(Debug)]
struct Machine {
    election: Election,
    /// How fast its clock goes, and where it began.
    rate: f64,
    origin: u64,
    /// Counts what it waits for; an answer to anything else is passed over.
    round: u64,
    is_dead: bool,
    /// It hears and says nothing until then.
    cut_until: u64,
}

impl Machine {
    fn clock(&self, at: u64) -> Time {
        Time::from_nanos(self.origin + (at as f64 * self.rate) as u64)
    }

    fn leads(&self, at: u64) -> bool {
        !self.is_dead && self.election.leads(self.clock(at))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Round,
    /// The API server is asked.
    AskRead,
    AskWrite {
        over: Option<String>,
        asked: u64,
    },
    /// It has answered.
    Read {
        version: u64,
        holder: Option<String>,
    },
    Written {
        over: Option<String>,
        asked: u64,
        version: u64,
    },
    Conflict,
    GiveUp,
    Die,
    Cut {
        until: u64,
    },
    Resign,
    Delete,
}

/// What happens, to whom, in which of its rounds.
type Event = Reverse<(u64, u64, usize, u64, Step)>;

#[derive(Debug)]
struct World {
    machines: Vec<Machine>,
    /// Version and holder; version 0: there is none.
    record: (u64, Option<String>),
    versions: u64,
    queue: BinaryHeap<Event>,
    events: u64,
    random: SmallRng,
    terms: u32,
}

impl World {
    fn new(seed: u64, machines: usize) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let machine = |number: usize, random: &mut SmallRng| Machine {
            election: Election::new(format!("router-{number}"), LEASE),
            // The fastest is 1.43 times as fast as the slowest, and 1.5 is too much.
            rate: [0.84, 1.0, 1.2][random.random_range(0..3)],
            origin: random.random_range(0..u64::MAX / 4),
            round: 0,
            is_dead: false,
            cut_until: 0,
        };
        let machines: Vec<_> = (0..machines).map(|number| machine(number, &mut random)).collect();
        let (record, queue) = ((0, None), BinaryHeap::new());
        let mut world = World { machines, record, versions: 0, queue, events: 0, random, terms: 0 };
        for who in 0..world.machines.len() {
            let at = world.random.random_range(0..3_000) * MS;
            world.plan(at, who, Step::Round);
        }
        world
    }

    fn plan(&mut self, at: u64, who: usize, step: Step) {
        self.events += 1;
        let round = self.machines[who].round;
        self.queue.push(Reverse((at, self.events, who, round, step)));
    }

    /// In the duration of somebody's own clock.
    fn plan_in(&mut self, now: u64, who: usize, wait: Duration, step: Step) {
        let wait = wait.as_nanos() as f64 / self.machines[who].rate;
        self.plan(now + wait as u64 + 1, who, step);
    }

    /// When a message arrives; none: never.
    fn arrives(&mut self, now: u64, who: usize) -> Option<u64> {
        if now < self.machines[who].cut_until || (now < CALM && self.random.random_bool(0.1)) {
            return None;
        }
        // Some take as long as anybody waits, or longer.
        let most = if now < CALM && self.random.random_bool(0.3) { 1_500 } else { 100 };
        Some(now + self.random.random_range(1..most) * MS)
    }

    fn send(&mut self, now: u64, who: usize, step: Step) {
        if let Some(at) = self.arrives(now, who) {
            self.plan(at, who, step);
        }
    }

    fn run(&mut self, end: u64) {
        while self.queue.peek().is_some_and(|Reverse((now, ..))| *now <= end) {
            let Some(Reverse((now, _, who, round, step))) = self.queue.pop() else { return };
            let led = self.machines[who].leads(now);
            self.step(now, who, round, step);
            self.terms += u32::from(!led && self.machines[who].leads(now));
            let leaders: Vec<usize> =
                (0..self.machines.len()).filter(|&who| self.machines[who].leads(now)).collect();
            assert!(leaders.len() <= 1, "at {} ms all of {leaders:?} lead", now / MS);
        }
    }

    fn step(&mut self, now: u64, who: usize, round: u64, step: Step) {
        // What the API server was asked is done, whoever waits for it or is dead by now.
        match step {
            Step::AskRead => {
                let (version, holder) = self.record.clone();
                return self.send(now, who, Step::Read { version, holder });
            }
            Step::AskWrite { over, asked } => return self.write(now, who, over, asked),
            Step::Delete => return self.record = (0, None),
            _ => {}
        }
        let machine = &mut self.machines[who];
        if machine.is_dead || machine.round != round && is_answer(&step) {
            return;
        }
        let clock = machine.clock(now);
        match step {
            Step::Round => self.begin(now, who),
            Step::Read { version, holder } => {
                let record = (version > 0).then(|| Record {
                    version: version.to_string(),
                    holder,
                    lease: Some(LEASE),
                });
                machine.election.read(clock, record);
                machine.round += 1;
                self.claim(now, who);
            }
            Step::Written { over, asked, version } => {
                let asked = Time::from_nanos(asked);
                machine.election.written(asked, clock, &Claim { over }, version.to_string());
                self.pause(now, who);
            }
            Step::Conflict | Step::GiveUp => {
                machine.election.doubt();
                self.pause(now, who);
            }
            Step::Die => machine.is_dead = true,
            Step::Cut { until } => machine.cut_until = until,
            Step::Resign => {
                if let Some(version) = machine.election.resign(clock) {
                    machine.is_dead = true;
                    if self.record.0.to_string() == version {
                        self.versions += 1;
                        self.record = (self.versions, None);
                    }
                }
            }
            Step::AskRead | Step::AskWrite { .. } | Step::Delete => unreachable!("done above"),
        }
    }

    fn begin(&mut self, now: u64, who: usize) {
        let machine = &self.machines[who];
        if !machine.election.should_read(machine.clock(now)) {
            return self.claim(now, who);
        }
        self.send(now, who, Step::AskRead);
        self.plan_in(now, who, LEASE / 4, Step::GiveUp);
    }

    fn claim(&mut self, now: u64, who: usize) {
        let clock = self.machines[who].clock(now);
        let Some(Claim { over }) = self.machines[who].election.claim(clock) else {
            return self.pause(now, who);
        };
        self.send(now, who, Step::AskWrite { over, asked: clock.as_nanos() });
        self.plan_in(now, who, LEASE / 4, Step::GiveUp);
    }

    fn write(&mut self, now: u64, who: usize, over: Option<String>, asked: u64) {
        let there = (self.record.0 > 0).then(|| self.record.0.to_string());
        if there != over {
            return self.send(now, who, Step::Conflict);
        }
        self.versions += 1;
        let version = self.versions;
        self.record = (version, Some(self.machines[who].election.name.clone()));
        self.send(now, who, Step::Written { over, asked, version });
    }

    fn pause(&mut self, now: u64, who: usize) {
        self.machines[who].round += 1;
        let wait = LEASE / 5 * self.random.random_range(5..15) / 10;
        self.plan_in(now, who, wait, Step::Round);
    }
}

/// Who waits for something else by then doesn't hear it.
fn is_answer(step: &Step) -> bool {
    matches!(
        step,
        Step::Round | Step::Read { .. } | Step::Written { .. } | Step::Conflict | Step::GiveUp
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn there_is_never_more_than_one_leader_and_in_the_end_there_is_one(
        seed: u64,
        machines in 2..6_usize,
        faults in 0..20_usize,
    ) {
        let mut world = World::new(seed, machines);
        for _ in 0..faults {
            let at = world.random.random_range(0..60_000) * MS;
            // One of them stays whatever happens.
            let who = world.random.random_range(1..machines);
            let step = match world.random.random_range(0..5) {
                0 => Step::Die,
                1 => Step::Resign,
                2 => Step::Delete,
                _ => Step::Cut { until: (at + world.random.random_range(0..20_000) * MS).min(CALM) },
            };
            world.plan(at, who, step);
        }
        world.run(END);
        let leaders = world.machines.iter().filter(|machine| machine.leads(END)).count();
        prop_assert_eq!(leaders, 1, "and {} terms before", world.terms);
    }

    /// Whoever dies, the next one leads within two leases: one until it sees that nothing is renewed, and what it takes
    /// to ask.
    #[test]
    fn a_dead_leader_is_replaced_within_two_leases(seed: u64, machines in 2..6_usize) {
        let mut world = World::new(seed, machines);
        world.run(CALM);
        world.run(CALM + 30_000 * MS);
        let at = CALM + 30_000 * MS;
        let leader = world.machines.iter().position(|machine| machine.leads(at));
        let leader = leader.expect("one leads when nothing is wrong");
        world.machines[leader].is_dead = true;
        world.run(at + 12_000 * MS);
        let leaders = world.machines.iter().filter(|machine| machine.leads(at + 12_000 * MS));
        prop_assert_eq!(leaders.count(), 1);
    }
}

fn record(version: &str, holder: Option<&str>, seconds: Option<u64>) -> Option<Record> {
    let (version, holder) = (version.to_owned(), holder.map(str::to_owned));
    Some(Record { version, holder, lease: seconds.map(Duration::from_secs) })
}

fn at(ms: u64) -> Time {
    Time::from_nanos(ms * MS)
}

#[test]
fn a_record_is_taken_when_it_was_as_it_is_for_what_its_holder_was_promised() {
    for (said, promised) in [(None, 5_000), (Some(5), 5_000), (Some(9), 9_000), (Some(1), 5_000)] {
        let mut election = Election::new("me".into(), LEASE);
        election.read(at(1_000), record("7", Some("other"), said));
        election.read(at(2_000), record("8", Some("other"), said));
        election.read(at(2_000 + promised - 1), record("8", Some("other"), said));
        assert_eq!(election.claim(at(2_000 + promised - 1)), None, "{said:?}");
        let claim = election.claim(at(2_000 + promised)).unwrap();
        assert_eq!(claim, Claim { over: Some("8".into()) }, "{said:?}");
        assert!(!election.leads(at(2_000 + promised)), "it is only asked for");
    }
}

#[test]
fn who_released_it_leaves_it_to_anybody_and_who_made_it_waits() {
    let mut election = Election::new("me".into(), LEASE);
    election.read(at(0), record("7", None, Some(5)));
    let claim = election.claim(at(0)).unwrap();
    assert_eq!(claim.over.as_deref(), Some("7"));
    election.written(at(0), at(100), &claim, "8".into());
    assert!(election.leads(at(3_333)) && !election.leads(at(3_334)), "two thirds of a lease");

    let mut election = Election::new("me".into(), LEASE);
    election.read(at(0), None);
    let claim = election.claim(at(0)).unwrap();
    assert_eq!(claim.over, None);
    election.written(at(0), at(100), &claim, "1".into());
    assert!(!election.leads(at(100)));
    election.read(at(4_000), record("1", Some("me"), Some(5)));
    assert_eq!(election.claim(at(5_099)), None, "somebody may lead whose record was deleted");
    assert!(election.claim(at(5_100)).is_some());
}

#[test]
fn a_leader_stops_at_once_when_the_record_is_anothers_or_gone() {
    for found in [None, record("9", Some("other"), Some(5)), record("9", None, Some(5))] {
        let mut election = Election::new("me".into(), LEASE);
        election.read(at(0), record("7", None, Some(5)));
        let claim = election.claim(at(0)).unwrap();
        election.written(at(0), at(100), &claim, "8".into());
        assert!(!election.should_read(at(1_000)), "it renews without having looked");
        election.doubt();
        assert!(election.should_read(at(1_000)) && election.leads(at(1_000)));
        election.read(at(1_000), found.clone());
        assert!(!election.leads(at(1_000)), "{found:?}");
    }
}
