use super::{Look, Reason, WORTH_ROOM, side::Running};

impl Look<'_> {
    /// Pools that will be full before those there have ended: the one leaves whose place is regained soonest,
    /// of the lowest class.
    pub(super) fn full(&mut self) {
        for from in self.sources() {
            let side = &self.sides[from];
            let steps = self.config.ahead.as_secs_f64() / side.step.max(1e-6);
            if side.need.fits_within(side.blocks, self.config.deviations, steps) {
                continue;
            }
            let mut victims = side.movable();
            // Who is short makes the shortest pause, and who is to grow much takes the most along.
            victims.sort_by(|a, b| {
                let worth = |r: &Running| r.need.most() / (r.held as f64 + 1.0);
                a.priority.cmp(&b.priority).then(worth(b).total_cmp(&worth(a)))
            });
            let nodes = self.destinations(from, self.config.at_once);
            let chosen = victims.iter().find_map(|running| {
                let fits = |to: &&usize| {
                    let other = &self.sides[**to];
                    other.takes(running)
                        && other.is_worth(running, side.step)
                        && self.gained(from, **to, running) > -WORTH_ROOM
                };
                nodes.iter().find(fits).map(|&to| (to, running.id))
            });
            if let Some((to, id)) = chosen {
                self.propose(from, to, id, Reason::Memory);
            }
        }
    }
}
