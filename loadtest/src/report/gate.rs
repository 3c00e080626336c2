//! What a run must reach, and what it must not lose against an earlier one: for whoever runs it unattended.

use std::{fmt, str::FromStr};

use baton_workload::parse_duration;

use super::{CheckReport, Report, TargetReport, WorkloadReport};
use crate::slo::{Goal, Latency, Quantile};

/// `ttft.p99<500ms`, `attainment>=95%`, `new:errors==0`.
#[derive(Clone, Debug, PartialEq)]
pub struct Assertion {
    given: String,
    /// Unset: each target's.
    target: Option<String>,
    figure: Figure,
    comparison: Comparison,
    limit: f64,
}

/// What can be asked of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    Latency(Latency, Quantile),
    Attainment,
    Goodput,
    OfferedRate,
    OutputTokensPerSecond,
    /// Requests that were refused, failed or not sent.
    Errors,
    /// The highest rate that was enough.
    Capacity,
    /// Answers with tokens lost, doubled or wrong.
    TokenFaults,
    /// 1 if the client may have been the bottleneck.
    Saturated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    AtMost,
    Equal,
    AtLeast,
    More,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} can't be asserted: {why}; write it like ttft.p99<500ms, attainment>=95%, errors==0, or goodput>=3.5"
)]
pub struct AssertionError {
    given: String,
    why: String,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BaselineError {
    #[error("it is no report of a load test: {0}")]
    Json(String),
    #[error("its format is {given:?}; this one reads {expected:?}")]
    Format { given: String, expected: &'static str },
    #[error(
        "it offered something else, so that nothing can be said: {what} was {before}, and is {now}"
    )]
    Workload { what: &'static str, before: String, now: String },
}

impl Figure {
    const NAMED: [(&'static str, Figure); 8] = [
        ("attainment", Figure::Attainment),
        ("goodput", Figure::Goodput),
        ("offered_rate", Figure::OfferedRate),
        ("output_tokens_per_s", Figure::OutputTokensPerSecond),
        ("errors", Figure::Errors),
        ("capacity", Figure::Capacity),
        ("token_faults", Figure::TokenFaults),
        ("saturated", Figure::Saturated),
    ];

    fn of(self, report: &Report, target: &TargetReport) -> Option<f64> {
        match self {
            Figure::Latency(latency, quantile) => {
                let found = target.latencies.of(latency)?;
                Some(found.of.value(quantile))
            }
            Figure::Attainment => Some(target.attainment.value),
            Figure::Goodput => Some(target.goodput.value),
            Figure::OfferedRate => Some(target.offered_rate),
            Figure::OutputTokensPerSecond => Some(target.output_tokens_per_s),
            Figure::Errors => Some((target.offered - target.completed) as f64),
            Figure::Capacity => {
                let found = report.capacity.iter().find(|found| found.target == target.name)?;
                found.low
            }
            Figure::TokenFaults => {
                let verdict = report.chaos.as_ref()?.tokens.get(&target.name)?;
                Some((verdict.lost + verdict.doubled + verdict.wrong) as f64)
            }
            Figure::Saturated => Some(f64::from(u8::from(report.client.saturated.is_some()))),
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Figure::Latency(..) => format!("{value:.2} ms"),
            Figure::Attainment => format!("{:.2} %", 100.0 * value),
            Figure::Goodput | Figure::OfferedRate | Figure::Capacity => {
                format!("{value:.3} requests/s")
            }
            Figure::OutputTokensPerSecond => format!("{value:.1} tokens/s"),
            Figure::Errors | Figure::TokenFaults | Figure::Saturated => format!("{value}"),
        }
    }
}

impl FromStr for Figure {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        if let Some((_, figure)) = Figure::NAMED.into_iter().find(|(name, _)| *name == given) {
            return Ok(figure);
        }
        let names = Figure::NAMED.map(|(name, _)| name).join(", ");
        let Some((latency, quantile)) = given.split_once('.') else {
            return Err(format!("{given:?} is none of {names}, nor like ttft.p99"));
        };
        Ok(Figure::Latency(latency.parse()?, quantile.parse()?))
    }
}

impl FromStr for Assertion {
    type Err = AssertionError;

    fn from_str(given: &str) -> Result<Self, AssertionError> {
        const SIGNS: [(&str, Comparison); 5] = [
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("==", Comparison::Equal),
            ("<", Comparison::Less),
            (">", Comparison::More),
        ];
        let wrong = |why: String| AssertionError { given: given.to_owned(), why };
        let found = SIGNS
            .iter()
            .find_map(|(sign, comparison)| Some((given.split_once(sign)?, *comparison)));
        let ((named, limit), comparison) = found.ok_or_else(|| {
            wrong("it compares nothing: there is none of <, <=, ==, >=, >".to_owned())
        })?;
        let (target, figure) = match named.trim().rsplit_once(':') {
            Some((target, figure)) => (Some(target.to_owned()), figure),
            None => (None, named.trim()),
        };
        let figure: Figure = figure.parse().map_err(wrong)?;
        let limit = limit.trim();
        let number =
            |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
        let limit = match (figure, limit.strip_suffix('%')) {
            (Figure::Latency(..), _) => {
                let limit = parse_duration(limit).map_err(|error| wrong(error.to_string()))?;
                Some(limit.as_secs_f64() * 1e3)
            }
            (Figure::Attainment, Some(percent)) => number(percent).map(|percent| percent / 100.0),
            _ => number(limit),
        };
        let limit =
            limit.ok_or_else(|| wrong("what it is compared with is no number".to_owned()))?;
        Ok(Assertion { given: given.to_owned(), target, figure, comparison, limit })
    }
}

impl fmt::Display for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.given)
    }
}

impl Assertion {
    /// Of each target it is about. What wasn't measured isn't reached.
    pub fn check(&self, report: &Report) -> Vec<CheckReport> {
        let is_meant =
            |target: &&TargetReport| self.target.as_ref().is_none_or(|name| *name == target.name);
        let mut checks: Vec<_> = report
            .targets
            .iter()
            .filter(is_meant)
            .map(|target| self.check_one(report, target))
            .collect();
        if checks.is_empty() {
            let found =
                format!("there is no target {:?}", self.target.as_deref().unwrap_or_default());
            checks.push(CheckReport { wanted: self.given.clone(), found, passed: false });
        }
        checks
    }

    fn check_one(&self, report: &Report, target: &TargetReport) -> CheckReport {
        let value = self.figure.of(report, target);
        let passed = value.is_some_and(|value| match self.comparison {
            Comparison::Less => value < self.limit,
            Comparison::AtMost => value <= self.limit,
            Comparison::Equal => (value - self.limit).abs() < 1e-9,
            Comparison::AtLeast => value >= self.limit,
            Comparison::More => value > self.limit,
        });
        let found =
            value.map_or_else(|| "not measured".to_owned(), |value| self.figure.show(value));
        CheckReport { wanted: self.given.clone(), found: of_target(report, target, found), passed }
    }
}

/// A goal of each target's requests together, or of one class's.
pub fn check_goal(goal: Goal, class: Option<&str>, report: &Report) -> Vec<CheckReport> {
    let check = |target: &TargetReport| {
        let latencies = match class {
            None => Some(&target.latencies),
            Some(name) => {
                target.classes.iter().find(|class| class.name == name).map(|class| &class.latencies)
            }
        };
        let value = latencies.and_then(|of| Some(of.of(goal.latency)?.of.value(goal.quantile)));
        let passed = value.is_some_and(|ms| ms <= goal.limit.as_secs_f64() * 1e3);
        let found = value.map_or_else(|| "not measured".to_owned(), |ms| format!("{ms:.2} ms"));
        let class = class.map(|class| format!("{class}: ")).unwrap_or_default();
        CheckReport {
            wanted: format!("{class}{goal}"),
            found: of_target(report, target, found),
            passed,
        }
    };
    report.targets.iter().map(check).collect()
}

/// One target needn't be named.
fn of_target(report: &Report, target: &TargetReport, found: String) -> String {
    if report.targets.len() > 1 { format!("{}: {found}", target.name) } else { found }
}

/// What is compared with a baseline, and whether more is better.
const COMPARED: [(Figure, bool); 6] = [
    (Figure::Attainment, true),
    (Figure::Goodput, true),
    (Figure::Latency(Latency::Ttft, Quantile::P50), false),
    (Figure::Latency(Latency::Ttft, Quantile::P99), false),
    (Figure::Latency(Latency::Tpot, Quantile::P50), false),
    (Figure::Latency(Latency::Tpot, Quantile::P99), false),
];

/// Nobody waits for less.
const NOTHING_MS: f64 = 1.0;

/// Reads an earlier report.
///
/// # Errors
///
/// It is none.
pub fn read_baseline(text: &str) -> Result<Report, BaselineError> {
    #[derive(serde::Deserialize)]
    struct Format {
        format: String,
    }
    let wrong = |error: serde_json::Error| BaselineError::Json(error.to_string());
    let Format { format } = serde_json::from_str(text).map_err(wrong)?;
    if format != super::FORMAT {
        return Err(BaselineError::Format { given: format, expected: super::FORMAT });
    }
    serde_json::from_str(text).map_err(wrong)
}

/// Whether a run of this workload at so many targets can be compared with it: asked before the run, which would be in
/// vain else.
///
/// # Errors
///
/// It offered something else.
pub fn check_comparable(
    before: &Report,
    is: &WorkloadReport,
    targets: usize,
) -> Result<(), BaselineError> {
    let was = &before.workload;
    let texts = [
        ("arrivals", &was.arrivals, &is.arrivals),
        ("input lengths", &was.input, &is.input),
        ("output lengths", &was.output, &is.output),
        ("the API", &was.api, &is.api),
    ];
    for (what, before, now) in texts {
        if before != now {
            return Err(BaselineError::Workload { what, before: before.clone(), now: now.clone() });
        }
    }
    let others = [
        ("the recording", recordings(was), recordings(is)),
        ("shared prefixes", format!("{:?}", was.shared), format!("{:?}", is.shared)),
        ("turns", format!("{:?}", was.turns), format!("{:?}", is.turns)),
        ("the objectives", format!("{:?}", was.classes), format!("{:?}", is.classes)),
        ("the number of targets", before.targets.len().to_string(), targets.to_string()),
    ];
    for (what, before, now) in others {
        if before != now {
            return Err(BaselineError::Workload { what, before, now });
        }
    }
    Ok(())
}

/// The files that requests came from, wherever they lay.
fn recordings(of: &WorkloadReport) -> String {
    let paths = of.source.iter().flat_map(|source| source.split(", "));
    let names: Vec<_> = paths.map(|path| path.rsplit('/').next().unwrap_or(path)).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Whether anything is worse than it was by more than `tolerance`, and by more than both runs' confidence intervals
/// leave open; a latency by a millisecond at least. Targets are compared by their place.
pub fn check_baseline(before: &Report, now: &Report, tolerance: f64) -> Vec<CheckReport> {
    let pairs = before.targets.iter().zip(&now.targets);
    pairs
        .flat_map(|(was, is)| {
            COMPARED.iter().filter_map(|(figure, more_is_better)| {
                let pair = (figure.of(before, was)?, figure.of(now, is)?);
                Some(compare(*figure, *more_is_better, pair, (was, is), (now, tolerance)))
            })
        })
        .collect()
}

fn compare(
    figure: Figure,
    more_is_better: bool,
    (was, is): (f64, f64),
    (before, now): (&TargetReport, &TargetReport),
    (report, tolerance): (&Report, f64),
) -> CheckReport {
    let worse =
        if more_is_better { (was - is) / was.max(1e-9) } else { (is - was) / was.max(1e-9) };
    let is_close = matches!(figure, Figure::Latency(..)) && is - was < NOTHING_MS;
    let apart = match (interval(figure, before), interval(figure, now)) {
        (Some(of_was), Some(of_is)) if more_is_better => of_is.1 < of_was.0,
        (Some(of_was), Some(of_is)) => of_is.0 > of_was.1,
        _ => true,
    };
    let change = 100.0 * (is / was.max(1e-9) - 1.0);
    let found = format!("{} → {} ({change:+.1} %)", figure.show(was), figure.show(is));
    let name = match figure {
        Figure::Latency(latency, quantile) => format!("{}.{}", latency.name(), quantile.name()),
        figure => Figure::NAMED
            .iter()
            .find(|(_, named)| *named == figure)
            .map_or("", |(name, _)| name)
            .to_owned(),
    };
    let wanted =
        format!("{name} no worse than the baseline by more than {:.0} %", 100.0 * tolerance);
    CheckReport {
        wanted,
        found: of_target(report, now, found),
        passed: worse <= tolerance || is_close || !apart,
    }
}

fn interval(figure: Figure, target: &TargetReport) -> Option<(f64, f64)> {
    match figure {
        Figure::Attainment => target.attainment.interval,
        Figure::Goodput => target.goodput.interval,
        Figure::Latency(latency, quantile) => {
            target.latencies.of(latency)?.intervals.get(quantile.name()).copied()
        }
        _ => None,
    }
}
