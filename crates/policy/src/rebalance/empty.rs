use super::{Look, Proposal, Reason};

/// Times as many as usually leave a node at once when it is to be empty.
const HURRY: u32 = 4;

impl Look<'_> {
    /// Nodes that take nothing new are left, the largest first: they take longest.
    pub(super) fn empty(&mut self) {
        let at_once = self.config.at_once.saturating_mul(HURRY);
        for side in self.sides.iter_mut().filter(|side| side.view.draining) {
            let mut leaving: Vec<_> = side.running().iter().filter(|r| r.has_begun).collect();
            leaving.sort_by_key(|running| std::cmp::Reverse(running.held));
            let many = at_once.saturating_sub(side.leaving) as usize;
            let from = &side.view.node;
            self.proposals.extend(leaving.into_iter().take(many).map(|running| Proposal {
                reservation: running.id,
                from: from.clone(),
                to: None,
                reason: Reason::Drain,
            }));
            side.is_used = true;
        }
    }
}
