//! How everybody else reaches the step thread.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use baton_scheduler::{Refusal, Snapshot, Submission};
use baton_types::{Epoch, SequenceKey};
use tokio::sync::{mpsc, oneshot};

use super::{SequenceEvent, SequenceWatcher};

/// Names one accepted or attempted submission, so that a refused twin's cancel can't end the
/// sequence that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(pub(super) u64);

/// Everything the step thread can be asked.
pub(super) enum Command {
    Submit(Box<Submit>),
    Cancel {
        key: SequenceKey,
        ticket: Ticket,
    },
    Look {
        key: SequenceKey,
        epoch: Epoch,
        reply: oneshot::Sender<Option<Snapshot>>,
    },
    Freeze(Freeze),
    Thaw {
        key: SequenceKey,
        epoch: Epoch,
    },
    /// A frozen sequence runs elsewhere now.
    Release {
        key: SequenceKey,
        epoch: Epoch,
        by: Epoch,
        done: oneshot::Sender<()>,
    },
    Stop,
}

/// Takes a sequence out of the batch.
pub(super) struct Freeze {
    pub(super) key: SequenceKey,
    pub(super) epoch: Epoch,
    /// Of its migration.
    pub(super) attempt: Epoch,
    pub(super) patience: Duration,
    pub(super) reply: oneshot::Sender<Option<Snapshot>>,
}

pub(super) struct Submit {
    pub(super) ticket: Ticket,
    pub(super) submission: Submission,
    pub(super) watcher: Option<Box<dyn SequenceWatcher>>,
    pub(super) sink: mpsc::Sender<SequenceEvent>,
    pub(super) reply: oneshot::Sender<Result<(), Refusal>>,
}

/// A queue of commands one thread sleeps on.
///
/// Submissions are bounded. Cancels always get in: there is at most one for each submission that
/// got in, and losing one would leak.
#[derive(Default)]
pub(super) struct Mailbox {
    state: Mutex<State>,
    mail: Condvar,
    max_submissions: usize,
}

#[derive(Default)]
struct State {
    commands: VecDeque<Command>,
    submissions: usize,
    closed: bool,
}

/// Why a submission didn't get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    Full { max: usize },
    Closed,
}

impl Mailbox {
    pub(super) fn new(max_submissions: usize) -> Self {
        Mailbox { max_submissions, ..Mailbox::default() }
    }

    pub(super) fn submit(&self, submit: Box<Submit>) -> Result<(), Rejected> {
        let mut state = self.lock();
        if state.closed {
            return Err(Rejected::Closed);
        }
        if state.submissions >= self.max_submissions {
            return Err(Rejected::Full { max: self.max_submissions });
        }
        state.submissions += 1;
        state.commands.push_back(Command::Submit(submit));
        drop(state);
        self.mail.notify_one();
        Ok(())
    }

    /// For commands that must not be refused.
    pub(super) fn push(&self, command: Command) {
        let mut state = self.lock();
        if !state.closed {
            state.commands.push_back(command);
            drop(state);
            self.mail.notify_one();
        }
    }

    /// Moves what has arrived to `inbox`, waiting for it up to `patience` (`None`: for ever).
    pub(super) fn take(&self, patience: Option<Duration>, inbox: &mut VecDeque<Command>) {
        let mut state = self.lock();
        if state.commands.is_empty() {
            let empty = |state: &mut State| state.commands.is_empty();
            state = match patience {
                Some(patience) if patience.is_zero() => return,
                Some(patience) => {
                    let waited = self.mail.wait_timeout_while(state, patience, empty);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.mail.wait_while(state, empty);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
        state.submissions = 0;
        inbox.append(&mut state.commands);
    }

    /// Refuses everything from now on and drops what waits.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let unread = std::mem::take(&mut state.commands);
        drop(state);
        drop(unread);
    }

    /// The state is a queue and two plain fields: it is whole whoever panicked.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
