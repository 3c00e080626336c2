//! Workers that come and go as is advised.

use std::time::Duration;

use baton_policy::advice::AdviceConfig;
use baton_sim::{
    Report, ScalingConfig, Scenario, Topology, simulate,
    workload::{Arrivals, Lengths, SloConfig},
};

use crate::scenarios::{scenario, whole};

const FROM: f64 = 60.0;
const TO: f64 = 140.0;

/// 30 requests/s, 120 in a surge from 60 to 140 s, and 80 s of 30 again; prompts of 512 tokens.
fn surge(workers: (u32, u32)) -> Scenario {
    let requests = (30.0 * (FROM + 80.0) + 120.0 * (TO - FROM)) as u64;
    let mut scenario = scenario(workers, requests, 30.0, (512, 32));
    scenario.workload.arrivals =
        Arrivals::Surge { rate: 30.0, peak: 120.0, from_s: FROM, to_s: TO };
    scenario.cluster.network.bytes_per_second = 1.25e10;
    scenario.slo = SloConfig {
        ttft_ms: Some(200.0),
        tpot_ms: Some(25.0),
        declared: true,
        ..SloConfig::default()
    };
    scenario
}

fn run(scenario: &Scenario) -> Report {
    let report = simulate(scenario, None).expect("a sound scenario");
    whole(&report);
    report
}

#[test]
fn following_the_advice_meets_the_targets_for_less_than_the_peak_all_the_time_and_does_not_flap() {
    let advice = AdviceConfig {
        window: Duration::from_secs(10),
        every: Duration::from_secs(1),
        down_after: Duration::from_secs(20),
        ..AdviceConfig::default()
    };
    let mut scenario = surge((12, 12));
    let scaling = ScalingConfig { prefill: 1, decode: 1, start_s: 4.0, advice };
    scenario.scaling = Some(scaling);
    let report = run(&scenario);
    assert_eq!(report, run(&scenario), "the same seed, the same run");
    let scaled = report.scaling.as_ref().expect("workers came and went");

    let most = |of: fn(&baton_sim::Scaled) -> u32| scaled.changes.iter().map(of).max();
    let (prefill, decode) = (most(|c| c.prefill).unwrap(), most(|c| c.decode).unwrap());
    let fixed = run(&surge((prefill, decode)));
    assert!(report.attainment >= 0.9, "{report}");
    let peak = f64::from(prefill + decode) * fixed.duration_s;
    assert!(scaled.node_seconds() < 0.8 * peak, "{} of {peak}", scaled.node_seconds());

    // Up with the surge and down after it: the direction turns once, but for a first fall.
    let totals: Vec<u32> = scaled.changes.iter().map(|c| c.prefill + c.decode).collect();
    let steps: Vec<bool> = totals.windows(2).map(|pair| pair[1] > pair[0]).collect();
    let turns = steps.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(turns <= 2, "no-flap: {:?}", scaled.changes);
    let last = scaled.changes.last().expect("the start");
    assert!(last.prefill < prefill && last.at_s > TO, "{:?}", scaled.changes);
}

/// Answers of half a minute: whoever leaves doesn't wait for them.
#[test]
fn what_a_leaving_worker_decodes_moves_to_those_that_stay() {
    let mut scenario = surge((6, 8));
    scenario.workload.output = Lengths::Uniform { min: 1000, max: 2000 };
    scenario.slo.declared = false;
    scenario.rebalance.enabled = false;
    scenario.workload.arrivals = Arrivals::Surge { rate: 2.0, peak: 8.0, from_s: 20.0, to_s: 50.0 };
    scenario.workload.requests = 400;
    let advice = AdviceConfig {
        window: Duration::from_secs(10),
        every: Duration::from_secs(1),
        down_after: Duration::from_secs(10),
        ..AdviceConfig::default()
    };
    scenario.scaling = Some(ScalingConfig { prefill: 2, decode: 2, start_s: 4.0, advice });
    let report = run(&scenario);
    assert_eq!(report.completed, 400, "{report}");
    let moves = report.moves.as_ref().expect("somebody moved");
    assert!(moves.moved.keys().eq(["drain"].iter()) && moves.count() > 20, "{moves:?}");
}

#[test]
fn a_fixed_pool_as_small_as_the_start_misses_the_targets() {
    assert!(run(&surge((1, 1))).attainment < 0.7);
}

#[test]
fn scaling_that_makes_no_sense_is_refused() {
    let refused = |change: fn(&mut Scenario), told: &str| {
        let mut scenario = surge((2, 2));
        scenario.scaling = Some(ScalingConfig::default());
        change(&mut scenario);
        let error = simulate(&scenario, None).expect_err(told).to_string();
        assert!(error.contains(told), "{error}");
    };
    refused(
        |scenario| scenario.scaling.as_mut().unwrap().prefill = 3,
        "starts with 3 prefill workers; it must be from 1 to the topology's 2",
    );
    refused(|scenario| scenario.scaling.as_mut().unwrap().decode = 0, "0 decode workers");
    refused(
        |scenario| scenario.scaling.as_mut().unwrap().start_s = -1.0,
        "scaling.start_s is -1; it must be a number, at least 0",
    );
    refused(
        |scenario| scenario.scaling.as_mut().unwrap().advice.attainment = 1.0,
        "advice.attainment is 1.0; it must be from 0.01 to below 1",
    );
    refused(
        |scenario| scenario.cluster.topology = Topology::Colocated { workers: 2 },
        "1 prefill workers; it must be from 1 to the topology's 0",
    );
}
