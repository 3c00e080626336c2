//! A retry's turn; see [`RetryBudget`].

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use baton_node::clock::Clock;
use baton_policy::{RetryBudget, Ticket};
use baton_types::Time;

use crate::config::LimitsConfig;

/// Who may try again, of one router.
#[derive(Debug)]
pub(crate) struct Retries {
    budget: Mutex<RetryBudget>,
    last_ticket: AtomicU64,
}

/// A place in line, given up when dropped.
struct Waiter<'a> {
    retries: &'a Retries,
    ticket: Ticket,
    due: Time,
}

impl Retries {
    pub(crate) fn new(limits: &LimitsConfig) -> Self {
        let budget = RetryBudget::new(limits.retries_per_second, limits.retries_per_request);
        Retries { budget: Mutex::new(budget), last_ticket: AtomicU64::new(0) }
    }

    /// A request has come.
    pub(crate) fn earn(&self) {
        self.budget().earn();
    }

    /// Waits for a retry, while `due` says who goes first. Says whether there was none left.
    pub(crate) async fn turn(&self, due: Time, clock: &Clock) -> bool {
        let ticket = Ticket(self.last_ticket.fetch_add(1, Ordering::Relaxed));
        let waiter = Waiter { retries: self, ticket, due };
        let mut has_waited = false;
        while let Err(wait) = waiter.take(clock.now()) {
            has_waited = true;
            tokio::time::sleep(wait).await;
        }
        has_waited
    }

    fn budget(&self) -> MutexGuard<'_, RetryBudget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter<'_> {
    fn take(&self, now: Time) -> Result<(), std::time::Duration> {
        self.retries.budget().take(self.ticket, self.due, now)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.retries.budget().leave(self.ticket, self.due);
    }
}
