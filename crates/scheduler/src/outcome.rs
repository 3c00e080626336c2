//! What a step's end means to its sequences.

use baton_types::{SequenceKey, Time};

use crate::{
    EngineError, Event, Goal, Sampled, Scheduler, SequenceError,
    sequence::{Phase, Ticket},
    step::Part,
};

impl Scheduler {
    /// Takes over what the composed step computed and sampled.
    pub fn complete(&mut self, now: Time, sampled: &[Sampled], events: &mut Vec<Event>) {
        let mut parts = std::mem::take(&mut self.step.parts);
        let mut sampled = sampled;
        for &Part { ticket, new } in &parts {
            let Some(at) = self.running_at(ticket) else { continue };
            let sequence = &mut self.running[at];
            let samples = new == sequence.pending();
            let key = sequence.key();
            let drawn = if samples { take_sampled(&mut sampled, key) } else { None };
            if samples && drawn.is_none() {
                debug_assert!(false, "{key}: the engine sampled nothing for it");
                continue;
            }
            self.totals.discount(sequence);
            sequence.advance(new, &self.cache);
            let has_drawn = drawn.is_some();
            if let Some(drawn) = drawn {
                sequence.phase = Phase::Decoding;
                events.push(Event::Token {
                    key,
                    epoch: sequence.epoch(),
                    index: sequence.spec.next_index(),
                    token: drawn.token,
                    logits_digest: drawn.logits_digest,
                    logprobs: drawn.logprobs,
                });
                sequence.spec.tokens.push(drawn.token);
            }
            self.totals.count(sequence);
            if has_drawn {
                self.end_if_done(now, at, events);
            }
        }
        parts.clear();
        self.step.parts = parts;
    }

    /// The composed step ended in `error`. The sequence it names fails; the others are as they were
    /// and will be in the next step again. An error about nobody in the step fails all of them.
    pub fn fail_step(&mut self, error: &EngineError, events: &mut Vec<Event>) {
        let parts = std::mem::take(&mut self.step.parts);
        let at_fault = |scheduler: &Scheduler, ticket| {
            let at = scheduler.running_at(ticket)?;
            (scheduler.running[at].key() == error.key()).then_some(ticket)
        };
        let engine_error = |_: &_| SequenceError::Engine(error.clone());
        match parts.iter().find_map(|part| at_fault(self, part.ticket)) {
            Some(ticket) => self.fail(ticket, engine_error),
            None => parts.iter().for_each(|part| self.fail(part.ticket, engine_error)),
        }
        events.append(&mut self.outbox);
    }

    fn end_if_done(&mut self, now: Time, at: usize, events: &mut Vec<Event>) {
        let sequence = &self.running[at];
        let (key, epoch, ticket) = (sequence.key(), sequence.epoch(), sequence.ticket);
        if let Some(reason) = sequence.finish_reason() {
            self.remove(ticket);
            events.push(Event::Finished { key, epoch, reason });
        } else if sequence.goal == Goal::FirstToken {
            let prefill = now.since(sequence.admitted.unwrap_or(now));
            if let Some(sequence) = self.remove(ticket) {
                let blocks = sequence.into_blocks();
                events.push(Event::Prefilled { key, epoch, blocks, prefill });
            }
        }
    }

    fn running_at(&self, ticket: Ticket) -> Option<usize> {
        self.running.binary_search_by_key(&ticket, |s| s.ticket).ok()
    }
}

/// What was sampled for `key`. Both sides are in the step's order; the results of sequences that
/// left while it ran are skipped.
fn take_sampled(rest: &mut &[Sampled], key: SequenceKey) -> Option<Sampled> {
    let at = rest.iter().position(|sampled| sampled.key == key)?;
    let sampled = rest[at].clone();
    *rest = &rest[at + 1..];
    Some(sampled)
}
