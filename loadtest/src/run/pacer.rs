//! Sends sessions off when they are due: a thread of its own, for a runtime's timers are a millisecond coarse.

use std::{
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::schedule::Session;

/// How long a stop may go unnoticed.
const NAP: Duration = Duration::from_millis(50);
/// How often workers are asked how late they are.
const TICK: Duration = Duration::from_millis(10);

/// For a worker.
#[derive(Debug)]
pub(super) enum Job {
    Session(Session),
    /// Sent at this time.
    Tick(Instant),
}

/// Deals sessions to the workers in turn, each when it is due, until there are no more or it is stopped. Workers that
/// can't keep up make it late, which counts.
pub(super) fn pace(
    sessions: impl Iterator<Item = Session>,
    begin: Instant,
    workers: &[mpsc::Sender<Job>],
    stop: &CancellationToken,
    mut arrived: impl FnMut(Duration),
) {
    for session in sessions {
        sleep_until(begin + session.due, stop);
        if stop.is_cancelled() {
            return;
        }
        arrived(session.due);
        let worker = &workers[session.number as usize % workers.len()];
        if worker.blocking_send(Job::Session(session)).is_err() {
            return;
        }
    }
}

/// Asks every worker how late it is, until it is stopped.
pub(super) fn tick(workers: &[mpsc::Sender<Job>], stop: &CancellationToken) {
    while !stop.is_cancelled() {
        thread::sleep(TICK);
        for worker in workers {
            // A full channel is told by the sessions in it.
            let _ = worker.try_send(Job::Tick(Instant::now()));
        }
    }
}

/// Sleeps until then, or until it is stopped.
pub(crate) fn sleep_until(at: Instant, stop: &CancellationToken) {
    loop {
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() || stop.is_cancelled() {
            return;
        }
        thread::sleep(left.min(NAP));
    }
}
