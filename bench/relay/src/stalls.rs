//! When the machine itself stood still.
//!
//! A thread that goes before every other one of its core asks to be woken every [`BEAT`]. When it
//! is late, nothing else ran on that core either, or only the kernel did: a host that lends its
//! cores to several machines takes them away for milliseconds, most of all while all of them are
//! busy. A token on its way then says nothing about who passes it on, nor does one that came while
//! those before it were still being caught up with. So figures are told twice: of all tokens, and
//! of the undisturbed ones.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context;
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

const BEAT: Duration = Duration::from_micros(250);
/// A watcher that is later than this wasn't merely woken slowly.
const LATE: Duration = Duration::from_micros(500);
/// Of what piled up in a stall, a core that works in half of its time is rid after as long again; the
/// relay's share of its own may be greater.
const LEAST_SHARE: f64 = 0.5;

/// From when to when, since the beginning of the benchmark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stall {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

/// Watches some cores until it is dropped.
pub(crate) struct Watch {
    stalls: Arc<Mutex<Vec<Stall>>>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Watches nothing: no stall is known.
    pub(crate) fn none() -> Self {
        Watch { stalls: Arc::default(), over: Arc::default(), threads: Vec::new() }
    }

    /// Durations count from `begin`.
    pub(crate) fn start(cores: &'static [usize], begin: Instant) -> anyhow::Result<Self> {
        let (stalls, over) = (Arc::default(), Arc::default());
        let mut watch = Watch { stalls, over, threads: Vec::new() };
        for &core in cores {
            let (stalls, over) = (Arc::clone(&watch.stalls), Arc::clone(&watch.over));
            let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
            let thread = move || {
                // Who waits for it is told, or sees that it is gone.
                let _ = ready.send(crate::pin(core).and_then(|()| go_first()));
                watch_one(begin, &stalls, &over);
            };
            watch.threads.push(std::thread::spawn(thread));
            is_ready.recv().context("a watcher that lives")??;
        }
        Ok(watch)
    }

    /// Those that ended after `from` and began before `to`.
    pub(crate) fn between(&self, from: Duration, to: Duration) -> Vec<Stall> {
        let stalls = self.stalls.lock().unwrap_or_else(PoisonError::into_inner);
        stalls.iter().filter(|stall| stall.to > from && stall.from < to).copied().collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A watcher that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Stall {
    pub(crate) fn length(&self) -> Duration {
        self.to - self.from
    }

    /// Whether it, or catching up with it, touches a token on its way from `sent` to `arrived`, past
    /// a core that works in this share of its time.
    pub(crate) fn disturbs(&self, sent: Duration, arrived: Duration, share: f64) -> bool {
        let share = share.clamp(LEAST_SHARE, 0.95);
        self.from < arrived && sent < self.to + self.length().mul_f64(share / (1.0 - share))
    }
}

/// Before every other thread of its core.
fn go_first() -> anyhow::Result<()> {
    let priority = ThreadPriority::Crossplatform(50_u8.try_into().unwrap_or_default());
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    set_thread_priority_and_policy(thread_native_id(), priority, policy)
        .map_err(|error| anyhow::anyhow!("{error:?}"))
        .context("watching needs real-time priority: run as root, or with CAP_SYS_NICE")
}

fn watch_one(begin: Instant, stalls: &Mutex<Vec<Stall>>, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let due = begin.elapsed() + BEAT;
        std::thread::sleep(BEAT);
        let now = begin.elapsed();
        if now.saturating_sub(due) > LATE {
            let stall = Stall { from: due, to: now };
            stalls.lock().unwrap_or_else(PoisonError::into_inner).push(stall);
        }
    }
}
