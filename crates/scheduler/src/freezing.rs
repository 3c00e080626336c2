//! A sequence that leaves the batch with all it has, to go on elsewhere or here.

use std::time::Duration;

use baton_kv_cache::BlockRef;
use baton_types::{Epoch, SequenceKey, Time};

use crate::{
    Scheduler, SequenceError,
    sequence::{Phase, Sequence},
};

/// What a live sequence has at a step's boundary.
#[derive(Debug)]
pub struct Snapshot {
    /// Its table, as far as tokens are in the cache. Full blocks never change any more.
    pub blocks: Vec<BlockRef>,
    /// Tokens in the cache, from the first on.
    pub cached: u32,
    /// It is in the batch, and all its tokens are in the cache but the one that was sampled last.
    pub is_decoding: bool,
    /// It is in the batch, or about to be; otherwise it waits for blocks.
    pub has_place: bool,
}

/// A sequence out of the batch, and how long it waits for somebody's word.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) sequence: Sequence,
    pub(crate) until: Time,
    patience: Duration,
}

impl Scheduler {
    /// None if it doesn't live here under exactly this epoch.
    pub fn snapshot(&self, key: SequenceKey, epoch: Epoch) -> Option<Snapshot> {
        let &(current, ticket) = self.live.get(&key)?;
        if current != epoch {
            return None;
        }
        let is_it = |sequence: &&Sequence| sequence.ticket == ticket;
        if let Some(sequence) = self.running.iter().chain(&self.joining).find(is_it) {
            return Some(self.snapshot_of(sequence));
        }
        if let Some(sequence) = self.frozen.iter().map(|frozen| &frozen.sequence).find(is_it) {
            // It can't be frozen a second time.
            return Some(Snapshot { is_decoding: false, ..self.snapshot_of(sequence) });
        }
        let sequence = self.waiting.iter().find(is_it)?;
        Some(Snapshot { has_place: false, ..self.snapshot_of(sequence) })
    }

    /// Takes a decoding sequence out of the batch: it keeps its blocks, and computes nothing until it is
    /// thawed. After so much `patience` it fails. None if it doesn't decode here under exactly this epoch.
    pub fn freeze(
        &mut self,
        now: Time,
        key: SequenceKey,
        epoch: Epoch,
        patience: Duration,
    ) -> Option<Snapshot> {
        let &(current, ticket) = self.live.get(&key)?;
        if current != epoch {
            return None;
        }
        let decodes = |s: &Sequence| s.ticket == ticket && s.phase == Phase::Decoding;
        let sequence = if let Some(at) = self.running.iter().position(decodes) {
            self.running.remove(at)
        } else {
            let at = self.joining.iter().position(decodes)?;
            self.joining.remove(at)?
        };
        let snapshot = self.snapshot_of(&sequence);
        self.frozen.push(Frozen { sequence, until: now + patience, patience });
        Some(snapshot)
    }

    /// Lets a frozen sequence go on here, under an epoch that isn't older. False if it isn't here.
    pub fn thaw(&mut self, key: SequenceKey, epoch: Epoch) -> bool {
        let is_it = |f: &Frozen| f.sequence.key() == key && f.sequence.epoch() <= epoch;
        let Some(at) = self.frozen.iter().position(is_it) else { return false };
        let Frozen { mut sequence, .. } = self.frozen.remove(at);
        sequence.spec.epoch = epoch;
        self.live.insert(key, (epoch, sequence.ticket));
        let at = self.joining.partition_point(|s| s.ticket < sequence.ticket);
        self.joining.insert(at, sequence);
        true
    }

    /// Ends a frozen sequence of exactly this epoch: it runs elsewhere, under `by`.
    pub fn release(&mut self, key: SequenceKey, epoch: Epoch, by: Epoch) {
        let is_it = |f: &&Frozen| f.sequence.key() == key && f.sequence.epoch() == epoch;
        if let Some(ticket) = self.frozen.iter().find(is_it).map(|f| f.sequence.ticket) {
            self.fail(ticket, |_| SequenceError::Superseded { by });
        }
    }

    pub(crate) fn expire_frozen(&mut self, now: Time) {
        while let Some(overdue) = self.frozen.iter().find(|frozen| frozen.until <= now) {
            let (ticket, patience) = (overdue.sequence.ticket, overdue.patience);
            self.fail(ticket, |_| SequenceError::Abandoned { patience });
        }
    }

    fn snapshot_of(&self, sequence: &Sequence) -> Snapshot {
        let cached = sequence.computed;
        let blocks = cached.div_ceil(self.cache.block_tokens() as usize);
        Snapshot {
            blocks: sequence.blocks()[..blocks].to_vec(),
            cached: cached as u32,
            is_decoding: sequence.phase == Phase::Decoding,
            has_place: true,
        }
    }
}
