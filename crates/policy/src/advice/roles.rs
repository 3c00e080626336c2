use std::time::Duration;

use baton_types::{NodeId, Role, Time};
use serde::{Deserialize, Serialize};

use super::{Advice, RoleAdvice};
use crate::ClusterView;

/// When nodes change roles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolesConfig {
    /// How long a role must have lacked nodes that the other has to spare,
    pub after: Duration,
    /// and how long after a change nobody changes back.
    pub cool_down: Duration,
    /// By what share of its load a role must have more nodes than it needs after giving one away.
    pub threshold: f64,
}

impl Default for RolesConfig {
    fn default() -> Self {
        RolesConfig {
            after: Duration::from_secs(3),
            cool_down: Duration::from_secs(10),
            threshold: 0.1,
        }
    }
}

/// One node is to take the other role: it finishes what it has, or hands it over, before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleChange {
    pub node: NodeId,
    pub to: Role,
}

/// Carries advice out: one node of one model at a time. Adding and removing nodes isn't its business.
///
/// **Invariant** (`no-flap`): a change is made only when it was wanted at every look for `after`, and none back
/// within `cool_down` of another; and each role keeps a node.
#[derive(Clone, Debug)]
pub struct RoleSwitcher {
    config: RolesConfig,
    /// Which role lacks nodes, since when.
    wanted: Option<(Role, Time)>,
    /// The last change, and to what.
    changed: Option<(Role, Time)>,
}

impl RoleSwitcher {
    pub fn new(config: RolesConfig) -> Self {
        RoleSwitcher { config, wanted: None, changed: None }
    }

    /// Who is to change, if anybody. Not to be asked while a change is under way.
    pub fn look(&mut self, advice: &Advice, view: &ClusterView, now: Time) -> Option<RoleChange> {
        let Some(to) = lacks(advice, self.config.threshold) else {
            self.wanted = None;
            return None;
        };
        let since = match self.wanted {
            Some((role, since)) if role == to => since,
            _ => now,
        };
        self.wanted = Some((to, since));
        let may_follow =
            |(role, at): (Role, Time)| role == to || now.since(at) >= self.config.cool_down;
        let is_settled = self.changed.is_none_or(may_follow);
        if now.since(since) < self.config.after || !is_settled {
            return None;
        }
        let from = match to {
            Role::Prefill => Role::Decode,
            Role::Decode => Role::Prefill,
        };
        let nodes = view.nodes(from).iter();
        let able = nodes.filter(|node| node.accepts() && node.group.model == advice.model);
        // Whoever is done soonest.
        let node = able.min_by_key(|node| (node.context_tokens(), node.batch()))?;
        self.changed = Some((to, now));
        Some(RoleChange { node: node.node.clone(), to })
    }
}

/// The role that would serve better with one more node of the other's.
fn lacks(advice: &Advice, threshold: f64) -> Option<Role> {
    let Advice { prefill, decode, .. } = advice;
    let spares = |role: &RoleAdvice| {
        let needed = f64::from(role.need.nodes) * (1.0 + threshold);
        role.nodes > 1 && f64::from(role.nodes - 1) >= needed
    };
    let lacks = |role: &RoleAdvice| role.need.nodes > role.nodes;
    match (lacks(prefill), lacks(decode)) {
        (true, false) if spares(decode) => Some(Role::Prefill),
        (false, true) if spares(prefill) => Some(Role::Decode),
        // Too few of both: as they are needed.
        (true, true) => {
            let all = f64::from(prefill.nodes + decode.nodes);
            let needed = f64::from(prefill.need.nodes + decode.need.nodes);
            let fair = all * f64::from(prefill.need.nodes) / needed;
            let have = f64::from(prefill.nodes);
            if fair >= have + 1.0 && decode.nodes > 1 {
                Some(Role::Prefill)
            } else if fair <= have - 1.0 && prefill.nodes > 1 {
                Some(Role::Decode)
            } else {
                None
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use baton_types::ModelId;

    use super::*;
    use crate::advice::{Formula, Need, Reason};

    fn advice(prefill: (u32, u32), decode: (u32, u32)) -> Advice {
        let role = |(nodes, needed): (u32, u32)| RoleAdvice {
            nodes,
            recommended: needed,
            need: Need { role: Role::Prefill, nodes: needed, reason: Reason::Quiet },
        };
        Advice {
            model: ModelId::from("m"),
            formula: Formula::Predicted,
            prefill: role(prefill),
            decode: role(decode),
            switch: None,
        }
    }

    #[test]
    fn a_role_gets_what_the_other_can_spare_and_a_share_when_neither_can() {
        let lacks = |prefill, decode| lacks(&advice(prefill, decode), 0.1);
        assert_eq!(lacks((4, 6), (8, 4)), Some(Role::Prefill));
        assert_eq!(lacks((8, 4), (4, 6)), Some(Role::Decode));
        assert_eq!(lacks((4, 4), (8, 4)), None, "nobody lacks any");
        assert_eq!(lacks((4, 6), (8, 7)), None, "it can't spare one");
        assert_eq!(lacks((1, 1), (1, 2)), None, "each keeps one");
        assert_eq!(lacks((4, 20), (8, 10)), Some(Role::Prefill), "of 12 it should have 8");
        assert_eq!(lacks((8, 20), (4, 10)), None);
    }
}
