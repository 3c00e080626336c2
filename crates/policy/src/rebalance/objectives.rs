use super::{Look, MOST_SOURCES, MOST_VICTIMS, Reason, side::Running};

impl Look<'_> {
    /// Nodes where most objectives are missed: whoever's leaving saves the most of them, all told.
    pub(super) fn objectives(&mut self) {
        let least = self.config.objectives;
        let missed = |from: usize| (self.sides[from].about_missed(), from);
        let mut sources: Vec<(f64, usize)> =
            self.sources().into_iter().map(missed).filter(|(missed, _)| *missed >= least).collect();
        sources.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (_, from) in sources.into_iter().take(MOST_SOURCES) {
            let side = &self.sides[from];
            // Somebody may be about to come there.
            if side.is_used {
                continue;
            }
            let mut victims = side.movable();
            // What makes steps long is who is long.
            victims.sort_by_key(|running| std::cmp::Reverse(running.context));
            victims.truncate(MOST_VICTIMS);
            let nodes = self.destinations(from, self.config.at_once);
            let mut best: Option<(f64, usize, &Running)> = None;
            for running in victims {
                let saved = self.saved(from, running);
                for &to in &nodes {
                    let other = &self.sides[to];
                    if !other.is_worth(running, side.step) || !other.takes(running) {
                        continue;
                    }
                    let gain = saved + self.brought(to, running);
                    if gain > best.map_or(least, |(known, _, _)| known) {
                        best = Some((gain, to, running));
                    }
                }
            }
            if let Some((_, to, running)) = best {
                let id = running.id;
                self.propose(from, to, id, Reason::Objectives);
            }
        }
    }
}
