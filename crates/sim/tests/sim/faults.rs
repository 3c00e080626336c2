//! What goes wrong, and what becomes of the requests.

use baton_policy::Policy;
use baton_sim::{End, Fault, Report, Scenario, Topology, simulate};

use crate::scenarios::{run, scenario, whole};

fn busy() -> Scenario {
    scenario((2, 3), 200, 20.0, (1200, 60))
}

fn crash(node: &str, silent: bool) -> Fault {
    Fault::Crash { node: node.into(), at_s: 3.0, restart_after_s: Some(4.0), silent }
}

#[track_caller]
fn all_completed(report: &Report) {
    assert_eq!(report.completed, report.offered, "{report}");
    assert!(report.outcomes.iter().all(|outcome| outcome.output_tokens == 60));
}

#[test]
fn a_dead_worker_costs_its_requests_another_attempt_and_nobody_anything_else() {
    for node in ["p0", "d0"] {
        for silent in [false, true] {
            let report = run(&Scenario { faults: vec![crash(node, silent)], ..busy() });
            all_completed(&report);
            assert!(report.retries > 0, "{node}, silent {silent}: {report}");
            let gap = report.longest_gap_ms.unwrap().max;
            // Its lease ends three seconds after its last word.
            let longest = if silent { 4500.0 } else { 1000.0 };
            assert!(gap < longest, "{node}, silent {silent}: a pause of {gap} ms");
        }
    }
}

#[test]
fn a_crash_of_workers_that_do_both_is_survived_too() {
    let mut scenario = busy();
    scenario.cluster.topology = Topology::Colocated { workers: 3 };
    scenario.faults = vec![crash("w1", false)];
    let report = run(&scenario);
    all_completed(&report);
    assert!(report.retries > 0);
}

#[test]
fn with_its_only_decode_node_gone_everybody_waits_for_its_return() {
    let mut scenario = scenario((1, 1), 60, 10.0, (400, 60));
    scenario.faults = vec![crash("d0", false)];
    let report = simulate(&scenario, None).unwrap();
    whole(&report);
    let refused: u64 = report.refused.values().sum();
    assert_eq!(report.completed + refused, report.offered, "{report}");
    assert!(report.retries > 0, "those that had begun went on: {report}");
    let gap = report.longest_gap_ms.unwrap().max;
    assert!((3900.0..4500.0).contains(&gap), "a pause of {gap} ms");
}

#[test]
fn a_slow_worker_is_slow_for_as_long_as_it_is() {
    let plain = run(&busy());
    let slow = |node: &str| {
        let fault = Fault::Slow { node: node.into(), from_s: 2.0, to_s: 6.0, factor: 5.0 };
        run(&Scenario { faults: vec![fault], ..busy() })
    };
    let (prefill, decode) = (slow("p0"), slow("d1"));
    all_completed(&prefill);
    all_completed(&decode);
    assert!(prefill.ttft_ms.unwrap().max > 2.0 * plain.ttft_ms.unwrap().max);
    assert!(decode.tpot_ms.unwrap().max > 2.0 * plain.tpot_ms.unwrap().max);
    assert_eq!((prefill.retries, decode.retries), (0, 0));
}

#[test]
fn a_cut_link_is_waited_out_or_gone_around() {
    let cut = |a: &str, b: &str, to_s| {
        let fault = Fault::Cut { a: a.into(), b: b.into(), from_s: 3.0, to_s };
        run(&Scenario { faults: vec![fault], ..busy() })
    };
    // Shorter than the lease: nobody is replaced.
    let short = cut("router", "d0", 3.3);
    all_completed(&short);
    assert_eq!(short.retries, 0, "{short}");
    // Longer: the router goes on elsewhere.
    let long = cut("router", "d0", 30.0);
    all_completed(&long);
    assert!(long.retries > 0, "{long}");
    // Between the nodes: pulls fall silent after three seconds, and those that come then go another way.
    let between = cut("p0", "d0", 40.0);
    all_completed(&between);
    assert!(between.longest_gap_ms.unwrap().max >= 2_500.0, "{between}");
    assert!(between.retries < 30, "{between}");
}

#[test]
fn a_lost_message_breaks_its_stream_and_no_request() {
    let pairs = [("router", "p0"), ("router", "d0"), ("p0", "router"), ("d0", "router")];
    for (from, to) in pairs.into_iter().chain([("d0", "p0"), ("p0", "d0")]) {
        let lose = |after_s| Fault::Lose { from: from.into(), to: to.into(), after_s };
        let faults = (0..12).map(|index| lose(1.0 + 0.31 * f64::from(index))).collect();
        let report = run(&Scenario { faults, ..busy() });
        all_completed(&report);
        assert!(report.retries > 0, "{from} to {to}: {report}");
    }
}

#[test]
fn a_small_pool_preempts_and_loses_nobody() {
    let mut scenario = scenario((1, 1), 100, 50.0, (200, 300));
    scenario.cluster.decode.kv_blocks = 160;
    // One that doesn't reckon how outputs grow: each refusal is a retry.
    scenario.policy.policy = Policy::LeastOutstanding;
    scenario.cluster.membership.max_retries = 100;
    let report = run(&scenario);
    assert!(report.outcomes.iter().all(|outcome| outcome.end == End::Completed), "{report}");
    assert!(report.roles[1].preemptions > 0, "{report}");
    assert!(report.roles[1].kv_peak > 0.9, "{report}");
}
