//! `Decode.Adopt`: a sequence that runs elsewhere comes here.

use baton_kv_cache::BlockRef;
use baton_migration::{
    Destination, DestinationConfig, DestinationOrder, FromDestination, ToDestination,
};
use baton_scheduler::{Goal, ImportedToken, Start, Submission};
use baton_types::{Generation, SequenceKey, SequenceSpec, TokenId};

use super::super::{
    Simulation,
    event::{Event, Moving, Source, ToRouter},
};
use crate::node::{Adoption, Command, Node};

impl Simulation<'_> {
    pub(in super::super) fn adopt_run(&mut self, node: usize, spec: SequenceSpec, source: Source) {
        let moving = Moving { key: spec.key, attempt: spec.epoch };
        if self.nodes[node].adoptions.contains_key(&moving) {
            return;
        }
        let coming = self.nodes[node].coming();
        let has_slot = coming < self.scenario.cluster.transfer.max_migrations as usize;
        let Some(reserved) = self.reserve(node, &spec).filter(|_| has_slot) else {
            let said = FromDestination::Gone;
            return self.tell_router(node, &ToRouter::Destination { node, moving, said });
        };
        let transfer = self.open_transfer(node, spec.clone(), source, reserved, true);
        let adoption = Adoption {
            machine: Destination::new(DestinationConfig::default(), self.now, moving.attempt),
            spec,
            transfer: Some(transfer),
            blocks: Vec::new(),
            cached_tokens: 0,
            own: Vec::new(),
            runs: false,
            timer: None,
        };
        self.nodes[node].adoptions.insert(moving, adoption);
        self.drive_adoption(node, moving);
    }

    /// The arbiter spoke.
    pub(in super::super) fn destination_hears(
        &mut self,
        node: usize,
        moving: Moving,
        word: ToDestination,
        tokens: Vec<TokenId>,
    ) {
        if let Some(adoption) = self.nodes[node].adoptions.get_mut(&moving) {
            if word == ToDestination::Own && !adoption.runs {
                adoption.own = tokens;
            }
            adoption.machine.hears(moving.attempt, word);
            self.drive_adoption(node, moving);
        }
    }

    pub(in super::super) fn adopt_timer(
        &mut self,
        node: usize,
        generation: Generation,
        moving: Moving,
    ) {
        if !self.is_alive(node, generation) {
            return;
        }
        let now = self.now;
        if let Some(adoption) = self.nodes[node].adoptions.get_mut(&moving)
            && adoption.timer == Some(now)
        {
            adoption.timer = None;
            adoption.machine.handle_timeout(now);
            self.drive_adoption(node, moving);
        }
    }

    /// The pages of so many tokens are here, of which the cache had so many.
    pub(in super::super) fn pulled(
        &mut self,
        node: usize,
        moving: Moving,
        blocks: Vec<BlockRef>,
        tokens: u32,
        cached_tokens: u32,
    ) {
        let now = self.now;
        if let Some(adoption) = self.nodes[node].adoptions.get_mut(&moving) {
            (adoption.blocks, adoption.cached_tokens) = (blocks, cached_tokens);
            adoption.machine.pulled(now, Some(tokens));
            self.drive_adoption(node, moving);
        }
    }

    /// They won't come.
    pub(in super::super) fn not_pulled(&mut self, node: usize, moving: Moving) {
        let now = self.now;
        if let Some(adoption) = self.nodes[node].adoptions.get_mut(&moving) {
            adoption.machine.pulled(now, None);
            self.drive_adoption(node, moving);
        }
    }

    /// It made its first token here.
    pub(in super::super) fn adopted_began(&mut self, node: usize, moving: Moving) {
        if let Some(adoption) = self.nodes[node].adoptions.get_mut(&moving) {
            adoption.machine.began();
            self.drive_adoption(node, moving);
        }
    }

    /// Does what the machine orders.
    fn drive_adoption(&mut self, node: usize, moving: Moving) {
        while let Some(adoption) = self.nodes[node].adoptions.get_mut(&moving)
            && let Some(order) = adoption.machine.poll_order()
        {
            match order {
                DestinationOrder::Pull => {
                    if let Some(transfer) = adoption.transfer {
                        self.begin_pull(transfer);
                    }
                }
                DestinationOrder::Tell(said) => {
                    self.tell_router(node, &ToRouter::Destination { node, moving, said });
                }
                DestinationOrder::Run => self.run_adopted(node, moving),
                DestinationOrder::Abandon => self.abandon(node, moving),
            }
        }
        let Node { adoptions, generation, .. } = &mut self.nodes[node];
        let Some(adoption) = adoptions.get_mut(&moving) else { return };
        if adoption.machine.is_over() && !adoption.runs {
            adoptions.remove(&moving);
            return self.blocks_freed(node);
        }
        if let Some(at) = adoption.machine.poll_timeout()
            && adoption.timer.is_none_or(|timer| at < timer)
        {
            adoption.timer = Some(at);
            self.queue.push(at, Event::AdoptTimer { node, generation: *generation, moving });
        }
    }

    /// It is this node's.
    fn run_adopted(&mut self, node: usize, moving: Moving) {
        let Moving { key, attempt } = moving;
        self.cancel_older(node, key);
        let Some(adoption) = self.nodes[node].adoptions.get_mut(&moving) else { return };
        adoption.runs = true;
        let mut spec = adoption.spec.clone();
        spec.tokens.append(&mut adoption.own);
        let blocks = std::mem::take(&mut adoption.blocks);
        let cached_tokens = adoption.cached_tokens;
        let Some(token) = spec.tokens.pop() else { return };
        let start = Start::Imported { blocks, cached_tokens, first: ImportedToken { token } };
        self.insert_decode(node, key, attempt, None);
        if let Some(decode) = self.nodes[node].decodes.get_mut(&key) {
            (decode.imported, decode.adopted) = (true, true);
        }
        let submission = Submission { spec, start, goal: Goal::Finish, constraint: None };
        self.mail(node, Command::Submit(Box::new(submission)));
    }

    fn abandon(&mut self, node: usize, moving: Moving) {
        let Some(adoption) = self.nodes[node].adoptions.get_mut(&moving) else { return };
        adoption.blocks.clear();
        if let Some(transfer) = adoption.transfer {
            self.abort_transfer(transfer);
        }
        let Moving { key, attempt } = moving;
        let decode = self.nodes[node].decodes.get(&key);
        if decode.is_some_and(|decode| decode.epoch == attempt) {
            self.cancel_decode(node, key, attempt);
        }
    }

    /// A sequence ended here.
    pub(in super::super) fn forget_decode(&mut self, node: usize, key: SequenceKey) {
        let Node { decodes, adoptions, .. } = &mut self.nodes[node];
        if decodes.remove(&key).is_some() && !adoptions.is_empty() {
            adoptions.retain(|moving, adoption| moving.key != key || !adoption.runs);
        }
    }
}
