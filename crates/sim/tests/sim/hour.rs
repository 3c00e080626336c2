//! Hours of a cluster's life: nodes crash and come back, links are cut, messages are lost, doubled and late, all at random
//! and all the time.
//!
//! `BATON_HOURS` says how many clusters are simulated for an hour each; left out, one lives for two minutes.
//! `BATON_SOAK_REPORT` names a file to add what came of them to.

use std::{fmt::Write as _, fs::OpenOptions, io::Write as _};

use baton_sim::{Fault, Report, Scenario, simulate, workload::Lengths};
use rand_core::{RngCore, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::scenarios::{scenario, whole};

const PREFILL: u32 = 3;
const DECODE: u32 = 4;
const REQUESTS_A_SECOND: f64 = 10.0;
/// From one fault to the next, on average.
const EVERY_S: f64 = 4.0;
/// From the end of a node's fault to its next.
const QUIET_S: f64 = 5.0;

/// Draws of one seed.
struct Draws(Xoshiro256PlusPlus);

impl Draws {
    fn between(&mut self, least: f64, most: f64) -> f64 {
        least + (most - least) * (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, end: usize) -> usize {
        (self.0.next_u64() % end as u64) as usize
    }
}

/// One thing after the other, and some at once, for so many seconds.
fn faults(seed: u64, seconds: f64) -> Vec<Fault> {
    let mut draws = Draws(Xoshiro256PlusPlus::seed_from_u64(seed));
    let prefill = (0..PREFILL).map(|at| format!("p{at}"));
    let names: Vec<String> = prefill.chain((0..DECODE).map(|at| format!("d{at}"))).collect();
    // Of each node, when it is over.
    let mut quiet_from = vec![0.0; names.len()];
    let (mut faults, mut at_s) = (Vec::new(), 2.0);
    while at_s < seconds - 10.0 {
        let lasts = draws.between(0.2, 6.0);
        let (one, other) = (draws.below(names.len()), draws.below(names.len()));
        let node = names[one].clone();
        let is_well = |at: usize| quiet_from[at] <= at_s;
        let role = |at: usize| at < PREFILL as usize;
        let left = |wanted| {
            (0..names.len())
                .filter(|&at| at != one && at != other && role(at) == wanted && is_well(at))
                .count()
        };
        let ends = match draws.below(6) {
            0 | 1 => {
                let silent = draws.below(2) == 0;
                faults.push(Fault::Crash { node, at_s, restart_after_s: Some(lasts), silent });
                vec![one]
            }
            2 => {
                let factor = draws.between(2.0, 20.0);
                faults.push(Fault::Slow { node, from_s: at_s, to_s: at_s + lasts, factor });
                vec![one]
            }
            3 => {
                let (a, to_s) = ("router".to_owned(), at_s + lasts);
                faults.push(Fault::Cut { a, b: node, from_s: at_s, to_s });
                vec![one]
            }
            4 if one != other => {
                let (b, to_s) = (names[other].clone(), at_s + lasts);
                faults.push(Fault::Cut { a: node, b, from_s: at_s, to_s });
                vec![one, other]
            }
            _ => {
                let (lose, late_s) = (draws.between(0.0, 0.005), draws.between(0.0, 0.1));
                faults.push(Fault::Storm {
                    from_s: at_s,
                    to_s: at_s + lasts,
                    lose,
                    double: 0.3,
                    late_s,
                });
                Vec::new()
            }
        };
        // Somebody of each role is left who has had nothing for a while.
        if ends.iter().any(|&end| !is_well(end)) || left(true) == 0 || left(false) == 0 {
            faults.pop();
        } else {
            ends.into_iter().for_each(|end| quiet_from[end] = at_s + lasts + QUIET_S);
        }
        at_s += draws.between(0.2, 2.0 * EVERY_S - 0.2);
    }
    faults
}

fn life(seed: u64, seconds: f64) -> Scenario {
    let requests = (seconds * REQUESTS_A_SECOND) as u64;
    let mut scenario = scenario((PREFILL, DECODE), requests, REQUESTS_A_SECOND, (600, 100));
    scenario.workload.prompt = Lengths::Lognormal { mean: 600.0, cv: 1.0, max: 4000 };
    scenario.workload.output = Lengths::Uniform { min: 1, max: 300 };
    scenario.forced_moves_per_s = 5.0;
    scenario.cluster.transfer.migration_share = 0.2;
    scenario.cluster.membership.max_retries = 100;
    Scenario { seed, faults: faults(seed, seconds), ..scenario }
}

/// Each request ended once, with all its tokens in order and each once. They have no values here: that none is wrong is
/// shown with real processes.
#[test]
fn an_hour_of_faults_loses_nothing() {
    let hours = std::env::var("BATON_HOURS").map(|hours| hours.parse::<u64>().expect("a number"));
    let (clusters, seconds) = hours.map_or((1, 120.0), |hours| (hours, 3600.0));
    let mut text = "| seed | faults | requests | of them told to come later | output tokens | attempts made again | moves | longest pause of a \
                    stream, P50 / P99 / max, s | events |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for seed in 0..clusters {
        let scenario = life(seed, seconds);
        let report = simulate(&scenario, None).expect("a sound scenario");
        whole(&report);
        // A storm may break the registration of the only prefill node that is left; newcomers are told so then.
        let refused = report.refused.get("NO_NODES").copied().unwrap_or(0);
        assert_eq!(report.completed + refused, report.offered, "seed {seed}: {report}");
        assert!(1000 * refused < report.offered, "seed {seed}: {report}");
        text += &row(&scenario, &report);
    }
    if let Some(path) = std::env::var_os("BATON_SOAK_REPORT") {
        let file = OpenOptions::new().create(true).append(true).open(path);
        writeln!(file.expect("a file"), "{text}").expect("it is written");
    }
}

fn row(scenario: &Scenario, report: &Report) -> String {
    let tokens: u64 = report.outcomes.iter().map(|one| u64::from(one.output_tokens)).sum();
    let moves = report.moves.as_ref().map_or(0, |moves| moves.count());
    let gap = report.longest_gap_ms.expect("pauses");
    let refused: u64 = report.refused.values().sum();
    let mut row = String::new();
    writeln!(
        row,
        "| {} | {} | {} | {refused} | {tokens} | {} | {moves} | {:.2} / {:.2} / {:.2} | {} |",
        scenario.seed,
        scenario.faults.len(),
        report.offered,
        report.retries,
        gap.p50 / 1e3,
        gap.p99 / 1e3,
        gap.max / 1e3,
        report.events,
    )
    .expect("writing to a string succeeds");
    row
}
