//! Workers that come and go as the production advisor recommends. They start, empty, some time after
//! they are asked for; they leave when what they have is done or has moved.

use std::time::Duration;

use baton_policy::advice::{Advice, Advisor};
use baton_types::{Role, Time};

use super::{Simulation, event::Event};
use crate::{
    node::{Node, Work},
    report::{Scaled, ScalingReport},
    scenario::{ScalingConfig, seconds},
};

#[derive(Debug)]
pub(super) struct Scaling {
    advisor: Advisor,
    start: Duration,
    every: Duration,
    /// Of each node.
    power: Vec<Power>,
    /// Of both roles, so far.
    node_time: [Duration; 2],
    changes: Vec<Scaled>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    Off,
    /// Paid for since then, though a starting one isn't there yet, and a leaving one takes nothing new.
    Starting(Time),
    On(Time),
    Leaving(Time),
}

const ROLES: [(Role, Work); 2] = [(Role::Prefill, Work::Prefill), (Role::Decode, Work::Decode)];

impl Scaling {
    pub(super) fn new(config: &ScalingConfig, nodes: &[Node]) -> Self {
        let mut left = [config.prefill, config.decode];
        let power = nodes.iter().map(|node| {
            let left = &mut left[usize::from(node.work == Work::Decode)];
            let is_on = *left > 0;
            *left = left.saturating_sub(1);
            if is_on { Power::On(Time::ZERO) } else { Power::Off }
        });
        Scaling {
            power: power.collect(),
            advisor: Advisor::new(config.advice),
            start: seconds(config.start_s),
            every: config.advice.every,
            node_time: [Duration::ZERO; 2],
            changes: vec![Scaled { at_s: 0.0, prefill: config.prefill, decode: config.decode }],
        }
    }

    /// Whether the node is there at the start.
    pub(super) fn begins(&self, node: usize) -> bool {
        self.power[node] != Power::Off
    }

    fn ends(&mut self, node: usize, work: Work, now: Time) {
        if let Power::Starting(since) | Power::On(since) | Power::Leaving(since) = self.power[node]
        {
            self.node_time[usize::from(work == Work::Decode)] += now.since(since);
        }
        self.power[node] = Power::Off;
    }

    pub(super) fn report(mut self, nodes: &[Node], now: Time) -> ScalingReport {
        for (node, Node { work, .. }) in nodes.iter().enumerate() {
            self.ends(node, *work, now);
        }
        let [prefill, decode] = self.node_time.map(|time| time.as_secs_f64());
        ScalingReport {
            prefill_node_seconds: prefill,
            decode_node_seconds: decode,
            changes: self.changes,
        }
    }
}

impl Simulation<'_> {
    /// Time to look at the load.
    pub(super) fn advise(&mut self) {
        self.power_off();
        let Some(scaling) = &mut self.scaling else { return };
        scaling.advisor.handle_timeout(self.now, self.placer.view());
        let advice: Option<Advice> = scaling.advisor.advice().next().cloned();
        self.queue.push(self.now + scaling.every, Event::Advise);
        let Some(Advice { prefill, decode, .. }) = advice else { return };
        for ((role, work), wanted) in
            ROLES.into_iter().zip([prefill.recommended, decode.recommended])
        {
            self.scale(role, work, wanted);
        }
        let Some(scaling) = &mut self.scaling else { return };
        let count = |work| {
            let nodes = self.nodes.iter().zip(&scaling.power).filter(|(node, _)| node.work == work);
            nodes.filter(|(_, power)| matches!(power, Power::Starting(_) | Power::On(_))).count()
        };
        let (prefill, decode) = (count(Work::Prefill) as u32, count(Work::Decode) as u32);
        if scaling
            .changes
            .last()
            .is_none_or(|last| (last.prefill, last.decode) != (prefill, decode))
        {
            let at_s = self.now.as_nanos() as f64 / 1e9;
            scaling.changes.push(Scaled { at_s, prefill, decode });
        }
    }

    /// Makes so many of a role be there, or on their way, as far as the topology has them.
    fn scale(&mut self, role: Role, work: Work, wanted: u32) {
        let Some(scaling) = &mut self.scaling else { return };
        let of_role: Vec<usize> =
            (0..self.nodes.len()).filter(|&node| self.nodes[node].work == work).collect();
        let stays = |power| matches!(power, Power::Starting(_) | Power::On(_));
        let mut count = of_role.iter().filter(|&&node| stays(scaling.power[node])).count();
        let wanted = wanted as usize;
        // Those that haven't left yet are back at once.
        for &node in &of_role {
            if let Power::Leaving(since) = scaling.power[node]
                && count < wanted
            {
                scaling.power[node] = Power::On(since);
                self.nodes[node].draining = false;
                count += 1;
            }
        }
        for &node in &of_role {
            if scaling.power[node] == Power::Off && count < wanted {
                scaling.power[node] = Power::Starting(self.now);
                self.queue.push(self.now + scaling.start, Event::Started { node });
                count += 1;
            }
        }
        for &node in of_role.iter().rev() {
            if let Power::On(since) = scaling.power[node]
                && count > wanted
            {
                scaling.power[node] = Power::Leaving(since);
                self.nodes[node].draining = true;
                let name = self.nodes[node].name.clone();
                self.placer.view_mut().set_draining(&name, role, true);
                count -= 1;
            }
        }
    }

    /// It joins with its first word.
    pub(super) fn started(&mut self, node: usize) {
        let Some(scaling) = &mut self.scaling else { return };
        let Power::Starting(since) = scaling.power[node] else { return };
        scaling.power[node] = Power::On(since);
        let state = &mut self.nodes[node];
        (state.alive, state.draining) = (true, false);
        let generation = state.generation;
        self.queue.push(self.now, Event::Heartbeat { node, generation });
    }

    /// Those that leave and have nothing any more are gone.
    fn power_off(&mut self) {
        for node in 0..self.nodes.len() {
            let Some(scaling) = &mut self.scaling else { return };
            let state = &self.nodes[node];
            let is_done = !state.is_busy() && state.cache.usage().held == 0;
            if matches!(scaling.power[node], Power::Leaving(_)) && is_done {
                scaling.ends(node, state.work, self.now);
                self.crash(node, false);
            }
        }
    }
}
