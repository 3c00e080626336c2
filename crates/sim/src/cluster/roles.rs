//! Workers that change roles as the production policy says: they finish what they have or hand it over, and come
//! back, empty, in the other role.

use baton_membership::Joined;
use baton_policy::advice::{Advice, Advisor, RoleChange, RoleSwitcher};
use baton_types::{Role, Time};

use super::{Simulation, event::Event};
use crate::{node::Work, report::Switched, scenario::RolesScenario};

#[derive(Debug)]
pub(super) struct Roles {
    advisor: Advisor,
    switcher: RoleSwitcher,
    config: RolesScenario,
    /// Who is being emptied, and for what.
    under_way: Option<(usize, Role)>,
    pub(super) changes: Vec<Switched>,
}

impl Roles {
    pub(super) fn new(config: RolesScenario) -> Self {
        Roles {
            advisor: Advisor::new(config.advice),
            switcher: RoleSwitcher::new(config.switch),
            config,
            under_way: None,
            changes: Vec::new(),
        }
    }
}

impl Simulation<'_> {
    /// Time to look at the load.
    pub(super) fn look_at_roles(&mut self) {
        self.finish_change();
        let Some(roles) = &mut self.roles else { return };
        self.queue.push(self.now + roles.config.advice.every, Event::Roles);
        if roles.under_way.is_some() {
            return;
        }
        roles.advisor.handle_timeout(self.now, self.placer.view());
        let advice: Option<Advice> = roles.advisor.advice().next().cloned();
        let Some(advice) = advice else { return };
        let change = roles.switcher.look(&advice, self.placer.view(), self.now);
        let Some(RoleChange { node: name, to }) = change else { return };
        let Some(&node) = self.by_name.get(&name) else { return };
        let from = if to == Role::Decode { Role::Prefill } else { Role::Decode };
        roles.under_way = Some((node, to));
        self.nodes[node].draining = true;
        self.placer.view_mut().set_draining(&name, from, true);
        self.place_requests();
    }

    /// Whoever is empty takes its new role.
    fn finish_change(&mut self) {
        let now = self.now;
        let Some(roles) = &mut self.roles else { return };
        let Some((node, to)) = roles.under_way else { return };
        let state = &self.nodes[node];
        if state.alive && (state.is_busy() || state.cache.usage().held > 0) {
            return;
        }
        roles.under_way = None;
        if !state.alive {
            return;
        }
        let at_s = now.since(Time::ZERO).as_secs_f64();
        let (name, generation) = (state.name.clone(), state.generation);
        roles.changes.push(Switched { at_s, node: name.to_string(), to });
        if self.members.leave(&name, generation) {
            self.placer.view_mut().leave(&name);
        }
        self.attempts_lost(node);
        let work = if to == Role::Decode { Work::Decode } else { Work::Prefill };
        let worker = *self.scenario.worker(to);
        self.nodes[node].become_other(now, work, &worker);
        let generation = self.nodes[node].generation;
        let hello = self.hello(node, name.clone(), to);
        if matches!(self.members.join(now, name, generation, 1), Ok(Joined { .. })) {
            self.placer.view_mut().join(&hello, self.scenario.latency_fit(to));
        }
        self.queue.push(now, Event::Heartbeat { node, generation });
        self.place_requests();
    }
}
