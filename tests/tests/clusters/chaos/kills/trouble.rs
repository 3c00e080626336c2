//! What happens to processes, and when it is over.

use std::time::{Duration, Instant};

use baton_tests::Apart;
use rand::{Rng, SeedableRng, rngs::SmallRng};

/// Who is back has been found by everybody after this.
const RECOVERY: Duration = Duration::from_secs(1);
/// From one to the next, on average.
const EVERY: Duration = Duration::from_millis(300);
const LONGEST: Duration = Duration::from_millis(2500);

#[derive(Clone, Debug)]
enum Kind {
    Killed,
    Stopped,
    /// Between the two, or only what the first sends.
    Cut {
        both_ways: bool,
    },
    /// It is over, and may still be felt.
    Over,
}

#[derive(Debug)]
struct Trouble {
    kind: Kind,
    /// Whose it is; of a link, both ends.
    names: Vec<String>,
    until: Instant,
}

/// How many of each there were.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) nodes_killed: u32,
    pub(super) nodes_stopped: u32,
    pub(super) routers_killed: u32,
    pub(super) routers_stopped: u32,
    pub(super) cut: u32,
    pub(super) cut_one_way: u32,
}

#[derive(Debug)]
pub(super) struct Troubles {
    rng: SmallRng,
    cuts: bool,
    now: Vec<Trouble>,
    next: Instant,
    pub(super) counts: Counts,
}

impl Troubles {
    pub(super) fn new(seed: u64, cuts: bool) -> Self {
        let (rng, next) = (SmallRng::seed_from_u64(seed), Instant::now());
        Troubles { rng, cuts, now: Vec::new(), next, counts: Counts::default() }
    }

    /// Ends what is over, and begins something when it is time.
    pub(super) fn pass(&mut self, cluster: &mut Apart) {
        let now = Instant::now();
        let (over, rest) =
            std::mem::take(&mut self.now).into_iter().partition(|one| one.until <= now);
        self.now = rest;
        over.into_iter().for_each(|one: Trouble| self.heal(one, cluster));
        if self.next <= now {
            self.next = now + EVERY.mul_f64(self.rng.random_range(0.1..1.9));
            self.begin(cluster);
        }
    }

    /// Ends all there is.
    pub(super) fn end(&mut self, cluster: &mut Apart) {
        for one in std::mem::take(&mut self.now) {
            self.heal(one, cluster);
        }
    }

    fn begin(&mut self, cluster: &Apart) {
        let all: Vec<String> = cluster.routers().into_iter().chain(cluster.node_names()).collect();
        let mut pick = || all[self.rng.random_range(0..all.len())].clone();
        let (name, other) = (pick(), pick());
        let kind = match self.rng.random_range(0..if self.cuts { 4 } else { 2 }) {
            0 => Kind::Killed,
            1 => Kind::Stopped,
            kind => Kind::Cut { both_ways: kind == 2 },
        };
        let names = match kind {
            Kind::Cut { .. } => vec![name, other],
            _ => vec![name],
        };
        if !self.leaves_one_of_each(&names, &all) {
            return;
        }
        match kind {
            Kind::Killed => cluster.process(&names[0]).unwrap().kill().unwrap(),
            Kind::Stopped => cluster.process(&names[0]).unwrap().stop().unwrap(),
            Kind::Cut { both_ways: true } => cluster.part(&names[0], &names[1]).unwrap(),
            Kind::Cut { both_ways: false } => cluster.cut(&names[0], &names[1]).unwrap(),
            Kind::Over => unreachable!("nothing begins like this"),
        }
        self.count(&kind, &names[0]);
        let until = Instant::now() + LONGEST.mul_f64(self.rng.random_range(0.02..1.0));
        self.now.push(Trouble { kind, names, until });
    }

    /// Somebody of each kind is left who has had nothing for a while, and nobody has two troubles.
    fn leaves_one_of_each(&self, names: &[String], all: &[String]) -> bool {
        let has_trouble = |name: &String| self.now.iter().any(|one| one.names.contains(name));
        let is_well = |name: &&String| !has_trouble(name) && !names.contains(name);
        let left = |kind: &str| all.iter().filter(is_well).any(|name| name.starts_with(kind));
        let are_two = names.len() < 2 || names[0] != names[1];
        are_two
            && !names.iter().any(has_trouble)
            && ["router", "prefill", "decode"].into_iter().all(left)
    }

    fn heal(&mut self, one: Trouble, cluster: &mut Apart) {
        match one.kind {
            Kind::Killed => cluster.restart(&one.names[0]).unwrap(),
            Kind::Stopped => cluster.process(&one.names[0]).unwrap().resume().unwrap(),
            Kind::Cut { .. } => cluster.heal(&one.names[0], &one.names[1]).unwrap(),
            Kind::Over => return,
        }
        self.now.push(Trouble { kind: Kind::Over, until: Instant::now() + RECOVERY, ..one });
    }

    fn count(&mut self, kind: &Kind, name: &str) {
        let Counts {
            nodes_killed,
            nodes_stopped,
            routers_killed,
            routers_stopped,
            cut,
            cut_one_way,
        } = &mut self.counts;
        *match (kind, name.starts_with("router")) {
            (Kind::Killed, true) => routers_killed,
            (Kind::Killed, false) => nodes_killed,
            (Kind::Stopped, true) => routers_stopped,
            (Kind::Stopped, false) => nodes_stopped,
            (Kind::Cut { both_ways: true }, _) => cut,
            (Kind::Cut { both_ways: false }, _) => cut_one_way,
            (Kind::Over, _) => return,
        } += 1;
    }
}
