//! Simulations beside each other.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use baton_sim::plan::{Done, Job, PlanError, Planner};

/// Runs the jobs on as many threads as there are cores; what comes of each, in their order.
pub(crate) fn run(planner: &Planner, jobs: &[Job]) -> Vec<Result<Done, PlanError>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some((index, job)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            jobs.get(index).map(|job| (index, job))
        } {
            done.push((index, planner.run(job)));
        }
        done
    };
    let mut all: Vec<(usize, Result<Done, PlanError>)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores.min(jobs.len())).map(|_| scope.spawn(work)).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().flat_map(join).collect()
    });
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, done)| done).collect()
}
