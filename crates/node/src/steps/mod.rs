//! The step loop: one thread that owns the scheduler and the engine.
//!
//! # Who may talk to it?
//!
//! Everybody, through [`Steps`]: submissions and cancels reach it at step boundaries. It never
//! awaits anything but its mailbox, and sleeps there when there is nothing to compute.
//!
//! # What if nobody listens?
//!
//! Every sequence's events go into a channel that holds all the events it can ever have, so a slow
//! reader stalls nobody. A [`Running`] that is dropped cancels its sequence, whatever it is doing.

mod event;
mod mailbox;
mod progress;
mod thread;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use baton_kv_cache::KvCache;
use baton_scheduler::{Engine, Goal, Load, Refusal, SchedulerConfig, Snapshot, Submission};
use baton_types::{Epoch, SequenceKey, SequenceSpec, StepReport};
use tokio::sync::{mpsc, oneshot, watch};

pub use self::event::{SequenceEvent, SequenceWatcher};
use self::{
    mailbox::{Command, Freeze, Mailbox, Rejected, Submit, Ticket},
    progress::Progress,
    thread::StepThread,
};
use crate::{clock::Clock, metrics::StepMetrics};

/// A handle on the step loop. Clones share it.
#[derive(Clone)]
pub struct Steps {
    shared: Arc<Shared>,
}

struct Shared {
    mailbox: Mailbox,
    progress: Progress,
    clock: Clock,
    tickets: AtomicU64,
    ended: watch::Sender<Option<Ended>>,
}

/// How the step loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// Scheduler or engine panicked, with this message.
    Panicked(String),
}

/// Why a submission was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{max} submissions wait for the step loop already; try again later")]
    MailboxFull { max: usize },
    #[error("the node's step loop has ended; try another node")]
    Ended,
}

/// A sequence the step loop has taken. Dropping it cancels the sequence.
#[derive(Debug)]
pub struct Running {
    events: mpsc::Receiver<SequenceEvent>,
    _cancel: CancelOnDrop,
}

struct CancelOnDrop {
    shared: Arc<Shared>,
    key: SequenceKey,
    ticket: Ticket,
}

impl Steps {
    /// Starts the thread.
    pub fn start(
        config: SchedulerConfig,
        engine: Box<dyn Engine>,
        cache: KvCache,
        clock: Clock,
        metrics: StepMetrics,
    ) -> std::io::Result<Steps> {
        let max_submissions = config.max_waiting.max(1) as usize + config.max_running as usize;
        let shared = Arc::new(Shared {
            mailbox: Mailbox::new(max_submissions),
            progress: Progress::new(),
            clock,
            tickets: AtomicU64::new(0),
            ended: watch::Sender::new(None),
        });
        let thread = StepThread::new(config, engine, cache, clock, metrics, Arc::clone(&shared));
        std::thread::Builder::new().name("baton-step".to_owned()).spawn(move || thread.run())?;
        Ok(Steps { shared })
    }

    /// Hands a sequence over. Dropping the future, or the [`Running`] it gives, cancels it.
    pub async fn submit(
        &self,
        submission: Submission,
        watcher: Option<Box<dyn SequenceWatcher>>,
    ) -> Result<Running, SubmitError> {
        let key = submission.spec.key;
        let ticket = Ticket(self.shared.tickets.fetch_add(1, Ordering::Relaxed));
        let (sink, events) = mpsc::channel(most_events(&submission.spec, submission.goal));
        let (reply, answer) = oneshot::channel();
        let submit = Submit { ticket, submission, watcher, sink, reply };
        self.shared.mailbox.submit(Box::new(submit)).map_err(|rejected| match rejected {
            Rejected::Full { max } => SubmitError::MailboxFull { max },
            Rejected::Closed => SubmitError::Ended,
        })?;
        let cancel = CancelOnDrop { shared: Arc::clone(&self.shared), key, ticket };
        answer.await.map_err(|_closed| SubmitError::Ended)??;
        Ok(Running { events, _cancel: cancel })
    }

    /// What a sequence has at the next step boundary; None if it doesn't run here under exactly this epoch.
    pub async fn look(&self, key: SequenceKey, epoch: Epoch) -> Option<Snapshot> {
        let (reply, answer) = oneshot::channel();
        self.shared.mailbox.push(Command::Look { key, epoch, reply });
        answer.await.ok().flatten()
    }

    /// Takes a decoding sequence out of the batch at the next step boundary, for at most `patience`; its
    /// owner hears of it after its last token. None if it doesn't decode here under exactly this epoch.
    pub async fn freeze(
        &self,
        key: SequenceKey,
        epoch: Epoch,
        attempt: Epoch,
        patience: Duration,
    ) -> Option<Snapshot> {
        let (reply, answer) = oneshot::channel();
        let freeze = Freeze { key, epoch, attempt, patience, reply };
        self.shared.mailbox.push(Command::Freeze(freeze));
        answer.await.ok().flatten()
    }

    /// A frozen sequence goes on here, under this epoch.
    pub fn thaw(&self, key: SequenceKey, epoch: Epoch) {
        self.shared.mailbox.push(Command::Thaw { key, epoch });
    }

    /// A frozen sequence of this epoch runs elsewhere, under `by`. Returns when nothing of it is left.
    pub async fn release(&self, key: SequenceKey, epoch: Epoch, by: Epoch) {
        let (done, is_done) = oneshot::channel();
        self.shared.mailbox.push(Command::Release { key, epoch, by, done });
        // A thread that has ended has nothing.
        let _ = is_done.await;
    }

    /// Steps since the start.
    pub fn count(&self) -> u64 {
        self.shared.progress.steps()
    }

    /// As of the last step boundary.
    pub fn load(&self) -> Load {
        self.shared.progress.load()
    }

    /// Wakes at every change of the load.
    pub fn watch_load(&self) -> watch::Receiver<Load> {
        self.shared.progress.watch()
    }

    /// Reports of the latest steps, of those done after the first `since`; and how many were done by now.
    pub fn reports(&self, since: u64) -> (Vec<StepReport>, u64) {
        self.shared.progress.reports(since)
    }

    /// The step under way, and how long it has been that.
    pub fn under_way(&self) -> Option<StepReport> {
        self.shared.progress.under_way(self.shared.clock.now())
    }

    /// Tells the thread to end at the next step boundary, dropping what still runs.
    pub fn stop(&self) {
        self.shared.mailbox.push(Command::Stop);
    }

    /// Whether the thread has ended.
    pub fn has_ended(&self) -> bool {
        self.shared.ended.borrow().is_some()
    }

    /// Waits for the thread's end.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.shared.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone().unwrap_or(Ended::Stopped),
            Err(_closed) => Ended::Stopped,
        }
    }
}

impl Running {
    /// The next event; nothing after the last one, or when the step loop has ended.
    pub async fn next(&mut self) -> Option<SequenceEvent> {
        self.events.recv().await
    }

    /// Waits for events and appends all there are, at most `limit`; 0 says that none will come.
    pub async fn next_many(&mut self, events: &mut Vec<SequenceEvent>, limit: usize) -> usize {
        self.events.recv_many(events, limit).await
    }
}

/// How often a sequence may leave the batch here and come back to it.
const MAX_FREEZES: u32 = 64;

/// As many events as a sequence can have: one for each token and each time it is frozen, `Admitted`, and a
/// last one.
fn most_events(spec: &SequenceSpec, goal: Goal) -> usize {
    let emitted =
        spec.tokens.len() as u64 - u64::from(spec.prompt_len).min(spec.tokens.len() as u64);
    let tokens = match goal {
        Goal::FirstToken => 1,
        Goal::Finish => u64::from(spec.max_tokens).saturating_sub(emitted),
    };
    tokens as usize + MAX_FREEZES as usize + 3
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.shared.mailbox.push(Command::Cancel { key: self.key, ticket: self.ticket });
    }
}

impl fmt::Debug for CancelOnDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CancelOnDrop({})", self.key)
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps").field("count", &self.count()).field("load", &self.load()).finish()
    }
}
