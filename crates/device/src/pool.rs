//! A few threads that run the parts of one kernel.

use std::{
    fmt, hint,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

/// How long a worker looks for the next kernel before it sleeps. Kernels of one step follow each
/// other within a few microseconds; between steps an idle node must use no CPU.
const SPIN: Duration = Duration::from_micros(50);

/// Runs closures over task numbers on a fixed set of threads, the caller among them.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    handles: Vec<Thread>,
}

struct Shared {
    /// Counts kernels; a worker waits for it to move.
    generation: AtomicUsize,
    job: AtomicPtr<Job<'static>>,
    /// Workers that haven't finished with the current job.
    busy: AtomicUsize,
    sleeping: Box<[AtomicBool]>,
    stop: AtomicBool,
}

struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    next: AtomicUsize,
    tasks: usize,
    panicked: AtomicBool,
}

impl ThreadPool {
    /// A pool of `threads` threads, the caller of [`ThreadPool::run`] counted.
    pub fn new(threads: usize) -> Self {
        let extra = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            generation: AtomicUsize::new(0),
            job: AtomicPtr::new(std::ptr::null_mut()),
            busy: AtomicUsize::new(0),
            sleeping: (0..extra).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
        });
        let workers: Vec<_> = (0..extra)
            .map(|index| {
                let shared = Arc::clone(&shared);
                thread::Builder::new()
                    .name(format!("kernel-{}", index + 1))
                    .spawn(move || work(&shared, index))
                    .expect("the system starts a thread")
            })
            .collect();
        let handles = workers.iter().map(|worker| worker.thread().clone()).collect();
        ThreadPool { shared, workers, handles }
    }

    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(0)`, …, `task(tasks - 1)`, each once, on any thread, and returns when all have
    /// returned. Panics when one of them did.
    ///
    /// `&mut self`: one kernel at a time.
    pub fn run(&mut self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() || tasks <= 1 {
            return (0..tasks).for_each(task);
        }
        let job = Job { task, next: AtomicUsize::new(0), tasks, panicked: AtomicBool::new(false) };
        let shared = &*self.shared;
        shared.busy.store(self.workers.len(), Ordering::Relaxed);
        shared.job.store((&raw const job).cast_mut().cast(), Ordering::Relaxed);
        // Sequentially consistent against `work`: either the worker sees the new generation before
        // it sleeps, or this thread sees that it sleeps.
        shared.generation.fetch_add(1, Ordering::SeqCst);
        for (sleeping, handle) in shared.sleeping.iter().zip(&self.handles) {
            if sleeping.load(Ordering::SeqCst) {
                handle.unpark();
            }
        }
        job.work();
        let mut spins = 0_u32;
        while shared.busy.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < 10_000 { hint::spin_loop() } else { thread::yield_now() }
        }
        assert!(!job.panicked.load(Ordering::Relaxed), "a kernel task panicked");
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for handle in &self.handles {
            handle.unpark();
        }
        for worker in self.workers.drain(..) {
            // A worker's panic was reported by `run`.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPool").field("threads", &self.threads()).finish()
    }
}

impl Job<'_> {
    fn work(&self) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.tasks {
                return;
            }
            let call = std::panic::AssertUnwindSafe(|| (self.task)(index));
            if std::panic::catch_unwind(call).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
        }
    }
}

fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        let Some(generation) = next_generation(shared, index, seen) else { return };
        seen = generation;
        // SAFETY: `run` keeps the job alive until `busy` is zero, and this worker takes part in
        // `busy` until the store below; it sees the pointer because it saw the generation.
        let job = unsafe { &*shared.job.load(Ordering::Relaxed) };
        job.work();
        shared.busy.fetch_sub(1, Ordering::Release);
    }
}

/// Waits for a generation other than `seen`; `None` when the pool is dropped.
fn next_generation(shared: &Shared, index: usize, seen: usize) -> Option<usize> {
    let begin = Instant::now();
    let mut spins = 0_u32;
    loop {
        let generation = shared.generation.load(Ordering::SeqCst);
        if generation != seen {
            return Some(generation);
        }
        if shared.stop.load(Ordering::Relaxed) {
            return None;
        }
        spins += 1;
        if !spins.is_multiple_of(64) || begin.elapsed() < SPIN {
            hint::spin_loop();
            continue;
        }
        shared.sleeping[index].store(true, Ordering::SeqCst);
        while shared.generation.load(Ordering::SeqCst) == seen
            && !shared.stop.load(Ordering::SeqCst)
        {
            thread::park();
        }
        shared.sleeping[index].store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_with_any_number_of_threads() {
        for threads in 1..=4 {
            let mut pool = ThreadPool::new(threads);
            for tasks in [0, 1, 2, 7, 1000] {
                let ran: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|index| {
                    ran[index].fetch_add(1, Ordering::Relaxed);
                });
                assert!(ran.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_panicking_task_is_reported_and_the_pool_goes_on() {
        let mut pool = ThreadPool::new(2);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(8, &|index| assert_ne!(index, 3, "on purpose"));
        }));
        assert!(outcome.is_err());
        pool.run(8, &|_| {});
    }
}
