//! The body of the step thread.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use baton_kv_cache::KvCache;
use baton_scheduler::{
    Engine, Event, Sampled, Scheduler, SchedulerConfig, SequenceError, StepObserver,
};
use baton_types::{Epoch, SequenceKey, TokenLogprobs};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{
    Ended, MAX_FREEZES, SequenceEvent, SequenceWatcher, Shared, StepReport,
    mailbox::{Command, Freeze, Submit, Ticket},
};
use crate::{clock::Clock, metrics::StepMetrics};

/// How often a step loop that has sequences waiting for memory looks whether somebody gave some
/// back. Blocks come back from other threads, which don't send mail for it.
const WAITING_FOR_BLOCKS: Duration = Duration::from_millis(2);

pub(super) struct StepThread {
    scheduler: Scheduler,
    engine: Box<dyn Engine>,
    clock: Clock,
    metrics: StepMetrics,
    shared: Arc<Shared>,
    owners: Owners,
    inbox: VecDeque<Command>,
    events: Vec<Event>,
    sampled: Vec<Sampled>,
}

/// Who is told about which sequence.
#[derive(Default)]
struct Owners {
    by_key: HashMap<SequenceKey, Owner>,
    /// Sequences of the step under way that somebody follows, and their tokens after it.
    followed: Vec<(SequenceKey, u32)>,
    /// Sequences whose owner has gone away.
    abandoned: Vec<(SequenceKey, Epoch)>,
}

struct Owner {
    epoch: Epoch,
    ticket: Ticket,
    sink: mpsc::Sender<SequenceEvent>,
    watcher: Option<Box<dyn SequenceWatcher>>,
    /// How likely the prompt's tokens were, from the second on.
    scores: Vec<TokenLogprobs>,
    /// How often it has left the batch.
    freezes: u32,
}

impl StepThread {
    pub(super) fn new(
        config: SchedulerConfig,
        engine: Box<dyn Engine>,
        cache: KvCache,
        clock: Clock,
        metrics: StepMetrics,
        shared: Arc<Shared>,
    ) -> Self {
        let scheduler = Scheduler::new(config, engine.info().clone(), cache);
        StepThread {
            scheduler,
            engine,
            clock,
            metrics,
            shared,
            owners: Owners::default(),
            inbox: VecDeque::new(),
            events: Vec::new(),
            sampled: Vec::new(),
        }
    }

    /// Runs until told to stop, or until something panics; either way everybody is told.
    pub(super) fn run(mut self) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.go_round()));
        let shared = Arc::clone(&self.shared);
        shared.mailbox.close();
        // Gives back every block and ends every event stream.
        drop(self);
        let ended = match outcome {
            Ok(()) => Ended::Stopped,
            Err(panic) => {
                let message = panic_message(panic.as_ref());
                tracing::error!(%message, "the step loop panicked; this node can't go on");
                Ended::Panicked(message)
            }
        };
        shared.ended.send_replace(Some(ended));
    }

    fn go_round(&mut self) {
        let mut patience = Some(Duration::ZERO);
        loop {
            self.shared.mailbox.take(patience, &mut self.inbox);
            while let Some(command) = self.inbox.pop_front() {
                match command {
                    Command::Submit(submit) => self.submit(*submit),
                    Command::Cancel { key, ticket } => self.cancel(key, ticket),
                    Command::Look { key, epoch, reply } => {
                        // Who doesn't wait for the answer any more doesn't need it.
                        let _ = reply.send(self.scheduler.snapshot(key, epoch));
                    }
                    Command::Freeze(freeze) => self.freeze(freeze),
                    Command::Thaw { key, epoch } => self.thaw(key, epoch),
                    Command::Release { key, epoch, by, done } => {
                        self.scheduler.release(key, epoch, by);
                        // Whoever asked may have gone.
                        let _ = done.send(());
                    }
                    Command::Stop => return,
                }
            }
            let composed = self.scheduler.compose(self.clock.now(), &mut self.events);
            self.deliver(Duration::ZERO);
            self.publish();
            if composed {
                self.step();
                self.publish();
            } else {
                self.engine.idle();
            }
            patience = if composed { Some(Duration::ZERO) } else { self.patience() };
        }
    }

    /// How long to sleep when nothing can be computed.
    fn patience(&self) -> Option<Duration> {
        let deadline = self.scheduler.next_deadline().map(|at| at.since(self.clock.now()));
        let blocks = (self.scheduler.load().waiting > 0).then_some(WAITING_FOR_BLOCKS);
        [deadline, blocks].into_iter().flatten().min()
    }

    fn submit(&mut self, submit: Submit) {
        let Submit { ticket, submission, watcher, sink, reply } = submit;
        let (key, epoch) = (submission.spec.key, submission.spec.epoch);
        let taken = self.scheduler.submit(self.clock.now(), submission);
        if taken.is_ok() {
            let owner = Owner { epoch, ticket, sink, watcher, scores: Vec::new(), freezes: 0 };
            if let Some(older) = self.owners.by_key.insert(key, owner) {
                let error = SequenceError::Superseded { by: epoch };
                // An owner that has gone away doesn't need to know.
                let _ = older.sink.try_send(SequenceEvent::Failed { error });
            }
        }
        // Who doesn't wait for the answer any more sends a cancel next.
        let _ = reply.send(taken);
    }

    fn cancel(&mut self, key: SequenceKey, ticket: Ticket) {
        if let Some(owner) = self.owners.by_key.get(&key)
            && owner.ticket == ticket
        {
            self.scheduler.cancel(key, owner.epoch);
            self.owners.by_key.remove(&key);
            self.metrics.cancelled();
        }
    }

    fn freeze(&mut self, freeze: Freeze) {
        let Freeze { key, epoch, attempt, patience, reply } = freeze;
        let owner = self.owners.by_key.get_mut(&key);
        let owner = owner.filter(|owner| owner.epoch == epoch && owner.freezes < MAX_FREEZES);
        let frozen = owner.and_then(|owner| {
            let frozen = self.scheduler.freeze(self.clock.now(), key, epoch, patience)?;
            owner.freezes += 1;
            let tokens = frozen.cached + 1;
            // An owner that has gone away sends a cancel next.
            let _ = owner.sink.try_send(SequenceEvent::Frozen { attempt, tokens });
            Some(frozen)
        });
        if let Err(Some(_unheard)) = reply.send(frozen) {
            self.thaw(key, epoch);
        }
    }

    fn thaw(&mut self, key: SequenceKey, epoch: Epoch) {
        if self.scheduler.thaw(key, epoch)
            && let Some(owner) = self.owners.by_key.get_mut(&key)
        {
            owner.epoch = epoch;
        }
    }

    fn step(&mut self) {
        let started = self.clock.now();
        let shape = self.scheduler.step_shape();
        self.shared.progress.begin(started, shape);
        let result = self.scheduler.with_sequences(|sequences| {
            self.owners.follow(sequences.iter().map(|s| (s.key, s.start + s.tokens.len() as u32)));
            self.engine.step(sequences, &mut self.owners, &mut self.sampled)
        });
        let now = self.clock.now();
        let duration = now.since(started);
        self.shared.progress.end();
        match result {
            Ok(()) => {
                self.scheduler.complete(now, &self.sampled, &mut self.events);
                self.metrics.stepped(&shape, duration);
                self.shared.progress.record(StepReport { shape, duration });
            }
            Err(error) => {
                tracing::warn!(%error, "a step failed; its companions are tried again");
                self.scheduler.fail_step(&error, &mut self.events);
            }
        }
        self.deliver(duration);
    }

    fn deliver(&mut self, step: Duration) {
        for event in self.events.drain(..) {
            self.owners.tell(event, step);
        }
        for (key, epoch) in self.owners.abandoned.drain(..) {
            self.scheduler.cancel(key, epoch);
            self.metrics.cancelled();
        }
    }

    fn publish(&self) {
        self.metrics.preempted(self.scheduler.preemptions());
        self.shared.progress.publish(self.scheduler.load());
    }
}

impl Owners {
    fn follow(&mut self, step: impl Iterator<Item = (SequenceKey, u32)>) {
        self.followed.clear();
        let by_key = &self.by_key;
        let is_followed =
            |key: &SequenceKey| matches!(by_key.get(key), Some(o) if o.watcher.is_some());
        self.followed.extend(step.filter(|(key, _)| is_followed(key)));
    }

    fn tell(&mut self, event: Event, step: Duration) {
        let (key, epoch, last) = (event.key(), event.epoch(), event.is_last());
        let Some(owner) = self.by_key.get_mut(&key).filter(|owner| owner.epoch == epoch) else {
            return;
        };
        let heard = owner.tell(event, step);
        if last {
            self.by_key.remove(&key);
        } else if let Err(unheard) = heard {
            if let TrySendError::Full(event) = unheard {
                tracing::error!(%key, ?event, "more events than a sequence can have");
            }
            self.by_key.remove(&key);
            self.abandoned.push((key, epoch));
        }
    }
}

impl Owner {
    fn tell(&mut self, event: Event, step: Duration) -> Result<(), TrySendError<SequenceEvent>> {
        let event = match event {
            Event::Admitted { blocks, cached_tokens, queue, .. } => {
                if let Some(watcher) = &mut self.watcher {
                    watcher.admitted(blocks, cached_tokens);
                }
                SequenceEvent::Admitted { cached_tokens, queue }
            }
            Event::Token { index, token, logits_digest, logprobs, .. } => {
                let prompt_logprobs = std::mem::take(&mut self.scores);
                SequenceEvent::Token {
                    index,
                    token,
                    logits_digest,
                    logprobs,
                    prompt_logprobs,
                    step,
                }
            }
            Event::Finished { reason, .. } => SequenceEvent::Finished { reason },
            Event::Prefilled { blocks, prefill, .. } => {
                SequenceEvent::Prefilled { blocks, prefill }
            }
            Event::Failed { error, .. } => SequenceEvent::Failed { error },
        };
        self.sink.try_send(event)
    }
}

impl StepObserver for Owners {
    fn layer_done(&mut self, layer: u32) {
        for &(key, tokens) in &self.followed {
            if let Some(Owner { watcher: Some(watcher), .. }) = self.by_key.get_mut(&key) {
                watcher.layer_done(layer, tokens);
            }
        }
    }

    fn scored(&mut self, key: SequenceKey, position: u32, logprobs: TokenLogprobs) {
        if let Some(owner) = self.by_key.get_mut(&key) {
            // A step that is repeated tells it again.
            owner.scores.truncate(position as usize - 1);
            owner.scores.push(logprobs);
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
