//! One run: a workload at one or several targets at the same time.

mod pacer;
mod records;
mod transcript;
mod worker;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize},
    thread,
    time::{Duration, Instant},
};

use baton_workload::{ArrivalCheck, ArrivalVerdict};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use self::pacer::sleep_until;
use self::{pacer::Job, worker::Worker};
pub(crate) use self::{
    records::Records,
    transcript::{Transcript, Verdict},
    worker::Health,
};
use crate::{
    measure::{Recorder, Window},
    prompt::Speaker,
    schedule::{Load, Workload},
    slo::Objectives,
    target::{Access, Asking, Failure, Target, TargetSpec},
};

/// Sessions that wait for a worker.
const WAITING: usize = 1 << 14;
/// From the start of the threads to the run's begin.
const READY: Duration = Duration::from_millis(50);

/// One of the targets, with how it is spoken to.
#[derive(Debug)]
pub(crate) struct Side {
    pub name: String,
    pub recipe: Recipe,
    pub speaker: Speaker,
    /// Keeps what is said.
    pub transcript: Option<Arc<Transcript>>,
    pub in_flight: AtomicUsize,
}

/// What it takes to make a target. Each thread has its own, with its own connections.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub spec: TargetSpec,
    pub access: Access,
    pub asking: Asking,
    /// Of all threads together.
    pub connections: usize,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("threads can't be started: {0}")]
    Threads(#[from] io::Error),
    #[error("{name}: {failure}")]
    Target { name: String, failure: Failure },
}

impl Recipe {
    /// Within the runtime that is to ask.
    fn target(&self, threads: usize) -> Result<Target, RunError> {
        let connections = self.connections.div_ceil(threads);
        Target::new(&self.spec, &self.access, self.asking.clone(), connections)
            .map_err(|failure| RunError::Target { name: self.spec.name.clone(), failure })
    }
}

/// What the router calls a class; and what its requests are to be served in.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    pub name: Option<Arc<str>>,
    pub objectives: Objectives,
}

/// How a workload is run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub workload: Workload,
    pub classes: Arc<[Class]>,
    pub window: Window,
    pub threads: usize,
    /// At one target.
    pub most_in_flight: usize,
    pub records: Option<Arc<Records>>,
    /// Requests' names begin with it.
    pub name: String,
}

/// A run that goes on.
#[derive(Debug)]
pub(crate) struct Run {
    pub begin: Instant,
    workers: Vec<Arc<Worker>>,
    threads: Vec<thread::JoinHandle<()>>,
    ticker: thread::JoinHandle<()>,
    pacer: thread::JoinHandle<Option<ArrivalVerdict>>,
    ticking: CancellationToken,
    /// Users wait for each other: there are no sessions to wait for.
    is_closed: bool,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Ran {
    /// By side.
    pub recorders: Vec<Recorder>,
    pub health: Health,
    /// Whether requests came as they were to come; nothing where users wait for each other.
    pub arrivals: Option<ArrivalVerdict>,
    pub took: Duration,
}

impl Run {
    /// Begins. Cancelling `stop` ends it at once; what has come by then counts.
    ///
    /// # Errors
    ///
    /// Threads or runtimes can't be had.
    pub(crate) fn start(
        settings: &Settings,
        sides: &Arc<[Side]>,
        stop: &CancellationToken,
    ) -> Result<Self, RunError> {
        let begin = Instant::now() + READY;
        let Settings { workload, classes, threads, .. } = settings;
        let objectives: Arc<[Objectives]> = classes.iter().map(|class| class.objectives).collect();
        let recorder = || Mutex::new(Recorder::new(Arc::clone(&objectives), settings.window));
        let schedules: Vec<_> =
            sides.iter().map(|_| Arc::new(Mutex::new(workload.schedule()))).collect();
        let (mut workers, mut senders, mut handles) = (Vec::new(), Vec::new(), Vec::new());
        let count = (*threads).max(1);
        for nth in 0..count {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let entered = runtime.enter();
            let targets =
                sides.iter().map(|side| side.recipe.target(count)).collect::<Result<_, _>>()?;
            drop(entered);
            let worker = Arc::new(Worker {
                begin,
                targets,
                sides: Arc::clone(sides),
                classes: Arc::clone(classes),
                recorders: sides.iter().map(|_| recorder()).collect(),
                health: Mutex::default(),
                records: settings.records.clone(),
                most_in_flight: settings.most_in_flight,
                window: settings.window,
                run: settings.name.clone(),
                seed: workload.seed,
                stop: stop.clone(),
            });
            let (sender, jobs) = mpsc::channel(WAITING);
            let users = worker::share(&workload.load, nth as u32, count as u32);
            let (playing, schedules, until) =
                (Arc::clone(&worker), schedules.clone(), workload.duration);
            let spawned = thread::Builder::new().name(format!("load-{nth}")).spawn(move || {
                runtime.block_on(async {
                    let work = Arc::clone(&playing).work(jobs);
                    let Some(users) = users else { return work.await };
                    let ticks = async {
                        work.await;
                        std::future::pending::<()>().await;
                    };
                    let users = Arc::clone(&playing).users(users, schedules, until);
                    tokio::select! { () = ticks => {}, () = users => {} }
                });
                let busy = thread_cpu();
                playing.health().cpu = busy.as_secs_f64() / begin.elapsed().as_secs_f64().max(1e-9);
            })?;
            workers.push(worker);
            senders.push(sender);
            handles.push(spawned);
        }
        let ticking = CancellationToken::new();
        let (to, ticks) = (senders.clone(), ticking.clone());
        let ticker = thread::Builder::new()
            .name("load-tick".to_owned())
            .spawn(move || pacer::tick(&to, &ticks))?;
        let pacer = pacer(workload, begin, senders, stop)?;
        let is_closed = matches!(workload.load, Load::Closed { .. });
        Ok(Run { begin, workers, threads: handles, ticker, pacer, ticking, is_closed })
    }

    /// Whether it has ended by itself.
    pub(crate) fn is_over(&self) -> bool {
        let is_paced = self.pacer.is_finished();
        // Workers that hear of nobody any more end when their last answer is there.
        if is_paced && !self.is_closed {
            self.ticking.cancel();
        }
        is_paced && self.threads.iter().all(thread::JoinHandle::is_finished)
    }

    /// What there is so far, by side.
    pub(crate) fn so_far(&self) -> Vec<Recorder> {
        let sides = self.workers[0].recorders.len();
        (0..sides).map(|side| self.recorder(side)).collect()
    }

    pub(crate) fn health(&self) -> Health {
        let mut all = Health::default();
        self.workers.iter().for_each(|worker| all.add(&worker.health()));
        all
    }

    fn recorder(&self, side: usize) -> Recorder {
        let of = |worker: &Arc<Worker>| {
            worker.recorders[side].lock().unwrap_or_else(PoisonError::into_inner).clone()
        };
        let mut all = of(&self.workers[0]);
        self.workers[1..].iter().for_each(|worker| all.add(of(worker)));
        all
    }

    /// Waits for its end.
    pub(crate) fn join(self) -> Ran {
        let arrivals = self.pacer.join().unwrap_or_default();
        let Run { workers, threads, begin, ticking, ticker, is_closed, .. } = self;
        if !is_closed {
            ticking.cancel();
        }
        for thread in threads {
            let _ = thread.join();
        }
        ticking.cancel();
        let _ = ticker.join();
        let took = begin.elapsed();
        let (mut recorders, mut health) = (Vec::new(), Health::default());
        for worker in workers {
            health.add(&worker.health());
            for (side, recorder) in worker.recorders.iter().enumerate() {
                let recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner).clone();
                match recorders.get_mut(side) {
                    None => recorders.push(recorder),
                    Some(all) => Recorder::add(all, recorder),
                }
            }
        }
        Ran { recorders, health, arrivals, took }
    }
}

fn pacer(
    workload: &Workload,
    begin: Instant,
    senders: Vec<mpsc::Sender<Job>>,
    stop: &CancellationToken,
) -> io::Result<thread::JoinHandle<Option<ArrivalVerdict>>> {
    let (workload, stop) = (workload.clone(), stop.clone());
    let pace = move || {
        let mut check = match &workload.load {
            // Users come when they are free; the senders stay until they are.
            Load::Closed { .. } => return None,
            Load::Open(arrivals) => ArrivalCheck::new(arrivals),
            Load::Replay { .. } => ArrivalCheck::unclaimed(workload.rate().unwrap_or(1.0)),
        };
        pacer::pace(workload.schedule(), begin, &senders, &stop, |due| check.arrived(due));
        Some(check.verdict())
    };
    thread::Builder::new().name("load-pace".to_owned()).spawn(pace)
}

/// What this thread has had of a core.
fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
