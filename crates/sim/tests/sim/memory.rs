//! Pools that are full before anything else is: outputs with long tails.

use baton_sim::{
    Scenario, Topology, simulate,
    workload::{Arrivals, Lengths},
};

/// Admission counts how outputs grow: nodes refuse what the router placed, and preempt, twice in a
/// thousand at most, though one sequence alone may fill half of a pool.
#[test]
fn growth_is_counted_so_nodes_hardly_ever_refuse_or_preempt() {
    let mut scenario = Scenario { seed: 1, ..Scenario::default() };
    scenario.cluster.topology = Topology::Disaggregated { prefill: 2, decode: 2 };
    scenario.cluster.decode.kv_blocks = 512;
    scenario.workload.requests = 2000;
    scenario.workload.arrivals = Arrivals::Poisson { rate: 24.0 };
    scenario.workload.prompt = Lengths::Lognormal { mean: 256.0, cv: 1.0, max: 1024 };
    scenario.workload.max_tokens = Some(4096);
    scenario.slo.ttft_ms = Some(2000.0);
    for (cv, least) in [(1.0, 19.0), (2.0, 12.0)] {
        scenario.workload.output = Lengths::Lognormal { mean: 200.0, cv, max: 4096 };
        let report = simulate(&scenario, None).unwrap();
        let decode = report.roles.iter().find(|role| role.role == "decode").unwrap();
        assert!(report.retries <= 2, "{report}");
        assert!(decode.preemptions <= 4, "{report}");
        assert!(report.goodput > least, "{report}");
        assert!(decode.kv_mean > 0.6, "pools are full: {report}");
    }
}
