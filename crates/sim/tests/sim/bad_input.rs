//! What makes no sense is refused by name.

use std::sync::Arc;

use baton_sim::{
    CapacityConfig, CapacityError, Fault, Scenario, Topology, simulate,
    workload::{Arrivals, Lengths, Trace, TraceFormat},
};

use crate::scenarios::scenario;

#[track_caller]
fn refused(change: impl FnOnce(&mut Scenario), told: &[&str]) {
    let mut scenario = Scenario::default();
    change(&mut scenario);
    let error = simulate(&scenario, None).expect_err("nonsense").to_string();
    for part in told {
        assert!(error.contains(part), "{error:?} doesn't tell {part:?}");
    }
}

#[test]
fn scenarios_that_make_no_sense_are_refused_with_what_is_wrong() {
    let nobody = |prefill, decode| Topology::Disaggregated { prefill, decode };
    refused(|s| s.cluster.topology = nobody(0, 1), &["no prefill worker", "cluster.topology"]);
    refused(|s| s.cluster.topology = nobody(1, 0), &["no decode worker"]);
    refused(|s| s.cluster.topology = Topology::Colocated { workers: 0 }, &["no colocated worker"]);
    refused(|s| s.workload.requests = 0, &["workload.requests is 0", "at least 1"]);
    refused(|s| s.workload.arrivals = Arrivals::Poisson { rate: -1.0 }, &["rate is -1", "above 0"]);
    refused(|s| s.workload.prompt = Lengths::Fixed { tokens: 0 }, &["workload.prompt is 0"]);
    refused(
        |s| s.workload.output = Lengths::Empirical { tokens: vec![] },
        &["list of output lengths is empty"],
    );
    refused(|s| s.slo.ttft_ms = Some(0.0), &["slo.ttft_ms is 0", "above 0"]);
    refused(|s| s.slo.tpot_ms = Some(f64::NAN), &["slo.tpot_ms is NaN"]);
    refused(|s| s.cluster.decode.kv_blocks = 0, &["cluster.decode.kv_blocks is 0"]);
    refused(|s| s.cluster.model.block_tokens = 5, &["cluster.model", "5 tokens"]);
    refused(|s| s.cluster.network.bytes_per_second = 0.0, &["bytes_per_second is 0"]);
    let lost = |s: &mut Scenario| {
        s.faults = vec![Fault::Lose { from: "p7".into(), to: "d0".into(), after_s: 1.0 }];
    };
    refused(lost, &["\"p7\"", "p0, d0", "router"]);
}

#[test]
fn unknown_keys_are_refused_and_every_scenario_can_be_written_down() {
    let mut scenario = scenario((2, 1), 10, 1.0, (10, 2));
    scenario.faults = vec![Fault::Cut { a: "p0".into(), b: "d0".into(), from_s: 1.0, to_s: 2.0 }];
    let text = toml::to_string(&scenario).unwrap();
    assert_eq!(toml::from_str::<Scenario>(&text).unwrap(), scenario);
    let error = toml::from_str::<Scenario>("[workload]\nrate = 3").unwrap_err().to_string();
    assert!(error.contains("unknown field `rate`"), "{error}");
}

#[test]
fn targets_nothing_can_meet_are_reported_and_have_no_capacity() {
    let mut scenario = scenario((1, 1), 100, 1.0, (500, 20));
    scenario.slo.ttft_ms = Some(1.0);
    scenario.slo.declared = false;
    let report = simulate(&scenario, None).unwrap();
    assert_eq!((report.attainment, report.out_of_reach), (0.0, 100));
    assert!(report.to_string().contains("even an idle worker misses"), "{report}");
    let error = CapacityConfig { seeds: 1, ..CapacityConfig::default() }
        .search(&scenario, None)
        .unwrap_err();
    assert!(matches!(error, CapacityError::OutOfReach { out_of_reach: 100, .. }), "{error}");
}

#[test]
fn capacity_is_where_attainment_falls() {
    let mut scenario = scenario((1, 1), 300, 1.0, (500, 40));
    scenario.slo.ttft_ms = Some(200.0);
    scenario.slo.tpot_ms = Some(30.0);
    let capacity = CapacityConfig::default().search(&scenario, None).unwrap();
    assert!(capacity.rate.half_width < 0.5 * capacity.rate.mean, "{capacity:?}");
    let attainment = |rate| {
        let mut scenario = scenario.clone();
        scenario.workload.arrivals = Arrivals::Poisson { rate };
        simulate(&scenario, None).unwrap().attainment
    };
    assert!(attainment(0.5 * capacity.rate.mean) > 0.9, "{capacity:?}");
    assert!(attainment(1.5 * capacity.rate.mean) < 0.9, "{capacity:?}");
    scenario.slo.ttft_ms = None;
    scenario.slo.tpot_ms = None;
    let config = CapacityConfig { seeds: 1, max_rate: 64.0, ..CapacityConfig::default() };
    let error = config.search(&scenario, None).unwrap_err();
    assert!(matches!(error, CapacityError::Unbounded { .. }), "{error}");
}

#[test]
fn traces_are_replayed_at_their_pace_or_at_another() {
    let csv = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
               2023-11-16 18:15:46.0000000,300,10\n\
               2023-11-16 18:15:48.5000000,500,20\n\
               2023-11-16 18:15:56.0000000,200,30\n";
    let trace = Arc::new(Trace::read(csv.as_bytes(), TraceFormat::AzureCsv).unwrap());
    let mut scenario = scenario((1, 1), 1000, 1.0, (1, 1));
    let arrivals = |scenario: &Scenario| -> Vec<(u64, u32, u32)> {
        let report = simulate(scenario, Some(&trace)).unwrap();
        let one = |o: &baton_sim::Outcome| {
            (o.at.as_nanos() / 1_000_000, o.prompt_tokens, o.output_tokens)
        };
        report.outcomes.iter().map(one).collect()
    };
    assert_eq!(arrivals(&scenario), [(0, 300, 10), (2500, 500, 20), (10_000, 200, 30)]);
    scenario.workload.trace_rate = Some(2.0);
    assert_eq!(arrivals(&scenario), [(0, 300, 10), (250, 500, 20), (1000, 200, 30)]);
}

#[test]
fn equal_block_ids_of_a_trace_are_found_in_the_prefix_cache() {
    let line = |at, tokens, ids| {
        format!(
            r#"{{"timestamp":{at},"input_length":{tokens},"output_length":4,"hash_ids":{ids}}}"#
        )
    };
    let lines = [line(0, 1200, "[1,2,3]"), line(5000, 1100, "[1,2,9]"), line(9000, 700, "[7,2]")];
    let lines = lines.join("\n");
    let trace = Trace::read(lines.as_bytes(), TraceFormat::MooncakeJsonl).unwrap();
    let mut scenario = scenario((1, 1), 10, 1.0, (1, 1));
    scenario.cluster.prefill.scheduler.max_batch_tokens = 8192;
    let report = simulate(&scenario, Some(&Arc::new(trace))).unwrap();
    let cached: Vec<u32> = report.outcomes.iter().map(|outcome| outcome.cached_tokens).collect();
    assert_eq!(cached, [0, 1024, 0]);
}
