//! What is run, in which order: one run, a curve, a search, or a run with faults and its reference.

use std::{
    io,
    sync::{Arc, atomic::AtomicUsize},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use baton_workload::ArrivalVerdict;
use tokio_util::sync::CancellationToken;

use crate::{
    args::{LoadArgs, ReferenceRun},
    chaos,
    live::Live,
    measure::{Estimate, Recorder, Window},
    plan::{Plan, PlanError},
    prepare::Ready,
    report::{
        CapacityReport, ChaosReport, ClientReport, FORMAT, FaultReport, RateReport, Report,
        TargetReport, about_client, about_target,
    },
    run::{Ran, Recipe, Records, Run, RunError, Settings, Side, Transcript},
    schedule::Workload,
    search::{Found, Probe, Search, SearchConfig},
    slo::{Goal, Quantile},
};

/// What came of everything.
#[derive(Debug)]
pub(crate) struct Driven {
    pub(crate) report: Report,
    pub(crate) goals: Vec<(Option<String>, Goal)>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DriveError {
    #[error("threads can't be started: {0}")]
    Threads(io::Error),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("the file of requests can't be written: {0}")]
    Records(io::Error),
    #[error(transparent)]
    Plan(#[from] PlanError),
}

struct Driver<'a> {
    args: &'a LoadArgs,
    plan: &'a Plan,
    ready: &'a [Ready],
    stop: &'a CancellationToken,
    records: Option<Arc<Records>>,
    live: Live,
    /// So many runs were made, for their requests' names.
    runs: u32,
}

/// One run's outcome for the report.
struct Measured {
    targets: Vec<TargetReport>,
    client: ClientReport,
    arrivals: Option<ArrivalVerdict>,
    window: Window,
}

/// How a run differs from the plan.
#[derive(Clone, Default)]
struct Variation {
    rate: Option<f64>,
    /// Another schedule of the same kind.
    nth: u32,
    title: String,
    transcripts: Vec<Arc<Transcript>>,
}

pub(crate) fn drive(
    args: &LoadArgs,
    plan: &Plan,
    ready: &[Ready],
    stop: &CancellationToken,
) -> Result<Driven, DriveError> {
    let records = args.results.csv.as_deref().map(Records::create).transpose();
    let records = records.map_err(DriveError::Records)?.map(Arc::new);
    let live = Live::new(!args.results.no_live, stop);
    let mut driver = Driver { args, plan, ready, stop, records, live, runs: 0 };
    let began_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let all: Vec<usize> = (0..ready.len()).collect();
    let (mut capacity, mut chaos) = (Vec::new(), None);
    let measured = if args.goals.find_capacity || !args.goals.rates.is_empty() {
        let (found, measured) = driver.curves()?;
        capacity = found;
        measured
    } else if args.faults.chaos.is_empty() {
        driver
            .measure(&all, &Variation { title: "measuring".to_owned(), ..Variation::default() })?
    } else {
        let (report, measured) = driver.with_faults(&all)?;
        chaos = Some(report);
        measured
    };
    driver.live.close();
    if let Some(records) = &driver.records {
        let wrong = |error: csv::Error| DriveError::Records(io::Error::other(error));
        records.finish().map_err(wrong)?;
    }
    let Measured { targets, client, arrivals, window } = measured;
    let report = Report {
        format: FORMAT.to_owned(),
        began_at,
        command: command(std::env::args()),
        workload: plan.describe(args, window),
        arrivals,
        client,
        targets,
        capacity,
        chaos,
        checks: Vec::new(),
        interrupted: stop.is_cancelled(),
    };
    Ok(Driven { report, goals: plan.goals.clone() })
}

impl Driver<'_> {
    /// One run at these targets, side by side, to its end.
    fn measure(&mut self, which: &[usize], variation: &Variation) -> Result<Measured, DriveError> {
        let (settings, sides) = self.prepare(which, variation)?;
        let run = Run::start(&settings, &sides, self.stop)?;
        self.live.begin(&variation.title, &sides, settings.window);
        while !run.is_over() {
            self.live.look(&run);
        }
        Ok(self.measured(which, &settings, run.join()))
    }

    fn prepare(
        &mut self,
        which: &[usize],
        variation: &Variation,
    ) -> Result<(Settings, Arc<[Side]>), DriveError> {
        let workload = match variation.rate {
            None => self.plan.workload.clone(),
            Some(rate) => self.plan.workload.at_rate(rate),
        };
        // Golden ratio's bits: seeds that users pick are near each other.
        let seed = workload.seed ^ u64::from(variation.nth).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let workload = Workload { seed, ..workload };
        let window = self.plan.window(&workload)?;
        self.runs += 1;
        let settings = Settings {
            workload,
            classes: Arc::clone(&self.plan.classes),
            window,
            threads: self.args.connections.threads,
            most_in_flight: self.args.connections.max_in_flight,
            records: self.records.clone(),
            name: format!("load-{:x}-{}", std::process::id(), self.runs),
        };
        let sides = which
            .iter()
            .enumerate()
            .map(|(place, index)| self.side(*index, variation.transcripts.get(place)))
            .collect();
        Ok((settings, sides))
    }

    fn side(&self, index: usize, transcript: Option<&Arc<Transcript>>) -> Side {
        let Ready { spec, asking, speaker } = &self.ready[index];
        let recipe = Recipe {
            spec: spec.clone(),
            access: self.plan.access.clone(),
            asking: asking.clone(),
            connections: self.args.connections.connections,
        };
        Side {
            name: spec.name.clone(),
            recipe,
            speaker: speaker.clone(),
            transcript: transcript.cloned(),
            in_flight: AtomicUsize::new(0),
        }
    }

    fn measured(&self, which: &[usize], settings: &Settings, ran: Ran) -> Measured {
        let Ran { mut recorders, health, arrivals, took } = ran;
        // Unless it was to be longer, it ended when it was to end.
        let is_open_ended = settings.window.to == Duration::MAX;
        if self.stop.is_cancelled() || is_open_ended {
            recorders.iter_mut().for_each(|recorder| recorder.close(took));
        }
        let window = recorders[0].window();
        let target = |(index, recorder): (&usize, &Recorder)| {
            let Ready { spec, asking, .. } = &self.ready[*index];
            let classes = &settings.classes;
            let protocol = spec.protocol.to_string();
            about_target(
                &spec.name,
                &protocol,
                &asking.model,
                recorder,
                classes,
                settings.workload.seed,
            )
        };
        let targets: Vec<_> = which.iter().zip(&recorders).map(target).collect();
        let not_sent = targets.iter().map(|target| target.not_sent).sum();
        let client = about_client(&health, settings.threads, not_sent);
        Measured { targets, client, arrivals, window }
    }
}

/// Several rates.
impl Driver<'_> {
    /// A curve of each target, with its capacity if that is looked for; and each target by itself at the highest rate that
    /// was enough.
    fn curves(&mut self) -> Result<(Vec<CapacityReport>, Measured), DriveError> {
        let goals = &self.args.goals;
        let config = SearchConfig {
            wanted: goals.wanted / 100.0,
            precision: goals.precision / 100.0,
            first: self.first_rate(),
            most: goals.repeats.max(2),
            ..SearchConfig::default()
        };
        let mut curves: Vec<Curve> = self.ready.iter().map(|_| Curve::new(config)).collect();
        for rate in goals.rates.clone() {
            for (index, curve) in curves.iter_mut().enumerate() {
                self.try_rate(index, curve, rate, 0)?;
            }
        }
        while goals.find_capacity && !self.stop.is_cancelled() {
            let mut is_done = true;
            // In turn, so that whatever else the machine does hits them alike.
            for (index, curve) in curves.iter_mut().enumerate() {
                if let Some(probe) = curve.search.next() {
                    is_done = false;
                    self.try_rate(index, curve, probe.rate, probe.nth)?;
                }
            }
            if is_done {
                break;
            }
        }
        let mut all: Option<Measured> = None;
        let mut reports = Vec::new();
        for (index, curve) in curves.iter_mut().enumerate() {
            let found = curve.search.found();
            let rate = found.low.or(found.high).unwrap_or(config.first);
            let name = &self.ready[index].spec.name;
            reports.push(curve.report(name, &found, &config, goals.find_capacity));
            let title = format!("{name} at {rate:.3} requests/s");
            // Who was told to end has what there is.
            let made = if self.stop.is_cancelled() { curve.take(rate) } else { None };
            let nth = u32::MAX;
            let variation = Variation { rate: Some(rate), nth, title, ..Variation::default() };
            let measured =
                made.map_or_else(|| self.measure(&[index], &variation), Ok::<_, DriveError>)?;
            match &mut all {
                None => all = Some(measured),
                Some(all) => {
                    all.targets.extend(measured.targets);
                    all.client.saturated =
                        all.client.saturated.take().or(measured.client.saturated);
                }
            }
        }
        let measured = all.expect("there is at least one target");
        Ok((reports, measured))
    }

    fn try_rate(
        &mut self,
        index: usize,
        curve: &mut Curve,
        rate: f64,
        nth: u32,
    ) -> Result<(), DriveError> {
        if self.stop.is_cancelled() {
            return Ok(());
        }
        let title =
            format!("{} at {rate:.3} requests/s, run {}", self.ready[index].spec.name, nth + 1);
        let variation = Variation { rate: Some(rate), nth, title, ..Variation::default() };
        let measured = self.measure(&[index], &variation)?;
        if self.stop.is_cancelled() {
            return Ok(());
        }
        let target = &measured.targets[0];
        self.live.say(&format!(
            "{} at {rate:.3} requests/s: {:.1} % in time{}",
            target.name,
            100.0 * target.attainment.value,
            if measured.client.saturated.is_some() {
                ", but the client may be the bottleneck"
            } else {
                ""
            }
        ));
        curve.tell(rate, nth, measured);
        Ok(())
    }

    fn first_rate(&self) -> f64 {
        self.plan.workload.rate().unwrap_or(1.0)
    }
}

/// What is known of a target at several rates.
struct Curve {
    search: Search,
    points: Vec<Point>,
}

struct Point {
    rate: f64,
    runs: Vec<Measured>,
}

impl Measured {
    /// The target of a run that had one.
    fn target(&self) -> &TargetReport {
        &self.targets[0]
    }
}

impl Curve {
    fn new(config: SearchConfig) -> Self {
        Curve { search: Search::new(config), points: Vec::new() }
    }

    fn tell(&mut self, rate: f64, nth: u32, measured: Measured) {
        self.search.told(Probe { rate, nth }, measured.target().attainment.value);
        match self.points.iter_mut().find(|point| point.rate == rate) {
            Some(point) => point.runs.push(measured),
            None => self.points.push(Point { rate, runs: vec![measured] }),
        }
    }

    /// A run at this rate that was made already.
    fn take(&mut self, rate: f64) -> Option<Measured> {
        self.points.iter_mut().find(|point| point.rate == rate)?.runs.pop()
    }

    fn report(
        &self,
        target: &str,
        found: &Found,
        config: &SearchConfig,
        is_search: bool,
    ) -> CapacityReport {
        let mut curve: Vec<RateReport> = self.points.iter().map(Point::report).collect();
        curve.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        CapacityReport {
            target: target.to_owned(),
            wanted: config.wanted,
            low: found.low,
            high: found.high,
            statement: if is_search { found.statement(config) } else { String::new() },
            curve,
        }
    }
}

impl Point {
    fn report(&self) -> RateReport {
        let targets = || self.runs.iter().map(Measured::target);
        let attainments: Vec<f64> = targets().map(|target| target.attainment.value).collect();
        let baton_workload::Estimate { mean, half_width } =
            baton_workload::Estimate::of(&attainments);
        let interval = match half_width.is_finite() {
            true => Some((mean - half_width, mean + half_width)),
            false => self.runs[0].target().attainment.interval,
        };
        let latency = |of: fn(&TargetReport) -> Option<&crate::report::LatencyReport>,
                       quantile: Quantile| {
            let found: Vec<f64> =
                targets().filter_map(|target| Some(of(target)?.of.value(quantile))).collect();
            (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64)
        };
        let mean_of =
            |of: fn(&TargetReport) -> f64| targets().map(of).sum::<f64>() / self.runs.len() as f64;
        RateReport {
            rate: self.rate,
            attainment: Estimate { value: mean, interval },
            attainments,
            goodput: mean_of(|target| target.goodput.value),
            ttft_p50_ms: latency(|target| target.latencies.ttft.as_ref(), Quantile::P50),
            ttft_p99_ms: latency(|target| target.latencies.ttft.as_ref(), Quantile::P99),
            tpot_p50_ms: latency(|target| target.latencies.tpot.as_ref(), Quantile::P50),
            tpot_p99_ms: latency(|target| target.latencies.tpot.as_ref(), Quantile::P99),
            output_tokens_per_s: mean_of(|target| target.output_tokens_per_s),
            client_limited: self.runs.iter().any(|run| run.client.saturated.is_some()),
        }
    }
}

/// Faults.
impl Driver<'_> {
    fn with_faults(&mut self, which: &[usize]) -> Result<(ChaosReport, Measured), DriveError> {
        let transcripts = || which.iter().map(|_| Arc::<Transcript>::default()).collect::<Vec<_>>();
        let (references, said) = (transcripts(), transcripts());
        let faultless = Variation {
            title: "measuring without faults, as the reference".to_owned(),
            transcripts: references.clone(),
            ..Variation::default()
        };
        let order = self.args.faults.reference;
        if order == ReferenceRun::Before {
            // Its requests aren't those that are asked about.
            let records = self.records.take();
            self.measure(which, &faultless)?;
            self.records = records;
        }
        let variation = Variation {
            title: "measuring with faults".to_owned(),
            transcripts: said.clone(),
            ..Variation::default()
        };
        let (faults, measured) = self.measure_with_faults(which, &variation)?;
        if order == ReferenceRun::After {
            let records = self.records.take();
            self.measure(which, &faultless)?;
            self.records = records;
        }
        let is_compared = order != ReferenceRun::Never;
        let pairs = which.iter().zip(said.iter().zip(&references)).filter(|_| is_compared);
        let tokens = pairs
            .map(|(index, (said, reference))| {
                (self.ready[*index].spec.name.clone(), said.compare(reference))
            })
            .collect();
        Ok((ChaosReport { faults, tokens }, measured))
    }

    fn measure_with_faults(
        &mut self,
        which: &[usize],
        variation: &Variation,
    ) -> Result<(Vec<FaultReport>, Measured), DriveError> {
        let (settings, sides) = self.prepare(which, variation)?;
        let run = Run::start(&settings, &sides, self.stop)?;
        self.live.begin(&variation.title, &sides, settings.window);
        let over = self.stop.child_token();
        let faults = thread::scope(|scope| {
            let playing = scope.spawn(|| chaos::play(&self.args.faults.chaos, run.begin, &over));
            while !run.is_over() {
                self.live.look(&run);
            }
            // Nobody is left to be hurt by those that are to come.
            over.cancel();
            playing.join().unwrap_or_default()
        });
        Ok((faults, self.measured(which, &settings, run.join())))
    }
}

/// As it was called, without secrets.
fn command(args: impl Iterator<Item = String>) -> Vec<String> {
    let mut is_secret = false;
    args.map(|arg| {
        let shown = if is_secret { "…".to_owned() } else { arg.clone() };
        is_secret = arg == "--token";
        if arg.starts_with("--token=") { "--token=…".to_owned() } else { shown }
    })
    .collect()
}
