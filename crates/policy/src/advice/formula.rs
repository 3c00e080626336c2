//! Which formula, and the one that predicts.

use baton_types::{ModelId, Role, Time};

use super::{
    AdviceConfig, Formula, Need, Reason, baseline,
    load::{Load, Replica},
    predicted,
};
use crate::ClusterView;

/// The most nodes of a role that are ever asked for.
pub(super) const MOST_NODES: u32 = 1024;
/// Requests a second that are none.
const QUIET: f64 = 1e-3;
/// Requests that must have ended to say anything.
const ENOUGH: usize = 20;

/// What is asked of a model's nodes, prefill's and decode's.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) load: Load,
    pub(super) replicas: [Replica; 2],
    /// The share that is to meet both objectives.
    pub(super) attainment: f64,
    /// What the roles' loads seem to be beyond what is seen; 1: nothing.
    pub(super) pressure: [f64; 2],
}

impl Question {
    /// What is asked of the model's nodes now; nothing if a role has none that takes requests.
    pub(super) fn of(
        config: &AdviceConfig,
        view: &ClusterView,
        model: &ModelId,
        now: Time,
    ) -> Option<Self> {
        let prefill = Replica::of(view, model, Role::Prefill)?;
        let decode = Replica::of(view, model, Role::Decode)?;
        Some(Question {
            load: Load::of(config, view, model, now).unwrap_or_default(),
            replicas: [prefill, decode],
            attainment: config.attainment,
            pressure: [1.0; 2],
        })
    }

    /// Nodes of each role.
    pub(super) fn needs(&self, formula: Formula) -> [Need; 2] {
        if self.load.rate < QUIET || self.load.requests.is_empty() {
            return [Role::Prefill, Role::Decode].map(|role| Need {
                role,
                nodes: 1,
                reason: Reason::Quiet,
            });
        }
        match formula {
            Formula::Predicted => self.predicted(),
            Formula::Distserve => baseline::distserve(self),
            Formula::Dynamo => baseline::dynamo(self),
        }
    }

    /// Whether too many missed their objectives of late.
    pub(super) fn misses(&self) -> bool {
        let attained = self.load.attained;
        attained.outcomes >= ENOUGH && attained.share < self.attainment
    }

    /// The role whose objective is predicted to be met by fewer with the nodes that there are. What was
    /// refused doesn't tell by itself: requests also wait at the desk for decode nodes.
    pub(super) fn shorter(&self) -> usize {
        let [prefill, decode] = &self.replicas;
        let load = |role: usize| self.load.scaled(self.pressure[role]);
        let ttft = predicted::ttft(&load(0), prefill, Some(prefill.nodes.max(1)));
        let tpot = predicted::tpot(&load(1), decode, Some(decode.nodes.max(1)));
        usize::from(tpot < ttft)
    }

    /// The same for a load that is larger by a share.
    pub(super) fn with_more(&self, share: f64) -> Self {
        Question { load: self.load.scaled(1.0 + share), ..self.clone() }
    }

    /// The smallest pools with which the share of requests that meet both objectives is as wanted. It
    /// is a share of what endless pools would attain, for nothing helps against targets that nobody
    /// meets.
    fn predicted(&self) -> [Need; 2] {
        let [prefill, decode] = [0, 1].map(|role| self.load.scaled(self.pressure[role]));
        let [first, others] = &self.replicas;
        let ttft = |nodes| predicted::ttft(&prefill, first, nodes);
        let tpot = |nodes| predicted::tpot(&decode, others, nodes);
        let best = [ttft(None), tpot(None)];
        let mut nodes = [
            smallest(&ttft, self.attainment * best[0]),
            smallest(&tpot, self.attainment * best[1]),
        ];
        // Each objective is met often enough; now both.
        let wanted = self.attainment * best[0] * best[1];
        let mut attained = [ttft(Some(nodes[0])), tpot(Some(nodes[1]))];
        while attained[0] * attained[1] < wanted {
            let more = [ttft(Some(nodes[0] + 1)), tpot(Some(nodes[1] + 1))];
            let gains = [more[0] / attained[0].max(1e-9), more[1] / attained[1].max(1e-9)];
            let grown = usize::from(gains[1] > gains[0]);
            if nodes[grown] >= MOST_NODES || gains[grown] <= 1.0 {
                break;
            }
            nodes[grown] += 1;
            attained[grown] = more[grown];
        }
        let rate = self.load.rate;
        let fewer = nodes.map(|nodes| nodes.saturating_sub(1).max(1));
        let need = |role, at: usize, tokens, with_fewer| Need {
            role,
            nodes: nodes[at],
            reason: Reason::Attainment { rate, tokens, with: attained[at], with_fewer },
        };
        let (new_tokens, output) =
            (self.load.mean(|s| s.new_tokens), self.load.mean(|s| s.more + 1.0));
        [
            need(Role::Prefill, 0, new_tokens, ttft(Some(fewer[0]))),
            need(Role::Decode, 1, output, tpot(Some(fewer[1]))),
        ]
    }
}

/// The fewest nodes that attain the share; more never attain less.
fn smallest(attained: &dyn Fn(Option<u32>) -> f64, share: f64) -> u32 {
    let is_enough = |nodes| attained(Some(nodes)) >= share;
    let mut most = 1;
    while most < MOST_NODES && !is_enough(most) {
        most *= 2;
    }
    let (mut low, mut high) = (most / 2, most);
    while high - low > 1 {
        let middle = u32::midpoint(low, high);
        if is_enough(middle) { high = middle } else { low = middle }
    }
    high
}
