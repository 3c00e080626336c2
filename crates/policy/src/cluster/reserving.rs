//! What this router promised: it counts from the decision to the request's end.

use std::{sync::Arc, time::Duration};

use baton_types::{BlockHash, ModelId, Role, Slo, Time};

use super::{ClusterView, is_counted};
use crate::{
    ClassId, Demand, Moved, NodeView, Path, Placed, Placement, RequestView, ReservationId, Way,
    advice::Ended,
    growth::{Need, Sequence},
    reservation::Reserved,
};

#[derive(Clone, Debug)]
pub(super) struct Reservation {
    pub(super) placement: Placement,
    model: ModelId,
    pub(super) class: ClassId,
    pub(super) priority: u8,
    /// The prompt's blocks, as its nodes name them.
    hashes: Arc<[BlockHash]>,
    /// What of it counts where.
    pub(super) prefill: Option<Reserved>,
    pub(super) decode: Option<Reserved>,
    /// The request's, for what became of it; none if it was tried before.
    asked: Option<(Time, Slo)>,
    placed_at: Time,
    pub(super) first_token_at: Option<Time>,
    /// When it came here from another node, or is to.
    pub(super) moved_at: Option<Time>,
    /// It is still on its way.
    pub(super) is_coming: bool,
    /// The decode node's steps then.
    began: Option<f64>,
}

/// What must work for a request that goes there.
fn ways(path: &Path) -> impl Iterator<Item = Way> {
    let (prefill, decode) = (path.prefill(), path.decode());
    let nodes = prefill.into_iter().chain(decode).map(|placed| Way::Node(placed.node.clone()));
    let link = prefill.zip(decode).map(|(from, to)| Way::Link(from.node.clone(), to.node.clone()));
    nodes.chain(link)
}

impl ClusterView {
    /// Counts a placement's demands from now on.
    pub fn reserve(
        &mut self,
        request: &RequestView,
        placement: &Placement,
        now: Time,
    ) -> ReservationId {
        self.last += 1;
        let (id, demand) = (ReservationId(self.last), &placement.demand);
        let (prefill, decode) = match placement.path {
            Path::Disaggregated { .. } => {
                (Some(Reserved::prefilling(demand)), Some(Reserved::decoding(demand)))
            }
            Path::PrefillOnly { .. } => (Some(Reserved::prefilling(demand)), None),
            Path::Local { .. } => (None, Some(Reserved::local(demand))),
        };
        let hashes = self.hashes_of(request, placement);
        let reservation = Reservation {
            placement: Placement {
                path: placement.path.clone(),
                alternatives: Vec::new(),
                ..*placement
            },
            model: request.model.clone(),
            class: request.class.id,
            priority: request.class.priority,
            hashes: Arc::clone(&hashes),
            prefill,
            decode,
            asked: is_counted(request).then_some((request.arrived, request.slo)),
            placed_at: now,
            first_token_at: None,
            moved_at: None,
            is_coming: false,
            began: None,
        };
        for ((role, placed), reserved) in placement.placed().zip(prefill.into_iter().chain(decode))
        {
            if let Some(view) = self.placed_mut(role, placed) {
                view.steps(now);
                if reserved.queued > 0 {
                    if role == Role::Decode {
                        view.lent.add(demand.prefill, view.spare(), now);
                    }
                    let steps = view.latency.steps(demand.new_tokens) as u32;
                    view.prompts.add((id, demand.due), demand.prefill, steps, now);
                }
                view.reserved.add(reserved);
                view.last_placed = id.0;
                let slot = view.slot;
                self.prefixes.expect(slot, &hashes);
            }
        }
        if let Some(placed) = placement.path.decode() {
            self.grow(placed, id, Sequence::of(request), 0, now);
        }
        if !self.troubles.is_empty() {
            ways(&placement.path).for_each(|way| self.troubles.tried(&way, now));
        }
        self.reservations.insert(id, reservation);
        id
    }

    /// Counts what the sequence of `from`, which decodes already, will need where it moves to, from now on; where
    /// it is now it counts as before.
    pub fn reserve_move(
        &mut self,
        from: ReservationId,
        request: &RequestView,
        placement: &Placement,
        now: Time,
    ) -> ReservationId {
        self.last += 1;
        let (id, decode) = (ReservationId(self.last), Reserved::decoding(&placement.demand));
        let age = self.age_of(from, now) as u32;
        self.moving.insert(from, id);
        let hashes = self.hashes_of(request, placement);
        if let Some(placed) = placement.path.decode()
            && let Some(view) = self.placed_mut(Role::Decode, placed)
        {
            view.steps(now);
            let made = view.made_at(now);
            view.reserved.add(decode);
            view.last_placed = id.0;
            let slot = view.slot;
            self.prefixes.expect(slot, &hashes);
            // It is as old as it was, and as long as it was when it began.
            let age = age.min(request.tokens.saturating_sub(1));
            let mut sequence = Sequence::of(request);
            (sequence.tokens, sequence.most) = (sequence.tokens - age, sequence.most + age);
            self.grow(placed, id, sequence, age, now);
            if let Some(view) = self.placed_mut(Role::Decode, placed) {
                view.growth.begin(id, made - f64::from(age));
            }
        }
        let reservation = Reservation {
            placement: placement.clone(),
            model: request.model.clone(),
            class: request.class.id,
            priority: request.class.priority,
            hashes,
            prefill: None,
            decode: Some(decode),
            asked: None,
            placed_at: now,
            first_token_at: Some(now),
            moved_at: Some(now),
            is_coming: true,
            began: None,
        };
        self.reservations.insert(id, reservation);
        id
    }

    /// The sequence of `from` runs where `to` was reserved for it: what is known of the request goes along. Where
    /// it was it counts until that is released, which its node must say: it gives its blocks back at a step's
    /// boundary.
    pub fn moved(&mut self, from: ReservationId, to: ReservationId) {
        // It has left: so it is counted until it is released.
        if let Some(old) = self.reservations.get_mut(&from) {
            let (asked, placed_at, first) = (old.asked.take(), old.placed_at, old.first_token_at);
            if let Some(new) = self.reservations.get_mut(&to) {
                (new.asked, new.placed_at, new.first_token_at) = (asked, placed_at, first);
                new.is_coming = false;
            }
        }
    }

    /// The prompt is computed; a prefill node holds its pages until they are handed over.
    pub fn first_token(&mut self, id: ReservationId, now: Time) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        if reservation.first_token_at.is_some() {
            return;
        }
        reservation.first_token_at = Some(now);
        let (placement, placed_at) = (reservation.placement.clone(), reservation.placed_at);
        let (role, placed, before, after) = match &placement.path {
            Path::Local { decode } => {
                let Some(before) = reservation.decode else { return };
                let after = Reserved::decoding(&placement.demand);
                reservation.decode = Some(after);
                (Role::Decode, decode, before, after)
            }
            Path::Disaggregated { prefill, .. } | Path::PrefillOnly { prefill } => {
                let Some(before) = reservation.prefill else { return };
                let after = Reserved::held(&placement.demand);
                reservation.prefill = Some(after);
                (Role::Prefill, prefill, before, after)
            }
        };
        if !self.troubles.is_empty() {
            self.troubles.came(&Way::Node(placed.node.clone()));
        }
        if let Some(view) = self.placed_mut(role, placed) {
            view.reserved.take(before);
            view.reserved.add(after);
            view.prompts.done(id, placement.demand.due, now);
            view.ttft.observe(placement.predicted.uncorrected_ttft, now.since(placed_at));
        }
        let decode = placement.path.decode();
        let began = decode.and_then(|placed| self.placed_mut(Role::Decode, placed));
        let began = began.map(|view| {
            let steps = view.steps(now);
            view.growth.begin(id, view.made_at(now));
            steps
        });
        if let Some(reservation) = self.reservations.get_mut(&id) {
            reservation.began = began;
        }
    }

    /// The decode node has all pages: so many bytes, the last of which came `exposed` after the prompt
    /// was computed. The prefill node is done with the request.
    pub fn joined(&mut self, id: ReservationId, bytes: u64, exposed: Duration, now: Time) {
        if let Some(Reservation { placement, placed_at, .. }) = self.reservations.get(&id)
            && let Path::Disaggregated { decode, .. } = &placement.path
        {
            let prefill = placement.demand.prefill;
            let moved = Moved { bytes, prefill, exposed, elapsed: now.since(*placed_at) };
            let decode = decode.clone();
            if !self.troubles.is_empty() {
                let links = ways(&placement.path).filter(|way| matches!(way, Way::Link(..)));
                links.for_each(|way| self.troubles.came(&way));
            }
            if let Some(view) = self.placed_mut(Role::Decode, &decode) {
                view.link.observe(&moved, view.group.layout.layers);
            }
        }
        self.handed_over(id);
    }

    /// The prefill node is done with the request.
    pub fn handed_over(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        let Some(before) = reservation.prefill.take() else { return };
        let hashes = Arc::clone(&reservation.hashes);
        let placed = reservation.placement.path.prefill().cloned();
        if let Some(view) = placed.and_then(|placed| self.placed_mut(Role::Prefill, &placed)) {
            view.reserved.take(before);
            let slot = view.slot;
            self.prefixes.is_over(slot, hashes);
        }
    }

    /// The request's last token is here, the last of `tokens`. What came out is learned from, and
    /// nothing of the reservation counts any more.
    pub fn finished(&mut self, id: ReservationId, tokens: u32, now: Time) {
        if let Some(reservation) = self.reservations.get(&id) {
            let Reservation { model, class, asked, first_token_at, .. } = reservation;
            self.outputs.observe(model, *class, tokens);
            if let Some((arrived, slo)) = *asked {
                let first = first_token_at.unwrap_or(now);
                let tpot = tokens.checked_sub(1).filter(|more| *more > 0);
                let tpot = tpot.map(|more| now.since(first) / more);
                let ttft = Some(first.since(arrived));
                self.traffic.ended(model, Ended { at: now, ttft, tpot, slo });
            }
            if !self.troubles.is_empty() {
                ways(&reservation.placement.path).for_each(|way| self.troubles.came(&way));
            }
            let decode = reservation.placement.path.decode().cloned();
            if let Some((placed, began)) = decode.zip(reservation.began)
                && let Some(view) = self.placed_mut(Role::Decode, &placed)
            {
                let steps = view.steps(now) - began;
                view.decoded(tokens, steps);
            }
        }
        self.release(id);
    }

    /// Nothing of the reservation counts any more. Releasing twice is the same as once.
    pub fn release(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.remove(&id) else { return };
        if reservation.is_coming {
            self.moving.retain(|_, to| *to != id);
        }
        self.moving.remove(&id);
        let hashes = reservation.hashes;
        let Placement { path, demand: Demand { due, .. }, .. } = reservation.placement;
        let prefill = path.prefill().zip(reservation.prefill);
        let decode = path.decode().zip(reservation.decode);
        for (role, promised) in [(Role::Prefill, prefill), (Role::Decode, decode)] {
            if let Some((placed, reserved)) = promised
                && let Some(view) = self.placed_mut(role, placed)
            {
                view.reserved.take(reserved);
                view.prompts.remove(id, due);
                view.growth.leave(id);
                let slot = view.slot;
                self.prefixes.is_over(slot, Arc::clone(&hashes));
            }
        }
    }

    /// Tokens the sequence has generated, as far as is known.
    fn age_of(&self, id: ReservationId, now: Time) -> f64 {
        let reservation = self.reservations.get(&id);
        let placed = reservation.and_then(|reservation| reservation.placement.path.decode());
        let view =
            placed.and_then(|placed| self.decode.iter().find(|view| view.node == placed.node));
        view.and_then(|view| view.growth.age(id, view.made_at(now))).unwrap_or(0.0)
    }

    /// Counts what the request will come to hold on its decode node, and how far the others there have
    /// come.
    fn grow(
        &mut self,
        placed: &Placed,
        id: ReservationId,
        sequence: Sequence,
        age: u32,
        now: Time,
    ) {
        let (outputs, nodes) = (&self.outputs, &mut self.decode);
        let is =
            |view: &&mut NodeView| view.node == placed.node && view.generation == placed.generation;
        let Some(view) = nodes.iter_mut().find(is) else { return };
        view.steps(now);
        let (made, block_tokens) = (view.made_at(now), view.group.layout.block_tokens);
        let need = Need::of(&sequence, age, outputs, block_tokens);
        view.growth.enter(id, sequence, need);
        view.growth.reckon(made, outputs, block_tokens);
    }

    /// The prompt's blocks as the placement's nodes name them.
    fn hashes_of(&self, request: &RequestView, placement: &Placement) -> Arc<[BlockHash]> {
        let mut placed = placement.placed();
        let group = placed.find_map(|(role, placed)| {
            let node = self.nodes(role).iter().find(|view| view.node == placed.node)?;
            Some(&node.group)
        });
        group.map_or_else(Arc::default, |group| request.hashes_for(group))
    }
}
