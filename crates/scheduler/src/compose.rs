//! The decision what the next step computes.

use baton_types::{Time, blocks_for};

use crate::{
    Event, Goal, Scheduler,
    sequence::{Phase, Sequence, Ticket, Urgency},
};

impl Scheduler {
    /// Ends what is overdue, admits and preempts, and decides the next step. False when there is
    /// nothing to compute: either nobody is here, or the blocks they need are all held by others.
    ///
    /// A step composed earlier and neither completed nor failed is dropped.
    pub fn compose(&mut self, now: Time, events: &mut Vec<Event>) -> bool {
        debug_assert_eq!(self.load(), self.recount(), "the running totals");
        self.step.clear();
        self.expire(now);
        events.append(&mut self.outbox);
        self.join(now, events);
        self.grow();
        self.add_decodes();
        self.add_prompts(now, events);
        !self.step.parts.is_empty()
    }

    /// Imported sequences enter the batch before those that still need memory: whoever holds some
    /// must be able to run, or the pool could fill with sequences that don't.
    fn join(&mut self, now: Time, events: &mut Vec<Event>) {
        while self.has_place()
            && let Some(mut sequence) = self.joining.pop_front()
        {
            announce(&mut sequence, now, events);
            sequence.publish(&self.cache);
            let (key, epoch, ticket) = (sequence.key(), sequence.epoch(), sequence.ticket);
            let ended = sequence.finish_reason();
            self.enter(sequence);
            if let Some(reason) = ended {
                self.remove(ticket);
                events.push(Event::Finished { key, epoch, reason });
            }
        }
    }

    /// Gives every decoding sequence a slot for its next token, oldest first.
    fn grow(&mut self) {
        let mut at = 0;
        while let Some(sequence) = self.running.get_mut(at) {
            if sequence.collect_blocks(&self.cache) {
                at += 1;
                continue;
            }
            let needy = sequence.ticket;
            let youngest = self.youngest_holder().unwrap_or(needy).max(needy);
            self.preempt(youngest);
        }
    }

    /// The sequence that gives its blocks back when an older one needs some. A prompt that will be
    /// handed over never does: its blocks were promised to whoever pulls them, and it needs no more.
    fn youngest_holder(&self) -> Option<Ticket> {
        let running = self.running.iter().rev().find(|s| s.goal == Goal::Finish);
        let joining = self.joining.back();
        let waiting = self.waiting.front().filter(|s| s.holds_blocks());
        [running, joining, waiting].into_iter().flatten().map(|s| s.ticket).max()
    }

    /// Takes a sequence's blocks; it goes back in line.
    fn preempt(&mut self, ticket: Ticket) {
        if let Some(first) = self.waiting.front_mut().filter(|s| s.ticket == ticket) {
            self.totals.discount(first);
            first.give_back();
            self.totals.count(first);
            return;
        }
        let taken = match self.running.binary_search_by_key(&ticket, |s| s.ticket) {
            Ok(at) => Some(self.running.remove(at)),
            Err(_) => self.joining.pop_back(),
        };
        let Some(mut sequence) = taken else { return };
        debug_assert_eq!(sequence.ticket, ticket);
        self.totals.discount(&sequence);
        sequence.give_back();
        self.totals.count(&sequence);
        self.preemptions += 1;
        self.wait(sequence);
    }

    /// Puts a sequence in line.
    pub(crate) fn wait(&mut self, sequence: Sequence) {
        // In line, being overdue changes nothing: the order must last.
        let urgency = |sequence: &Sequence| sequence.urgency(Time::ZERO);
        let own = urgency(&sequence);
        let at = self.waiting.partition_point(|s| urgency(s) < own);
        // Only the first in line may hold blocks.
        if at == 0
            && let Some(first) = self.waiting.front_mut()
        {
            self.totals.discount(first);
            first.give_back();
            self.totals.count(first);
        }
        self.waiting.insert(at, sequence);
    }

    /// Whether the first in line may enter the batch now: there is a place and its whole prompt has
    /// blocks. While some are missing it keeps what it got.
    fn admit(&mut self, now: Time, events: &mut Vec<Event>) -> bool {
        if !self.has_place() {
            return false;
        }
        let Some(first) = self.waiting.front_mut() else { return false };
        if !first.holds_blocks() {
            self.totals.discount(first);
            first.take_cached_prefix(&self.cache);
            self.totals.count(first);
        }
        if !first.collect_blocks(&self.cache) {
            return false;
        }
        announce(first, now, events);
        true
    }

    fn add_decodes(&mut self) {
        for sequence in self.running.iter().filter(|s| s.phase == Phase::Decoding) {
            self.step.push(sequence, 1);
        }
    }

    /// Tokens of prefill the step has room for: what decoding leaves, but at least a block, so that
    /// a full batch of decoding sequences doesn't stop prefill.
    fn prefill_budget(&self) -> usize {
        let decoding = self.step.parts.len();
        let left = (self.config.max_batch_tokens as usize).saturating_sub(decoding);
        left.max(self.cache.block_tokens() as usize)
    }

    /// Shares the budget out, the most urgent first: those in the batch, and those that enter it. Whoever
    /// computes a long prompt pauses at a chunk's end for others that are due before it; and the step
    /// that ends theirs at most doubles for a part of it, so that theirs doesn't wait for its.
    fn add_prompts(&mut self, now: Time, events: &mut Vec<Event>) {
        let mut budget = self.prefill_budget();
        let prefilling = self.running.iter().filter(|s| s.phase == Phase::Prefilling);
        let mut inside: Vec<Urgency> = prefilling.map(|s| s.urgency(now)).collect();
        inside.sort_unstable();
        let mut inside = inside.into_iter().peekable();
        let mut may_enter = true;
        let mut ending = Ending::default();
        while budget > 0 {
            let first = self.waiting.front().filter(|_| may_enter).map(|s| s.urgency(now));
            let is_next = |first| inside.peek().is_none_or(|inside| first < *inside);
            if first.is_some_and(is_next) {
                may_enter = self.admit(now, events);
                if may_enter && let Some(sequence) = self.waiting.pop_front() {
                    let at = self.enter(sequence);
                    self.add_chunk(at, &mut budget, &mut ending);
                }
                continue;
            }
            let Some(Urgency { ticket, .. }) = inside.next() else { break };
            if let Ok(at) = self.running.binary_search_by_key(&ticket, |s| s.ticket) {
                self.add_chunk(at, &mut budget, &mut ending);
            }
        }
    }

    fn add_chunk(&mut self, at: usize, budget: &mut usize, ending: &mut Ending) {
        let sequence = &self.running[at];
        let (pending, due) = (sequence.pending(), sequence.due());
        let mut new = pending.min(self.config.chunk_tokens as usize).min(*budget);
        if new == pending {
            ending.due = due;
            ending.tokens += new;
        } else if ending.tokens > 0 && ending.due < due {
            new = new.min(ending.tokens);
        }
        *budget -= new;
        self.step.push(sequence, new);
    }

    fn has_place(&self) -> bool {
        self.running.len() < self.config.max_running as usize
    }

    /// Puts a sequence into the batch, to its place by arrival.
    fn enter(&mut self, sequence: Sequence) -> usize {
        debug_assert!(
            blocks_for(sequence.computed, self.cache.block_tokens()) <= sequence.blocks().len()
        );
        let at = self.running.partition_point(|s| s.ticket < sequence.ticket);
        self.running.insert(at, sequence);
        at
    }
}

/// Prompts that end with the step.
#[derive(Clone, Copy, Debug, Default)]
struct Ending {
    tokens: usize,
    /// When the last of them is due.
    due: Time,
}

/// Tells of a sequence's first place in the batch.
fn announce(sequence: &mut Sequence, now: Time, events: &mut Vec<Event>) {
    if sequence.admitted.is_some() {
        return;
    }
    sequence.admitted = Some(now);
    if sequence.phase == Phase::Prefilling {
        sequence.cached_tokens = sequence.computed as u32;
    }
    events.push(Event::Admitted {
        key: sequence.key(),
        epoch: sequence.epoch(),
        blocks: match sequence.goal {
            Goal::FirstToken => sequence.blocks().to_vec(),
            Goal::Finish => Vec::new(),
        },
        cached_tokens: sequence.cached_tokens,
        queue: now.since(sequence.arrived),
    });
}
