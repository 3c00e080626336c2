//! `Decode.Run`: reserved → pulling → runnable → running → finished; as `baton-decode-node` does it.
//! Runs of workers that do both go the same way without the first two.

use std::time::Duration;

use baton_kv_cache::{BlockRef, block_hashes};
use baton_scheduler::{
    Event as Said, Goal, ImportedToken, Refusal, SequenceError, Start, Submission,
};
use baton_types::{Epoch, SequenceKey, SequenceSpec, TokenId, blocks_for};

use super::{
    NUMERICS, Simulation, TransferId,
    event::{Failure, Moving, Source, Word},
};
use crate::node::{Command, Decode, Work};

/// A prompt whose pages are all here.
pub(super) struct Imported {
    pub(super) spec: SequenceSpec,
    pub(super) blocks: Vec<BlockRef>,
    pub(super) cached_tokens: u32,
    pub(super) first: TokenId,
    pub(super) exposed: Duration,
}

impl Simulation<'_> {
    pub(super) fn decode_run(&mut self, node: usize, spec: SequenceSpec, source: Source) {
        let (key, epoch) = (spec.key, spec.epoch);
        self.cancel_older(node, key);
        let Some((blocks, cached)) = self.reserve(node, &spec) else {
            return self.say(node, key, epoch, Word::Failed(Failure::Full));
        };
        let transfer = self.open_transfer(node, spec, source, (blocks, cached), false);
        self.insert_decode(node, key, epoch, Some(transfer));
        if self.nodes[node].pulls < self.scenario.cluster.transfer.max_pulls {
            self.begin_pull(transfer);
        } else {
            self.nodes[node].pulls_waiting.push_back(transfer);
        }
    }

    pub(super) fn whole_run(&mut self, node: usize, spec: SequenceSpec) {
        let (key, epoch) = (spec.key, spec.epoch);
        self.cancel_older(node, key);
        self.insert_decode(node, key, epoch, None);
        let submission =
            Submission { spec, start: Start::Tokens, goal: Goal::Finish, constraint: None };
        self.mail(node, Command::Submit(Box::new(submission)));
    }

    pub(super) fn insert_decode(
        &mut self,
        node: usize,
        key: SequenceKey,
        epoch: Epoch,
        transfer: Option<TransferId>,
    ) {
        let decode = Decode {
            epoch,
            arrived: self.now,
            imported: transfer.is_some(),
            adopted: false,
            transfer,
            bytes: 0,
            exposed: Duration::ZERO,
            submitted: self.now,
            admitted: self.now,
            tokens: 0,
        };
        self.nodes[node].decodes.insert(key, decode);
    }

    /// Blocks for all of the sequence's tokens, reusing what the prefix cache has.
    pub(super) fn reserve(&self, node: usize, spec: &SequenceSpec) -> Option<(Vec<BlockRef>, u32)> {
        let cache = &self.nodes[node].cache;
        let block_tokens = cache.block_tokens();
        let mut blocks = Vec::new();
        if self.scenario.cluster.decode.scheduler.prefix_cache {
            let hashes = block_hashes(NUMERICS, spec.cache_salt, &spec.tokens, block_tokens);
            blocks = cache.lookup(&hashes);
        }
        let cached = blocks.len() as u32;
        let needed = blocks_for(spec.tokens.len(), block_tokens);
        cache.reserve_into(needed - blocks.len(), &mut blocks).ok()?;
        Some((blocks, cached))
    }

    /// Every page is here and verified: the sequence may run.
    pub(super) fn imported(&mut self, node: usize, imported: Imported) {
        let Imported { spec, blocks, cached_tokens, first, exposed } = imported;
        let Some(decode) = self.nodes[node].decodes.get_mut(&spec.key) else { return };
        decode.transfer = None;
        decode.exposed = exposed;
        let layout = self.scenario.cluster.model.layout();
        let blocks_moved =
            blocks_for(spec.tokens.len() - cached_tokens as usize, layout.block_tokens);
        decode.bytes = (blocks_moved * layout.block_bytes()) as u64;
        decode.submitted = self.now;
        let first = ImportedToken { token: first };
        let start = Start::Imported { blocks, cached_tokens, first };
        let submission = Submission { spec, start, goal: Goal::Finish, constraint: None };
        self.mail(node, Command::Submit(Box::new(submission)));
    }

    pub(super) fn cancel_older(&mut self, node: usize, key: SequenceKey) {
        if let Some(older) = self.nodes[node].decodes.get(&key).map(|older| older.epoch) {
            self.cancel_decode(node, key, older);
        }
    }

    /// The router dropped its stream.
    pub(super) fn cancel_decode(&mut self, node: usize, key: SequenceKey, epoch: Epoch) {
        let Some(decode) = self.nodes[node].decodes.get(&key) else { return };
        // It may have been moved, and back: the router's word is about the latest.
        if decode.epoch > epoch {
            return;
        }
        let (transfer, epoch) = (decode.transfer, decode.epoch);
        self.forget_decode(node, key);
        match transfer {
            Some(transfer) => self.abort_transfer(transfer),
            None => self.mail(node, Command::Cancel { key, epoch }),
        }
    }

    pub(super) fn decode_said(&mut self, node: usize, said: Said, step: Duration) {
        let (key, epoch, now) = (said.key(), said.epoch(), self.now);
        let Some(decode) = self.nodes[node].decodes.get_mut(&key) else { return };
        if decode.epoch != epoch {
            return;
        }
        let adopted = decode.adopted;
        match said {
            // Its client has tokens already.
            Said::Admitted { .. } if adopted => {}
            Said::Token { index, .. } if adopted => {
                decode.tokens += 1;
                let is_first = decode.tokens == 1;
                self.token(node, key, epoch, index);
                if is_first {
                    self.adopted_began(node, Moving { key, attempt: epoch });
                }
            }
            Said::Admitted { cached_tokens, .. } => {
                decode.admitted = now;
                let (waited, queued) = (now - decode.submitted, now - decode.arrived);
                let (imported, bytes, exposed) = (decode.imported, decode.bytes, decode.exposed);
                let Some(live) = self.live_of(key, epoch) else { return };
                if imported {
                    live.parts.exposed_transfer = Some(exposed);
                    live.parts.decode_admission = Some(waited);
                    self.say(node, key, epoch, Word::Joined { bytes, exposed });
                } else {
                    live.parts.prefill_queue = queued;
                    live.cached_tokens.get_or_insert(cached_tokens);
                }
            }
            Said::Token { index, .. } => {
                decode.tokens += 1;
                let (tokens, imported, prefill) =
                    (decode.tokens, decode.imported, now - decode.admitted);
                // The first that was decoded, not prefilled.
                if tokens <= 2
                    && let Some(live) = self.live_of(key, epoch)
                {
                    match (tokens, imported) {
                        (1, false) => live.parts.prefill = prefill,
                        (1, true) | (2, false) => live.parts.first_decode_step = Some(step),
                        _ => {}
                    }
                }
                self.token(node, key, epoch, index);
                if tokens == 1 && !imported {
                    self.say(node, key, epoch, Word::First { finished: false });
                }
            }
            Said::Finished { .. } => {
                self.forget_decode(node, key);
                self.say(node, key, epoch, Word::Finished);
            }
            Said::Failed { error, .. } => {
                self.forget_decode(node, key);
                self.say(node, key, epoch, Word::Failed(failure(&error)));
            }
            Said::Prefilled { .. } => debug_assert!(false, "{key}: the goal is its end"),
        }
    }

    /// The scheduler refused a submission.
    pub(super) fn not_taken(
        &mut self,
        node: usize,
        key: SequenceKey,
        epoch: Epoch,
        refusal: &Refusal,
    ) {
        match self.nodes[node].work {
            Work::Prefill => drop(self.nodes[node].prefills.remove(&key)),
            Work::Decode | Work::Both => self.forget_decode(node, key),
        }
        let failure = if refusal.is_retryable() { Failure::Full } else { Failure::Request };
        self.say(node, key, epoch, Word::Failed(failure));
    }
}

/// What an accepted sequence's bad end is to the router.
pub(super) fn failure(error: &SequenceError) -> Failure {
    match error {
        SequenceError::DeadlineExceeded { .. } => Failure::Deadline,
        SequenceError::Superseded { .. }
        | SequenceError::Abandoned { .. }
        | SequenceError::Engine(_) => Failure::Node,
    }
}
