//! Which node has which role, and who is to have the other.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use baton_policy::advice::{Advice, RoleChange, RoleSwitcher, RolesConfig, Traffic};
use baton_proto::status::Refuse;
use baton_registry::Fellows;
use baton_types::{ModelId, NodeHello, NodeId, Role, Time};
use tonic::Code;

use super::{Cluster, NoNode, State, session::Member};

/// Carries advice out: one node of each model at a time.
#[derive(Debug)]
pub(super) struct Controller {
    config: RolesConfig,
    switchers: BTreeMap<ModelId, RoleSwitcher>,
}

/// Why a node doesn't change its role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoChange {
    #[error(transparent)]
    NoNode(#[from] NoNode),
    #[error(
        "{node} is the last {role} node of {model} that takes requests; \
         start another one, or let one take requests again, before it changes"
    )]
    Last { node: NodeId, role: Role, model: ModelId },
}

impl Refuse for NoChange {
    fn code(&self) -> Code {
        match self {
            NoChange::NoNode(error) => error.code(),
            NoChange::Last { .. } => Code::FailedPrecondition,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            NoChange::NoNode(error) => error.reason(),
            NoChange::Last { .. } => "LAST_OF_ITS_ROLE",
        }
    }
}

impl Controller {
    pub(super) fn new(config: RolesConfig) -> Self {
        Controller { config, switchers: BTreeMap::new() }
    }
}

impl Cluster {
    /// Has a node take a role, or stay in it. It does once it is empty.
    pub(crate) fn take_role(&self, node: &NodeId, to: Role) -> Result<(), NoChange> {
        self.lock().take_role(node, to)
    }

    /// The role a node is registered in.
    pub(crate) fn role(&self, node: &NodeId) -> Option<Role> {
        self.lock().sessions.get(node).map(|member| member.peer.hello.role)
    }

    /// There may be other routers. To be said once.
    pub(crate) fn has_fellows(&self, fellows: Fellows) {
        let _ = self.fellows.set(fellows);
    }

    /// Whether this router is the one that looks after the whole cluster.
    pub(crate) fn leads(&self) -> bool {
        self.fellows.get().is_none_or(|fellows| *fellows.leads.borrow())
    }

    /// Tells the others what comes here, and learns what comes to them.
    pub(super) fn exchange_rates(&self, now: Time, traffic: &mut Traffic) {
        let Some(fellows) = self.fellows.get() else { return };
        traffic.set_elsewhere(fellows.elsewhere.borrow().clone());
        fellows.rates.send_replace(traffic.rates(now));
    }

    /// The load was looked at: somebody may have to change roles.
    pub(super) fn advised(self: &Arc<Self>, now: Time, advice: &[Advice]) {
        let Some(controller) = self.roles.as_ref().filter(|_| self.leads()) else { return };
        let mut controller = controller.lock().unwrap_or_else(PoisonError::into_inner);
        let Controller { config, switchers } = &mut *controller;
        for advice in advice {
            let mut state = self.lock();
            if state.is_changing(&advice.model) {
                continue;
            }
            let switcher =
                switchers.entry(advice.model.clone()).or_insert_with(|| RoleSwitcher::new(*config));
            let change = switcher.look(advice, state.placer.view(), now);
            let Some(RoleChange { node, to }) = change else { continue };
            match state.take_role(&node, to) {
                Ok(()) => tracing::info!(%node, %to, "the load wants it in another role"),
                Err(why) => tracing::warn!(%node, %to, %why, "it keeps its role"),
            }
        }
    }
}

impl State {
    fn take_role(&mut self, node: &NodeId, to: Role) -> Result<(), NoChange> {
        let member = self.member(node)?;
        let hello = &member.peer.hello;
        let (role, model) = (hello.role, &hello.model);
        if role != to && !self.others_stay(member, role) {
            return Err(NoChange::Last { node: node.clone(), role, model: model.clone() });
        }
        member.role.send_replace(to);
        Ok(())
    }

    /// Whether another node takes requests in this role, and is to go on with it.
    fn others_stay(&self, member: &Member, role: Role) -> bool {
        let NodeHello { node, model, .. } = &member.peer.hello;
        let stays = |other: &NodeId| {
            self.sessions.get(other).is_some_and(|member| *member.role.borrow() == role)
        };
        let mut others = self.placer.view().nodes(role).iter().filter(|view| view.node != *node);
        others.any(|view| view.group.model == *model && view.accepts() && stays(&view.node))
    }

    /// Whether a node of this model is about to change its role.
    fn is_changing(&self, model: &ModelId) -> bool {
        let mut members = self.sessions.values();
        members.any(|member| {
            let hello = &member.peer.hello;
            hello.model == *model && *member.role.borrow() != hello.role
        })
    }
}
