use baton_types::Time;

use super::{Look, MOST_SOURCES, Reason, WORTH_ROOM, side::Running};
use crate::{ClusterView, RequestView, growth};

/// The most that make way for one.
const MOST: usize = 4;
/// For one who has no objective: seconds that a move may take.
const PATIENCE: f64 = 2.0;

impl Look<'_> {
    /// Somebody waits for room that no node has: the node where the fewest must leave for it is left by them.
    pub(super) fn room(&mut self, view: &ClusterView, request: &RequestView, now: Time) {
        // Whoever makes way is to be gone while that is still of use.
        let left = request.slo.ttft.map(|ttft| ttft.saturating_sub(now.since(request.arrived)));
        let patience = left.map_or(PATIENCE, |left| left.as_secs_f64() / 2.0);
        let sequence = growth::Sequence::of(request);
        let mut best: Option<Vec<(usize, usize, Running)>> = None;
        // Those that lack the least.
        let lacks = |from: usize| {
            let side = &self.sides[from];
            (side.need.most() - side.blocks as f64, from)
        };
        let mut sources: Vec<(f64, usize)> = self.sources().into_iter().map(lacks).collect();
        sources.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (_, from) in sources.into_iter().take(MOST_SOURCES) {
            let side = &self.sides[from];
            let can = side.view.accepts()
                && side.view.can_hold(baton_types::Role::Decode, request)
                && side.leaving == 0;
            if !can {
                continue;
            }
            let block_tokens = side.view.group.layout.block_tokens;
            let wanted = growth::Need::of(&sequence, 0, &view.outputs, block_tokens);
            let mut need = side.need;
            let fits = |need: &growth::Need| need.fits(&wanted, side.blocks, view.deviations);
            let mut victims: Vec<&Running> = side
                .movable()
                .into_iter()
                .filter(|running| side.transfer(running) < patience)
                .collect();
            victims.sort_by_key(|running| running.held);
            // The smallest that is enough by itself, if there is one; the largest if not.
            let alone = victims.iter().position(|running| {
                let mut left = need;
                left.take(&running.need);
                fits(&left)
            });
            victims.truncate(alone.map_or(victims.len(), |alone| alone + 1));
            let mut leaving = Vec::new();
            let mut coming = vec![growth::Need::default(); self.sides.len()];
            let mut gained = 0.0;
            for running in victims.into_iter().rev() {
                if fits(&need) || leaving.len() == MOST {
                    break;
                }
                let nodes = self.destinations(from, self.config.at_once);
                let takes = |&to: &usize| {
                    let other = &self.sides[to];
                    let mut all = other.need;
                    all.add(&coming[to]);
                    all.fits(&running.need, other.blocks, view.deviations)
                        && other.takes(running)
                        && other.is_worth(running, side.step)
                        && gained + self.gained(from, to, running) > -WORTH_ROOM
                };
                if let Some(to) = nodes.into_iter().find(takes) {
                    gained += self.gained(from, to, running);
                    coming[to].add(&running.need);
                    need.take(&running.need);
                    leaving.push((from, to, running.clone()));
                }
            }
            let is_better = best.as_ref().is_none_or(|known| leaving.len() < known.len());
            if fits(&need) && !leaving.is_empty() && is_better {
                best = Some(leaving);
            }
        }
        for (from, to, running) in best.into_iter().flatten() {
            self.propose(from, to, running.id, Reason::Room);
        }
    }
}
