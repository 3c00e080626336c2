use super::{
    Look, MOST_SOURCES, MOST_VICTIMS, Reason,
    side::{Running, Side},
};

/// By what share requests must be faster for classes to be apart, if as many made way as there are on the node: each
/// of them does little.
const WORTH_ISOLATION: f64 = 0.1;
/// Objectives that may be missed for others' being faster.
const WORTH_SPEED: f64 = 0.02;

impl Look<'_> {
    /// The node with the longest steps and the one with the shortest, the next of each, and so on; then, where
    /// there are higher classes, the one where most weighs on a step and the one where least does. Of each two,
    /// whoever makes the most requests faster by going from the one to the other.
    pub(super) fn faster(&mut self) {
        for (from, to) in self.pairs(|side| side.step) {
            // Nobody is faster by more than the difference.
            if self.sides[from].step > self.sides[to].step * (1.0 + self.config.faster) {
                self.make_faster(from, to, self.config.faster);
            }
        }
        if self.sides.iter().any(|side| side.load() > side.count()) {
            for (from, to) in self.pairs(|side| side.load()) {
                let least = WORTH_ISOLATION / self.sides[from].count().max(1.0);
                self.make_faster(from, to, least);
            }
        }
    }

    /// The node with the most and the one with the least, the next of each, and so on.
    fn pairs(&self, of: impl Fn(&Side<'_>) -> f64) -> Vec<(usize, usize)> {
        let mut order: Vec<usize> = (0..self.sides.len()).collect();
        order.sort_by(|&a, &b| of(&self.sides[b]).total_cmp(&of(&self.sides[a])));
        let pairs = order.iter().copied().zip(order.iter().rev().copied());
        pairs.take(MOST_SOURCES.min(order.len() / 2)).collect()
    }

    /// Moves somebody who makes requests faster by more than the share `least`, if there is one.
    fn make_faster(&mut self, from: usize, to: usize, least: f64) {
        let (side, other) = (&self.sides[from], &self.sides[to]);
        let is_source = !side.is_used && side.leaving < self.config.at_once;
        if !is_source || !other.is_open(self.config.at_once) {
            return;
        }
        let mut victims = side.movable();
        victims.sort_by(|a, b| a.priority.cmp(&b.priority).then(b.context.cmp(&a.context)));
        // To spread the higher classes would help a little as well, and stand in the way of more.
        let lowest = victims.first().map(|running| running.priority);
        victims.retain(|running| Some(running.priority) == lowest);
        victims.truncate(MOST_VICTIMS);
        let gains = victims.into_iter().filter_map(|running| {
            let keeps = self.gained(from, to, running) > -WORTH_SPEED;
            let gain = self.gain(side, other, running).filter(|_| keeps)?;
            Some((gain, running))
        });
        let gains: Vec<_> = gains.collect();
        let best = gains.into_iter().max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((gain, running)) = best
            && gain > least
        {
            let above = side.running().iter().any(|other| other.priority > running.priority);
            let (id, reason) = (running.id, if above { Reason::Priority } else { Reason::Balance });
            self.propose(from, to, id, reason);
        }
    }

    /// By what share of both nodes' steps their requests are faster afterwards, those of higher classes
    /// counting for more; none if the move costs more than it brings, or would only change sides.
    fn gain(&self, side: &Side<'_>, other: &Side<'_>, running: &Running) -> Option<f64> {
        let (before, there) = ([side.step, other.step], other.step_with(running));
        let after = [side.step_without(running), there];
        let difference = [before[0] - before[1], after[0] - after[1]];
        let is_balance = 0.0 < difference[1] && difference[1] < difference[0];
        // A lower class makes way for a higher one, or a higher one joins others.
        let is_isolation = side.running().iter().any(|one| one.priority != running.priority)
            || other.running().iter().any(|one| one.priority != running.priority);
        let fits = other.takes(running) && other.is_worth(running, side.step);
        if !fits || !(is_balance || is_isolation) {
            return None;
        }
        let (here, elsewhere) = (side.weight() - running.weight, other.weight());
        // Weighted seconds in each step.
        let saved = here * (before[0] - after[0]) + running.weight * (before[0] - after[1])
            - elsewhere * (after[1] - before[1]);
        let copy = self.config.overhead * other.transfer(running) * (here + elsewhere);
        let cost = running.weight * (other.pause(there) - there) + copy;
        if saved * running.more <= 2.0 * cost {
            return None;
        }
        Some(saved / (side.weight() * before[0] + elsewhere * before[1]).max(f64::MIN_POSITIVE))
    }
}
