//! Small clusters.

use baton_sim::{
    Report, Scenario, Topology, simulate,
    workload::{Arrivals, Lengths, SloConfig},
};

/// `prefill` and `decode` workers, `requests` of fixed lengths at `rate`, nothing ever too late.
pub(crate) fn scenario(
    workers: (u32, u32),
    requests: u64,
    rate: f64,
    lengths: (u32, u32),
) -> Scenario {
    let mut scenario = Scenario { seed: 7, ..Scenario::default() };
    let (prefill, decode) = workers;
    scenario.cluster.topology = Topology::Disaggregated { prefill, decode };
    scenario.workload.requests = requests;
    scenario.workload.arrivals = Arrivals::Poisson { rate };
    scenario.workload.prompt = Lengths::Fixed { tokens: lengths.0 };
    scenario.workload.output = Lengths::Fixed { tokens: lengths.1 };
    scenario.slo = SloConfig { ttft_ms: None, tpot_ms: None, ..SloConfig::default() };
    scenario
}

/// Runs it; nothing may be left behind.
#[track_caller]
pub(crate) fn run(scenario: &Scenario) -> Report {
    let report = simulate(scenario, None).expect("a sound scenario");
    whole(&report);
    report
}

/// Every offered request ended once, and every block and promise is given back.
#[track_caller]
pub(crate) fn whole(report: &Report) {
    assert_eq!(report.leaks, [], "no-leak");
    assert_eq!(report.leaked_reservations, 0, "no-leak");
    let numbers: Vec<u64> = report.outcomes.iter().map(|outcome| outcome.number).collect();
    assert_eq!(numbers, (0..report.offered).collect::<Vec<_>>(), "no-lost-request");
    let ends: u64 = report.refused.values().chain(report.failed.values()).sum();
    assert_eq!(report.completed + ends, report.offered, "no-lost-request");
}
