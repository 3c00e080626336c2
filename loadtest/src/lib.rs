//! A load test of language model servers against latency objectives.
//!
//! # From when does a latency count?
//!
//! From when its request was due, by the schedule, and not from when it was sent: a client that falls behind because the
//! server does would leave out the very requests that suffer ("coordinated omission"). By how much the client itself was
//! late is measured and said.
//!
//! # How much does it keep?
//!
//! Histograms, and slices of the run whose number is bounded; the same for a minute and for a week. Only answers that are
//! to be compared with others ([`chaos`]) are kept whole.

mod args;
mod chaos;
mod drive;
mod heard;
mod live;
mod measure;
mod outcome;
mod plan;
mod prepare;
mod prompt;
pub mod report;
mod run;
mod schedule;
mod search;
mod slo;
mod target;

use std::{fs::OpenOptions, path::Path, process::ExitCode};

use tokio_util::sync::CancellationToken;

pub use self::args::LoadArgs;
use self::{
    drive::{DriveError, Driven},
    plan::{Plan, PlanError},
    prepare::PrepareError,
    report::{Report, gate},
};

/// Exit statuses, for those who run it unattended.
mod status {
    pub(crate) const MISSED: u8 = 1;
    pub(crate) const ARGUMENTS: u8 = 2;
    pub(crate) const TARGET: u8 = 3;
    pub(crate) const NOTHING_ANSWERED: u8 = 4;
    pub(crate) const INTERRUPTED: u8 = 130;
}

#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Drive(#[from] DriveError),
    #[error("{path}: {source}")]
    Output { path: String, source: std::io::Error },
    #[error("the baseline can't be compared with: {0}")]
    Baseline(#[from] gate::BaselineError),
}

/// Measures, reports, and says with its exit status how it went.
#[expect(clippy::print_stderr, reason = "a command line tool speaks there")]
pub fn load(args: &LoadArgs) -> ExitCode {
    match measure(args) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(match &error {
                LoadError::Plan(_) | LoadError::Baseline(_) | LoadError::Output { .. } => {
                    status::ARGUMENTS
                }
                LoadError::Prepare(PrepareError::Words(_) | PrepareError::Tokenizer { .. }) => {
                    status::ARGUMENTS
                }
                LoadError::Prepare(_) | LoadError::Drive(_) => status::TARGET,
            })
        }
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool speaks there")]
fn measure(args: &LoadArgs) -> Result<u8, LoadError> {
    let plan = Plan::new(args)?;
    if let Some(baseline) = &plan.baseline {
        let offered = plan.describe(args, plan.window(&plan.workload)?);
        gate::check_comparable(baseline, &offered, args.targets.len())?;
    }
    let outputs = [&args.results.json, &args.results.csv, &args.results.html];
    // Nobody wants to hear of it after an hour.
    for path in outputs.into_iter().flatten() {
        // What is there stays until there is something better.
        let open = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        open.map_err(|source| output(path, source))?;
    }
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(DriveError::Threads)?;
    let (ready, remarks) = runtime.block_on(prepare::prepare(args, &plan))?;
    for remark in &remarks {
        eprintln!("note: {}", remark.0);
    }
    let stop = CancellationToken::new();
    watch_interrupt(&stop).map_err(DriveError::Threads)?;
    let Driven { mut report, goals } = drive::drive(args, &plan, &ready, &stop)?;
    report.checks = checks(args, &plan, &report, &goals);
    let write =
        |path: &Path, text: &str| std::fs::write(path, text).map_err(|source| output(path, source));
    if let Some(path) = &args.results.json {
        write(path, &report.json())?;
    }
    if let Some(path) = &args.results.html {
        write(path, &report::html::page(&report))?;
    }
    print!("{}", report::table(&report));
    Ok(status_of(&report))
}

fn output(path: &Path, source: std::io::Error) -> LoadError {
    LoadError::Output { path: path.display().to_string(), source }
}

type Goals = [(Option<String>, slo::Goal)];

fn checks(
    args: &LoadArgs,
    plan: &Plan,
    report: &Report,
    goals: &Goals,
) -> Vec<report::CheckReport> {
    let mut checks = Vec::new();
    for (class, goal) in goals {
        checks.extend(gate::check_goal(*goal, class.as_deref(), report));
    }
    for assertion in &args.goals.asserts {
        checks.extend(assertion.check(report));
    }
    if let Some(baseline) = &plan.baseline {
        checks.extend(gate::check_baseline(baseline, report, args.goals.tolerance / 100.0));
    }
    checks
}

fn status_of(report: &Report) -> u8 {
    let answered: u64 = report.targets.iter().map(|target| target.completed).sum();
    if report.interrupted {
        status::INTERRUPTED
    } else if answered == 0 {
        status::NOTHING_ANSWERED
    } else if !report.passed() {
        status::MISSED
    } else {
        0
    }
}

/// The first time ends the run, the second the process.
fn watch_interrupt(stop: &CancellationToken) -> std::io::Result<()> {
    let stop = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("load-stop".to_owned()).spawn(move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                if stop.is_cancelled() {
                    std::process::exit(status::INTERRUPTED.into());
                }
                stop.cancel();
            }
        });
    })?;
    Ok(())
}

/// Each answer on its way over HTTP is a connection.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where it may not be raised, connections fail, and say so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
