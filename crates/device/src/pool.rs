//! A few threads that run the parts of one kernel.
//!
//! # Whom does a kernel wait for?
//!
//! For its tasks, never for a thread: a worker that the system hasn't scheduled yet has claimed
//! nothing and is not missed. On a machine with more to do than cores, a kernel is then as fast as
//! the threads that do run.

use std::{
    fmt, hint,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

use crate::pin::{PinError, cores_for, pin};

/// How long a worker looks for the next kernel before it sleeps. Kernels of one step follow each
/// other within a few microseconds; between steps an idle node must use no CPU.
const SPIN: Duration = Duration::from_micros(50);

/// Runs closures over task numbers on a fixed set of threads, the caller among them.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    handles: Vec<Thread>,
    /// Kernels run so far.
    kernels: u64,
    /// The caller's core, until its first kernel has brought it there.
    callers_core: Option<usize>,
}

/// Bits of a ticket that count tasks.
const TASK_BITS: u32 = 24;
/// The task number of a kernel that isn't open: above every kernel's tasks.
const CLOSED: u64 = (1 << TASK_BITS) - 1;

struct Shared {
    /// `kernel << TASK_BITS | next task to claim`. Never the same twice, for kernels only go up.
    ticket: AtomicU64,
    /// Of the kernel in `ticket`. Both change only while the ticket says [`CLOSED`].
    job: AtomicPtr<Job<'static>>,
    tasks: AtomicU64,
    done: Done,
    sleeping: Box<[AtomicBool]>,
    stop: AtomicBool,
}

/// Tasks of the current kernel that have returned; on a cache line of its own.
#[repr(align(64))]
struct Done(AtomicUsize);

struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    panicked: AtomicBool,
}

impl ThreadPool {
    /// A pool of `threads` threads, the caller of [`ThreadPool::run`] counted.
    pub fn new(threads: usize) -> Self {
        Self::on(threads, &[])
    }

    /// The same, each thread on a core of its own; the caller from its first kernel on.
    ///
    /// # Errors
    ///
    /// This process may use fewer cores.
    pub fn pinned(threads: usize) -> Result<Self, PinError> {
        Ok(Self::on(threads, &cores_for(threads.max(1))?))
    }

    /// On these cores; on any, if there are none.
    fn on(threads: usize, cores: &[usize]) -> Self {
        let extra = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            ticket: AtomicU64::new(CLOSED),
            job: AtomicPtr::new(std::ptr::null_mut()),
            tasks: AtomicU64::new(0),
            done: Done(AtomicUsize::new(0)),
            sleeping: (0..extra).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
        });
        let workers: Vec<_> = (0..extra)
            .map(|index| {
                let shared = Arc::clone(&shared);
                let core = cores.get(index + 1).copied();
                thread::Builder::new()
                    .name(format!("kernel-{}", index + 1))
                    .spawn(move || {
                        if let Some(core) = core {
                            pin(core);
                        }
                        shared.work(index);
                    })
                    .expect("the system starts a thread")
            })
            .collect();
        let handles = workers.iter().map(|worker| worker.thread().clone()).collect();
        let callers_core = cores.first().copied();
        ThreadPool { shared, workers, handles, kernels: 0, callers_core }
    }

    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(0)`, …, `task(tasks - 1)`, each once, on any thread, and returns when all have
    /// returned. Panics when one of them did.
    ///
    /// `&mut self`: one kernel at a time.
    pub fn run(&mut self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if let Some(core) = self.callers_core.take() {
            pin(core);
        }
        if self.workers.is_empty() || tasks <= 1 {
            return (0..tasks).for_each(task);
        }
        assert!((tasks as u64) < CLOSED, "{tasks} tasks; at most {} in one kernel", CLOSED - 1);
        let job = Job { task, panicked: AtomicBool::new(false) };
        self.open(tasks, &job);
        self.shared.claim_all();
        let mut spins = 0_u32;
        while self.shared.done.0.load(Ordering::Acquire) != tasks {
            spins += 1;
            if spins < 10_000 { hint::spin_loop() } else { thread::yield_now() }
        }
        assert!(!job.panicked.load(Ordering::Relaxed), "a kernel task panicked");
    }

    /// Lets everybody claim tasks of `job`, and wakes who sleeps.
    fn open(&mut self, tasks: usize, job: &Job<'_>) {
        let shared = &*self.shared;
        self.kernels += 1;
        let kernel = self.kernels << TASK_BITS;
        // Who still looks at the last kernel's ticket can't claim from here on, so that nobody
        // takes this kernel's job for that one's. Releases: whoever sees a field below has to see
        // this store too, and its claim fails.
        shared.ticket.store(kernel | CLOSED, Ordering::Relaxed);
        shared.job.store((&raw const *job).cast_mut().cast(), Ordering::Release);
        shared.tasks.store(tasks as u64, Ordering::Release);
        shared.done.0.store(0, Ordering::Relaxed);
        // Sequentially consistent against `wait`: either the worker sees the open ticket before it
        // sleeps, or this thread sees that it sleeps.
        shared.ticket.store(kernel, Ordering::SeqCst);
        for (sleeping, handle) in shared.sleeping.iter().zip(&self.handles) {
            if sleeping.load(Ordering::SeqCst) {
                handle.unpark();
            }
        }
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

impl Shared {
    /// A worker's life.
    fn work(&self, index: usize) {
        loop {
            self.claim_all();
            if !self.wait(index) {
                return;
            }
        }
    }

    /// Runs tasks of the open kernel until none is left.
    fn claim_all(&self) {
        let mut ticket = self.ticket.load(Ordering::Acquire);
        loop {
            let (index, tasks) = (ticket & CLOSED, self.tasks.load(Ordering::Acquire));
            if index >= tasks {
                return;
            }
            let job = self.job.load(Ordering::Acquire);
            let claim = self.ticket.compare_exchange_weak(
                ticket,
                ticket + 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            match claim {
                Err(now) => ticket = now,
                Ok(_) => {
                    // SAFETY: the ticket was the same when the job was loaded and when it was
                    // claimed, and tickets never come again: job and task belong to the open
                    // kernel. `run` keeps its job alive until all its tasks are done, and this one
                    // isn't before the addition below.
                    let job = unsafe { &*job };
                    job.call(index as usize);
                    self.done.0.fetch_add(1, Ordering::Release);
                    ticket = self.ticket.load(Ordering::Acquire);
                }
            }
        }
    }

    /// Whether there is a task to claim, or the pool is dropped.
    fn is_called(&self) -> bool {
        let next = self.ticket.load(Ordering::SeqCst) & CLOSED;
        next < self.tasks.load(Ordering::Relaxed) || self.stop.load(Ordering::SeqCst)
    }

    /// Waits for a task to claim; false when the pool is dropped.
    fn wait(&self, index: usize) -> bool {
        let begin = Instant::now();
        let mut spins = 0_u32;
        while !self.is_called() {
            spins += 1;
            if !spins.is_multiple_of(64) || begin.elapsed() < SPIN {
                hint::spin_loop();
                continue;
            }
            self.sleeping[index].store(true, Ordering::SeqCst);
            while !self.is_called() {
                thread::park();
            }
            self.sleeping[index].store(false, Ordering::SeqCst);
        }
        !self.stop.load(Ordering::Relaxed)
    }
}

impl Job<'_> {
    fn call(&self, index: usize) {
        let call = std::panic::AssertUnwindSafe(|| (self.task)(index));
        if std::panic::catch_unwind(call).is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Mutex};

    use super::*;
    use crate::pin::allowed;

    #[test]
    fn each_thread_has_a_core_if_it_is_to() {
        let cores = allowed().expect("the system tells");
        let threads = cores.len().min(3);
        let mut pool = ThreadPool::pinned(threads).expect("there are so many cores");
        let seen: Mutex<BTreeMap<String, Vec<usize>>> = Mutex::default();
        // Whoever has no task yet takes the next.
        while seen.lock().unwrap().len() < threads {
            pool.run(threads, &|_| {
                let name = format!("{:?}", thread::current().id());
                seen.lock().unwrap().insert(name, allowed().unwrap());
                thread::yield_now();
            });
        }
        let mut seen: Vec<_> = seen.into_inner().unwrap().into_values().collect();
        seen.sort();
        assert_eq!(seen, cores[..threads].iter().map(|&core| vec![core]).collect::<Vec<_>>());
        assert!(matches!(ThreadPool::pinned(100_000), Err(PinError::Cores { .. })));
    }

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

    /// Kernels in quick succession, each with its own data on the caller's stack: a worker that is
    /// late for one must not run it with the next one's data, or twice.
    #[test]
    fn late_workers_never_mix_kernels_up() {
        let mut pool = ThreadPool::new(4);
        for kernel in 0..20_000_usize {
            let tasks = 2 + kernel % 5;
            let ran: [AtomicUsize; 6] = Default::default();
            pool.run(tasks, &|index| {
                ran[index].fetch_add(kernel + 1, Ordering::Relaxed);
            });
            for (index, ran) in ran.iter().enumerate() {
                let expected = if index < tasks { kernel + 1 } else { 0 };
                assert_eq!(ran.load(Ordering::Relaxed), expected);
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
