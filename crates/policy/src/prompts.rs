//! The prompts a node has still to compute, of those this router gave it.

use std::{collections::BTreeMap, time::Duration};

use baton_types::Time;

use crate::{ReservationId, chance::chance};

/// In the order nodes compute them: whoever is due first goes first, also past a longer one that was
/// begun before; then whoever is overdue, then who is due at no time (`baton-scheduler`'s order).
#[derive(Clone, Debug, Default)]
pub(crate) struct Prompts {
    left: BTreeMap<(Time, ReservationId), Left>,
    /// What was computed until here is deducted.
    at: Time,
}

#[derive(Clone, Copy, Debug)]
struct Left {
    time: Duration,
    /// Of one of its steps.
    step: Duration,
}

impl Left {
    fn pass(&mut self, elapsed: Duration) {
        self.time = self.time.saturating_sub(elapsed).max(self.time.min(self.step / 2));
    }
}

impl Prompts {
    /// One that takes `compute`, in so many steps.
    pub(crate) fn add(
        &mut self,
        (id, due): (ReservationId, Time),
        compute: Duration,
        steps: u32,
        now: Time,
    ) {
        self.advance(now);
        self.left.insert((due, id), Left { time: compute, step: compute / steps.max(1) });
    }

    /// It is computed.
    pub(crate) fn done(&mut self, id: ReservationId, due: Time, now: Time) {
        self.advance(now);
        self.remove(id, due);
    }

    /// It won't be computed.
    pub(crate) fn remove(&mut self, id: ReservationId, due: Time) {
        self.left.remove(&(due, id));
    }

    /// Only the first is worked at. One that takes longer than predicted holds the others up: it may
    /// be in the midst of a step.
    fn advance(&mut self, now: Time) {
        let elapsed = now.since(self.at);
        self.at = self.at.max(now);
        let first = self.order(now).next().map(|(key, _)| key);
        if let Some(left) = first.and_then(|key| self.left.get_mut(&key)) {
            left.pass(elapsed);
        }
    }

    fn order(&self, now: Time) -> impl Iterator<Item = ((Time, ReservationId), Left)> {
        let [now, never] = [now, Time::MAX].map(|due| (due, ReservationId(0)));
        let due = self.left.range(now.min(never)..never);
        let all = due.chain(self.left.range(..now.min(never))).chain(self.left.range(never..));
        all.map(|(&key, &left)| (key, left))
    }

    /// What is left of each at `now`, in their order.
    fn left(&self, now: Time) -> impl Iterator<Item = (Time, Left)> {
        let mut elapsed = now.since(self.at);
        self.order(now).map(move |((due, _), mut left)| {
            left.pass(std::mem::take(&mut elapsed));
            (due, left)
        })
    }

    /// What one that is due at `due` would find here.
    pub(crate) fn ahead_of(&self, due: Time, now: Time) -> Ahead {
        let mut ahead = Ahead::default();
        for (of, left) in self.left(now) {
            if of <= due && (of > now || due == Time::MAX) {
                ahead.prompts += 1;
                ahead.time += left.time;
            } else {
                if ahead.behind == 0 {
                    ahead.paused = left.step;
                }
                ahead.behind += 1;
            }
        }
        ahead
    }

    /// How many of those behind one that is due at `due` will be late because it takes `compute`.
    pub(crate) fn loss(&self, due: Time, compute: Duration, spread: f64, now: Time) -> f64 {
        let (mut end, mut loss) = (0.0, 0.0);
        for (of, left) in self.left(now) {
            end += left.time.as_secs_f64();
            if of > due && of < Time::MAX {
                let limit = of.since(now).as_secs_f64();
                let chance = |end| chance(end, limit, spread);
                loss += (chance(end) - chance(end + compute.as_secs_f64())).max(0.0);
            }
        }
        loss
    }

    /// All of them, and what is left of them.
    pub(crate) fn total(&self, now: Time) -> Duration {
        self.left(now).map(|(_, left)| left.time).sum()
    }

    /// Those that can still be in time: when they are due and what is left of each.
    pub(crate) fn in_time(&self, now: Time) -> impl Iterator<Item = (Time, Duration)> {
        self.left(now).filter(move |&(due, _)| due > now).map(|(due, left)| (due, left.time))
    }
}

/// What a prompt finds on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// Prompts that go before it,
    pub(crate) prompts: u64,
    /// and how long they take.
    pub(crate) time: Duration,
    /// Those that go behind it,
    pub(crate) behind: u64,
    /// and the step that the first of them may be in the midst of.
    pub(crate) paused: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn the_first_due_is_worked_at_and_the_overdue_wait() {
        let mut prompts = Prompts::default();
        prompts.add((ReservationId(1), at(900)), 300 * MS, 3, at(0));
        prompts.add((ReservationId(2), at(150)), 50 * MS, 1, at(100));
        let ahead = prompts.ahead_of(at(500), at(120));
        assert_eq!((ahead.prompts, ahead.time), (1, 30 * MS), "20 of its 50 ms are done");
        assert_eq!((ahead.behind, ahead.paused), (1, 100 * MS));
        assert_eq!(prompts.total(at(120)), 230 * MS, "100 of the other's 300 were done before");
        // Overdue, it lets the other go first.
        let ahead = prompts.ahead_of(at(1000), at(151));
        assert_eq!((ahead.prompts, ahead.behind), (1, 1));
        let batch = prompts.ahead_of(Time::MAX, at(151));
        assert_eq!((batch.prompts, batch.behind), (2, 0), "a batch's goes after all");
        prompts.done(ReservationId(2), at(150), at(150));
        assert_eq!(prompts.total(at(150)), 200 * MS);
        assert_eq!(prompts.total(at(9000)), 50 * MS, "half a step at least");
    }

    #[test]
    fn overtaking_costs_those_who_have_no_time_to_lose() {
        let mut prompts = Prompts::default();
        prompts.add((ReservationId(1), at(400)), 300 * MS, 3, at(0));
        let loss = |compute| prompts.loss(at(100), compute, 0.1, at(0));
        assert!(loss(10 * MS) < 0.05, "{}", loss(10 * MS));
        assert!(loss(200 * MS) > 0.8, "{}", loss(200 * MS));
        assert!(prompts.loss(at(500), 200 * MS, 0.1, at(0)) == 0.0, "it goes first");
    }
}
