//! What the step loop has done and what it has before it, readable from any thread.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use baton_scheduler::Load;
use baton_types::{StepReport, StepShape, Time};
use tokio::sync::watch;

/// Reports kept for the next heartbeats; older ones give way.
const MAX_REPORTS: usize = 256;

/// Written by the step thread alone.
#[derive(Debug)]
pub(super) struct Progress {
    load: watch::Sender<Load>,
    steps: Mutex<Steps>,
}

#[derive(Debug)]
struct Steps {
    done: u64,
    /// Of the latest.
    reports: VecDeque<StepReport>,
    /// What is being computed, and since when.
    under_way: Option<(StepShape, Time)>,
}

impl Progress {
    pub(super) fn new() -> Self {
        let steps =
            Steps { done: 0, reports: VecDeque::with_capacity(MAX_REPORTS), under_way: None };
        Progress { load: watch::Sender::new(Load::default()), steps: Mutex::new(steps) }
    }

    pub(super) fn publish(&self, load: Load) {
        self.load.send_if_modified(|current| {
            let changed = *current != load;
            *current = load;
            changed
        });
    }

    /// A step begins.
    pub(super) fn begin(&self, now: Time, shape: StepShape) {
        self.lock().under_way = Some((shape, now));
    }

    /// It has ended, whatever came of it.
    pub(super) fn end(&self) {
        self.lock().under_way = None;
    }

    /// The step under way, and how long it has been that.
    pub(super) fn under_way(&self, now: Time) -> Option<StepReport> {
        let (shape, since) = self.lock().under_way?;
        Some(StepReport { shape, duration: now.since(since) })
    }

    pub(super) fn record(&self, report: StepReport) {
        let mut steps = self.lock();
        if steps.reports.len() == MAX_REPORTS {
            steps.reports.pop_front();
        }
        steps.reports.push_back(report);
        steps.done += 1;
    }

    /// Steps done.
    pub(super) fn steps(&self) -> u64 {
        self.lock().done
    }

    /// Reports of the latest steps, of those done after the first `since`; and how many were done by now.
    pub(super) fn reports(&self, since: u64) -> (Vec<StepReport>, u64) {
        let steps = self.lock();
        let wanted = usize::try_from(steps.done.saturating_sub(since)).unwrap_or(usize::MAX);
        let skipped = steps.reports.len().saturating_sub(wanted);
        (steps.reports.iter().skip(skipped).copied().collect(), steps.done)
    }

    fn lock(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn load(&self) -> Load {
        *self.load.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Load> {
        self.load.subscribe()
    }
}
