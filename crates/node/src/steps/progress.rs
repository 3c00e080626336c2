//! What the step loop has done and what it has before it, readable from any thread.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use baton_scheduler::Load;
use baton_types::StepReport;
use tokio::sync::watch;

/// Reports kept for the next heartbeat; older ones give way.
const MAX_REPORTS: usize = 256;

/// Written by the step thread alone.
#[derive(Debug)]
pub(super) struct Progress {
    steps: AtomicU64,
    load: watch::Sender<Load>,
    reports: Mutex<VecDeque<StepReport>>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Progress {
            steps: AtomicU64::new(0),
            load: watch::Sender::new(Load::default()),
            reports: Mutex::new(VecDeque::with_capacity(MAX_REPORTS)),
        }
    }

    pub(super) fn publish(&self, load: Load) {
        self.load.send_if_modified(|current| {
            let changed = *current != load;
            *current = load;
            changed
        });
    }

    pub(super) fn record(&self, report: StepReport) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        if reports.len() == MAX_REPORTS {
            reports.pop_front();
        }
        reports.push_back(report);
        drop(reports);
        self.steps.fetch_add(1, Relaxed);
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps.load(Relaxed)
    }

    pub(super) fn load(&self) -> Load {
        *self.load.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Load> {
        self.load.subscribe()
    }

    pub(super) fn take_reports(&self) -> Vec<StepReport> {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.drain(..).collect()
    }
}
