//! Running requests that change nodes.

use baton_policy::Policy;
use baton_sim::{Fault, Report, Scenario, simulate, workload::Lengths};

use crate::scenarios::{run, scenario, whole};

/// Long outputs on three decode nodes, somebody moved at random twenty times a second.
fn restless() -> Scenario {
    let mut scenario = scenario((2, 3), 200, 20.0, (600, 100));
    scenario.workload.prompt = Lengths::Lognormal { mean: 600.0, cv: 1.0, max: 4000 };
    scenario.workload.output = Lengths::Uniform { min: 1, max: 300 };
    scenario.forced_moves_per_s = 40.0;
    scenario.cluster.transfer.migration_share = 0.2;
    scenario
}

fn moved(report: &Report) -> u64 {
    report.moves.as_ref().map_or(0, |moves| moves.count())
}

#[test]
fn requests_that_move_all_the_time_complete_with_all_their_tokens() {
    let report = run(&restless());
    assert_eq!(report.completed, report.offered, "{report}");
    assert_eq!(report.retries, 0, "{report}");
    assert!(moved(&report) > 200, "{report}");
    let hops = report.outcomes.iter().map(|outcome| outcome.moves).max();
    assert!(hops >= Some(3), "several hops: {hops:?}");
    let gap = report.moves.as_ref().and_then(|moves| moves.gap_ms).expect("gaps");
    let step = report.tpot_ms.expect("a time per token");
    assert!(gap.p50 < 3.0 * step.p50, "a boundary, the last block, a word: {report}");
}

/// A storm over every message, nodes that die, links that are cut: so many clusters, or `BATON_CLUSTERS`.
#[test]
fn whatever_is_lost_doubled_or_late_each_request_ends_once_with_its_tokens() {
    let clusters =
        std::env::var("BATON_CLUSTERS").map_or(36, |many| many.parse().expect("a number"));
    let mut total = 0;
    for seed in 0..clusters {
        let mut scenario = Scenario { seed, faults: faults(seed), ..restless() };
        scenario.cluster.membership.max_retries = 1000;
        let report = simulate(&scenario, None).expect("a sound scenario");
        whole(&report);
        // While no prefill node can be reached newcomers are told so.
        let refused: u64 = report.refused.values().sum();
        assert_eq!(report.completed + refused, report.offered, "seed {seed}: {report}");
        total += moved(&report);
    }
    assert!(total > 100 * clusters, "{total} moves");
}

/// Of one seed.
fn faults(seed: u64) -> Vec<Fault> {
    let storm = |lose, late_s| Fault::Storm { from_s: 1.0, to_s: 12.0, lose, double: 0.3, late_s };
    let crash = |node: &str, at_s, silent| Fault::Crash {
        node: node.into(),
        at_s,
        restart_after_s: Some(2.0),
        silent,
    };
    let cut = |a: &str, b: &str, from_s| Fault::Cut {
        a: a.into(),
        b: b.into(),
        from_s,
        to_s: from_s + 1.5,
    };
    let at = 2.0 + 0.37 * (seed % 11) as f64;
    match seed % 4 {
        0 => vec![storm(0.0, 0.02)],
        1 => vec![storm(0.001, 0.2), cut("d0", "d1", at)],
        2 => vec![storm(0.003, 0.005), cut("router", "d2", at), crash("d1", at + 1.0, false)],
        _ => vec![storm(0.01, 0.005), crash("d0", at, false), crash("d1", at + 2.0, true)],
    }
}

/// Where dispatch reckons no growth, pools fill up: whoever moves isn't preempted.
#[test]
fn to_move_somebody_is_better_than_to_preempt_somebody() {
    let mut sums = [[0.0; 2]; 2];
    for seed in 0..8 {
        for (enabled, sum) in [false, true].into_iter().zip(&mut sums) {
            let mut scenario = Scenario { seed, ..scenario((2, 4), 1500, 16.0, (256, 200)) };
            scenario.workload.prompt = Lengths::Lognormal { mean: 256.0, cv: 1.0, max: 1024 };
            scenario.workload.output = Lengths::Lognormal { mean: 300.0, cv: 2.0, max: 4096 };
            scenario.workload.max_tokens = Some(4096);
            scenario.cluster.decode.kv_blocks = 640;
            scenario.cluster.membership.max_retries = 100;
            scenario.policy.policy = Policy::LeastOutstanding;
            scenario.rebalance.enabled = enabled;
            let report = run(&scenario);
            sum[0] += report.roles[1].preemptions as f64;
            sum[1] += report.longest_gap_ms.map_or(0.0, |gap| gap.p99);
        }
    }
    let [[preempted, gap], [preempted_less, shorter]] = sums;
    assert!(preempted_less < 0.8 * preempted, "{preempted_less} of {preempted} preemptions");
    assert!(shorter < gap, "{shorter} ms after {gap} ms");
}
