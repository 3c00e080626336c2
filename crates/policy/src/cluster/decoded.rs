//! Who is decoded where, as the rebalancer sees them.

use std::time::Duration;

use baton_types::{NodeId, Role, Time};

use super::ClusterView;
use crate::{ClassId, Group, NodeView, ReservationId};

/// A sequence of this router's on a decode node, or on its way there.
#[derive(Clone, Debug)]
pub(crate) struct Decoded {
    pub(crate) id: ReservationId,
    pub(crate) class: ClassId,
    pub(crate) priority: u8,
    pub(crate) weight: f64,
    /// Seconds for each token after the first.
    pub(crate) tpot: Option<f64>,
    /// Seconds since its first token,
    pub(crate) since_first: f64,
    /// and tokens since, as far as is known.
    pub(crate) age: f64,
    /// In its context when it joined, and the most it generates.
    pub(crate) tokens: u32,
    pub(crate) most: u32,
    pub(crate) has_begun: bool,
    /// It is about to move away.
    pub(crate) is_leaving: bool,
    moved_at: Option<Time>,
}

impl Decoded {
    /// Whether it has moved so lately that it stays.
    pub(crate) fn is_cooling(&self, now: Time, cool_down: Duration) -> bool {
        self.moved_at.is_some_and(|at| at + cool_down > now)
    }
}

impl ClusterView {
    /// In order of their reservations.
    pub(crate) fn decoded_on(&self, view: &NodeView, now: Time) -> Vec<Decoded> {
        let all = view.growth.sequences(view.made_at(now));
        all.filter_map(|(id, sequence, age)| {
            let reservation = self.reservations.get(&id)?;
            let first = reservation.first_token_at;
            let tpot = reservation.placement.demand.tpot;
            Some(Decoded {
                id,
                class: reservation.class,
                priority: reservation.priority,
                weight: reservation.placement.demand.weight.value(),
                tpot: tpot.map(|tpot| tpot.as_secs_f64()),
                since_first: first.map_or(0.0, |first| now.since(first).as_secs_f64()),
                age: age.unwrap_or(0.0),
                tokens: sequence.tokens,
                most: sequence.most,
                has_begun: age.is_some() && !reservation.is_coming,
                is_leaving: self.moving.contains_key(&id),
                moved_at: reservation.moved_at,
            })
        })
        .collect()
    }

    /// Who is about to move: their nodes, those they go to, and their tokens.
    pub(crate) fn moving(
        &self,
        now: Time,
    ) -> impl Iterator<Item = (ReservationId, Option<&NodeId>, Option<&NodeId>, u64)> {
        let node = |id: &ReservationId| {
            let reservation = self.reservations.get(id)?;
            reservation.decode?;
            Some(&reservation.placement.path.decode()?.node)
        };
        self.moving.iter().map(move |(from, to)| {
            let view = node(from).and_then(|name| self.decode.iter().find(|v| v.node == *name));
            let tokens = view.and_then(|view| view.growth.tokens(*from, view.made_at(now)));
            let is_coming = self.reservations.get(to).is_some_and(|to| to.is_coming);
            (*from, node(from), node(to).filter(|_| is_coming), tokens.unwrap_or(0))
        })
    }

    /// Decode nodes that can take each other's sequences, in order of their first.
    pub(crate) fn decode_groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for view in self.nodes(Role::Decode) {
            if !groups.contains(&view.group) {
                groups.push(view.group.clone());
            }
        }
        groups
    }

    /// How far everybody has come.
    pub(crate) fn reckon_growth(&mut self, now: Time) {
        for view in &mut self.decode {
            view.steps(now);
            let (made, block_tokens) = (view.made_at(now), view.group.layout.block_tokens);
            view.growth.reckon(made, &self.outputs, block_tokens);
        }
    }
}
