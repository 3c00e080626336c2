//! What a run amounts to.

mod chart;
mod rows;
mod text;

use std::{collections::BTreeMap, time::Duration};

use baton_types::{Role, Time};
use serde::Serialize;

pub use self::chart::ChartError;
use crate::{
    cluster::{Finished, Leak, MoveStats},
    node::{Node, Work},
    outcome::{End, Outcome},
    scenario::Scenario,
};

/// A run's figures. Times are milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub seed: u64,
    /// Requests that came.
    pub offered: u64,
    pub completed: u64,
    /// By reason.
    pub refused: BTreeMap<&'static str, u64>,
    pub failed: BTreeMap<&'static str, u64>,
    /// Longer than the model's context; what became of them is the workload's rule.
    pub over_context: u64,
    /// Requests whose targets even an idle worker misses.
    pub out_of_reach: u64,
    /// Of all offered requests, those that got all their tokens within both targets.
    pub attainment: f64,
    pub ttft_attainment: f64,
    pub tpot_attainment: f64,
    /// Requests a second that came,
    pub offered_rate: f64,
    /// and that met both targets.
    pub goodput: f64,
    pub output_tokens_per_second: f64,
    /// From the first arrival to the last request's end.
    pub duration_s: f64,
    pub ttft_ms: Option<Distribution>,
    pub tpot_ms: Option<Distribution>,
    pub longest_gap_ms: Option<Distribution>,
    pub parts: PartsReport,
    /// Of all prompt tokens, those the prefix cache had.
    pub cached_share: f64,
    /// Attempts beyond each request's first.
    pub retries: u64,
    pub roles: Vec<RoleReport>,
    /// Pools that weren't whole at the end: none, or there is a bug.
    pub leaks: Vec<Leak>,
    /// Promises the router still kept at the end.
    pub leaked_reservations: usize,
    /// If running requests changed nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moves: Option<MovesReport>,
    /// Workers that changed roles.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub switched: Vec<Switched>,
    /// Of decode pools, what was free in the mean and of no use: who was next in line would have fitted into it
    /// together, and fitted on no worker.
    pub fragmented: f64,
    /// If workers came and went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingReport>,
    /// Events the simulation took.
    pub events: u64,
    #[serde(skip)]
    pub outcomes: Vec<Outcome>,
}

/// Exact: by nearest rank over all values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Distribution {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

/// Where the time went, of requests that completed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PartsReport {
    pub router_queue_ms: Option<Distribution>,
    pub prefill_queue_ms: Option<Distribution>,
    pub prefill_ms: Option<Distribution>,
    pub exposed_transfer_ms: Option<Distribution>,
    pub decode_admission_ms: Option<Distribution>,
    pub first_decode_step_ms: Option<Distribution>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RoleReport {
    pub role: &'static str,
    pub workers: usize,
    /// Of the workers' time, what went into steps.
    pub utilisation: f64,
    /// Of their pools, what was held in the mean,
    pub kv_mean: f64,
    /// and at most, on any of them.
    pub kv_peak: f64,
    pub preemptions: u64,
    pub steps: u64,
    /// Sent to other workers.
    pub sent_bytes: u64,
}

/// How running requests changed nodes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MovesReport {
    /// By what for.
    pub moved: BTreeMap<&'static str, u64>,
    pub not_moved: BTreeMap<&'static str, u64>,
    /// From the last token of the one node to the first of the other.
    pub gap_ms: Option<Distribution>,
}

impl MovesReport {
    fn of(moves: MoveStats) -> Option<Self> {
        let MoveStats { moved, not_moved, gaps } = moves;
        let any = !moved.is_empty() || !not_moved.is_empty();
        any.then(|| MovesReport { moved, not_moved, gap_ms: Distribution::of_times(gaps) })
    }

    /// All that were made.
    pub fn count(&self) -> u64 {
        self.moved.values().sum()
    }
}

/// A worker took the other role.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Switched {
    pub at_s: f64,
    pub node: String,
    pub to: Role,
}

/// How workers came and went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScalingReport {
    /// From when each was asked for until it had left.
    pub prefill_node_seconds: f64,
    pub decode_node_seconds: f64,
    /// What there was at the start, and every change.
    pub changes: Vec<Scaled>,
}

/// Workers there are, or that are on their way, from a time on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scaled {
    pub at_s: f64,
    pub prefill: u32,
    pub decode: u32,
}

impl ScalingReport {
    /// Of both roles.
    pub fn node_seconds(&self) -> f64 {
        self.prefill_node_seconds + self.decode_node_seconds
    }
}

impl Distribution {
    /// Of any values; none of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let max = *sorted.last()?;
        let rank = |share: f64| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted[rank.clamp(1, sorted.len()) - 1]
        };
        Some(Distribution {
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
            p50: rank(0.50),
            p90: rank(0.90),
            p95: rank(0.95),
            p99: rank(0.99),
            max,
        })
    }

    fn of_times(values: impl IntoIterator<Item = Duration>) -> Option<Self> {
        Distribution::of(values.into_iter().map(millis))
    }
}

impl Report {
    pub(crate) fn new(scenario: &Scenario, finished: Finished) -> Self {
        let Finished {
            outcomes,
            nodes,
            ended,
            over_context,
            leaks,
            reservations,
            scaling,
            moves,
            switched,
            fragmented,
            events,
        } = finished;
        let offered = outcomes.len() as u64;
        let share = |count: usize| count as f64 / (offered as f64).max(1.0);
        let counted = |met: &dyn Fn(&Outcome) -> bool| outcomes.iter().filter(|o| met(o)).count();
        let is_done = |outcome: &&Outcome| outcome.end == End::Completed;
        let done = || outcomes.iter().filter(is_done);
        let attainment = share(counted(&Outcome::met));
        let (first, last) = (outcomes.first().map(|o| o.at), outcomes.last().map(|o| o.at));
        let arrivals = first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first);
        let offered_rate = (offered.saturating_sub(1)) as f64 / positive(arrivals);
        let duration = first.map_or(Duration::ZERO, |first| ended - first);
        let tokens: u64 = outcomes.iter().map(|o| u64::from(o.output_tokens)).sum();
        let prompts: u64 = done().map(|o| u64::from(o.prompt_tokens)).sum();
        let cached: u64 = done().map(|o| u64::from(o.cached_tokens)).sum();
        Report {
            seed: scenario.seed,
            offered,
            completed: done().count() as u64,
            refused: by_reason(&outcomes, |end| match end {
                End::Refused(reason) => Some(reason),
                _ => None,
            }),
            failed: by_reason(&outcomes, |end| match end {
                End::Failed(reason) => Some(reason),
                _ => None,
            }),
            over_context,
            out_of_reach: counted(&|outcome| is_out_of_reach(scenario, outcome)) as u64,
            attainment,
            ttft_attainment: share(counted(&Outcome::met_ttft)),
            tpot_attainment: share(counted(&Outcome::met_tpot)),
            offered_rate,
            goodput: attainment * offered_rate,
            output_tokens_per_second: tokens as f64 / positive(duration),
            duration_s: duration.as_secs_f64(),
            ttft_ms: Distribution::of_times(done().filter_map(|o| o.ttft)),
            tpot_ms: Distribution::of_times(done().filter_map(|o| o.tpot)),
            longest_gap_ms: Distribution::of_times(done().filter_map(|o| o.longest_gap)),
            parts: PartsReport {
                router_queue_ms: Distribution::of_times(done().map(|o| o.parts.router_queue)),
                prefill_queue_ms: Distribution::of_times(done().map(|o| o.parts.prefill_queue)),
                prefill_ms: Distribution::of_times(done().map(|o| o.parts.prefill)),
                exposed_transfer_ms: Distribution::of_times(
                    done().filter_map(|o| o.parts.exposed_transfer),
                ),
                decode_admission_ms: Distribution::of_times(
                    done().filter_map(|o| o.parts.decode_admission),
                ),
                first_decode_step_ms: Distribution::of_times(
                    done().filter_map(|o| o.parts.first_decode_step),
                ),
            },
            cached_share: cached as f64 / (prompts as f64).max(1.0),
            retries: outcomes.iter().map(|o| u64::from(o.attempts.saturating_sub(1))).sum(),
            roles: roles(scenario, &nodes, ended),
            leaks,
            leaked_reservations: reservations,
            scaling,
            moves: MovesReport::of(moves),
            switched,
            fragmented,
            events,
            outcomes,
        }
    }

    /// As one object.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

fn by_reason(
    outcomes: &[Outcome],
    reason: impl Fn(End) -> Option<&'static str>,
) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for reason in outcomes.iter().filter_map(|outcome| reason(outcome.end)) {
        *counts.entry(reason).or_default() += 1;
    }
    counts
}

/// Whether a cluster with nothing else to do misses the targets.
fn is_out_of_reach(scenario: &Scenario, outcome: &Outcome) -> bool {
    let model = |role| scenario.latency_model(role);
    let prompt = u64::from(outcome.prompt_tokens);
    let first = model(Role::Prefill).prefill(prompt - u64::from(outcome.cached_tokens), 0);
    let step = model(Role::Decode).decode(1, prompt);
    let missed = |target: Option<Duration>, took| target.is_some_and(|target| took > target);
    missed(outcome.slo.ttft, first) || missed(outcome.slo.tpot, step)
}

fn roles(scenario: &Scenario, nodes: &[Node], ended: Time) -> Vec<RoleReport> {
    let over = ended - Time::ZERO;
    let report = |(role, worker): (&'static str, &crate::WorkerConfig)| {
        let is = |node: &&Node| match node.work {
            Work::Prefill => role == "prefill",
            Work::Decode => role == "decode",
            Work::Both => role == "colocated",
        };
        let nodes: Vec<&Node> = nodes.iter().filter(is).collect();
        let time = nodes.len() as f64 * positive(over);
        let blocks = f64::from(worker.kv_blocks);
        let busy: f64 = nodes.iter().map(|node| node.stats.busy.as_secs_f64()).sum();
        let held: f64 = nodes.iter().map(|node| node.stats.mean_held(over)).sum();
        let peak = nodes.iter().map(|node| node.stats.peak_held).max().unwrap_or(0);
        RoleReport {
            role,
            workers: nodes.len(),
            utilisation: busy / time,
            kv_mean: held / blocks / (nodes.len() as f64).max(1.0),
            kv_peak: f64::from(peak) / blocks,
            preemptions: nodes.iter().map(|node| node.all_preemptions()).sum(),
            steps: nodes.iter().map(|node| node.stats.steps).sum(),
            sent_bytes: nodes.iter().map(|node| node.stats.sent_bytes).sum(),
        }
    };
    scenario.workers().into_iter().map(report).collect()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Seconds to divide by.
fn positive(duration: Duration) -> f64 {
    duration.as_secs_f64().max(1e-9)
}
