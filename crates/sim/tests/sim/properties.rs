//! Whatever the scenario: the same seed gives the same bytes, every offered request ends once, and
//! everything is given back.

use baton_sim::{
    Fault, Scenario, Topology, simulate,
    workload::{Arrivals, Lengths, OverContext, SloConfig},
};
use proptest::prelude::*;

use crate::scenarios::whole;

fn topologies() -> impl Strategy<Value = Topology> {
    prop_oneof![
        (1..4_u32, 1..4_u32)
            .prop_map(|(prefill, decode)| Topology::Disaggregated { prefill, decode }),
        (1..4_u32).prop_map(|workers| Topology::Colocated { workers }),
    ]
}

fn faults(topology: Topology) -> impl Strategy<Value = Vec<Fault>> {
    let names: Vec<String> = match topology {
        Topology::Disaggregated { prefill, decode } => {
            let prefill = (0..prefill).map(|index| format!("p{index}"));
            prefill.chain((0..decode).map(|index| format!("d{index}"))).collect()
        }
        Topology::Colocated { workers } => (0..workers).map(|index| format!("w{index}")).collect(),
    };
    let ends: Vec<String> = names.iter().cloned().chain(["router".to_owned()]).collect();
    let node = proptest::sample::select(names);
    let link = proptest::sample::subsequence(ends, 2).prop_shuffle();
    let time = 0.0..3.0;
    let fault = prop_oneof![
        (node.clone(), time.clone(), any::<bool>(), 0.1..5.0).prop_map(
            |(node, at_s, silent, after)| Fault::Crash {
                node,
                at_s,
                restart_after_s: Some(after),
                silent
            }
        ),
        (node, time.clone(), 0.1..3.0, 0.5..10.0).prop_map(|(node, from_s, lasts, factor)| {
            Fault::Slow { node, from_s, to_s: from_s + lasts, factor }
        }),
        (link.clone(), time.clone(), 0.1..15.0).prop_map(|(ends, from_s, lasts)| Fault::Cut {
            a: ends[0].clone(),
            b: ends[1].clone(),
            from_s,
            to_s: from_s + lasts
        }),
        (time.clone(), 0.1..3.0, 0.0..0.02, 0.0..0.5, 0.0..0.3).prop_map(
            |(from_s, lasts, lose, double, late_s)| Fault::Storm {
                from_s,
                to_s: from_s + lasts,
                lose,
                double,
                late_s
            }
        ),
        (link, time).prop_map(|(ends, after_s)| Fault::Lose {
            from: ends[0].clone(),
            to: ends[1].clone(),
            after_s
        }),
    ];
    proptest::collection::vec(fault, 0..5)
}

prop_compose! {
    fn scenarios()(topology in topologies())(
        faults in faults(topology),
        topology in Just(topology),
        seed in any::<u64>(),
        rate in 1.0..80.0_f64,
        cv in 0.5..4.0_f64,
        blocks in 100..2000_u32,
        max_waiting in 1..100_u32,
        chunk in proptest::sample::select(vec![16_u32, 256, 8192]),
        shared in 0..3_u32,
        noise in 0.0..0.3_f64,
        local in proptest::sample::select(vec![0_u32, 200]),
        declared in any::<bool>(),
        over in proptest::sample::select(vec![
            OverContext::Refuse, OverContext::Truncate, OverContext::Skip
        ]),
        bandwidth in 1e7..1e10_f64,
        moves in proptest::sample::select(vec![0.0, 5.0, 100.0]),
        rebalances in any::<bool>(),
    ) -> Scenario {
        let mut scenario = Scenario { seed, faults, ..Scenario::default() };
        let cluster = &mut scenario.cluster;
        cluster.topology = topology;
        cluster.model.max_context = 2000;
        cluster.network.bytes_per_second = bandwidth;
        for worker in [&mut cluster.prefill, &mut cluster.decode, &mut cluster.colocated] {
            worker.kv_blocks = blocks;
            worker.scheduler.chunk_tokens = chunk;
            worker.scheduler.max_batch_tokens = 2 * chunk;
            worker.scheduler.max_waiting = max_waiting;
            worker.noise = noise;
        }
        scenario.forced_moves_per_s = moves;
        scenario.rebalance.enabled = rebalances;
        scenario.policy.local_tokens = local;
        scenario.workload.requests = 60;
        scenario.workload.arrivals = Arrivals::Gamma { rate, cv };
        scenario.workload.prompt = Lengths::Lognormal { mean: 300.0, cv: 1.0, max: 2500 };
        scenario.workload.output = Lengths::Uniform { min: 1, max: 60 };
        scenario.workload.shared_prefixes = shared;
        scenario.workload.shared_tokens = 128;
        scenario.workload.over_context = over;
        scenario.slo = SloConfig { declared, ..SloConfig::default() };
        scenario
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_request_ends_once_and_everything_is_given_back(scenario in scenarios()) {
        let report = simulate(&scenario, None).unwrap();
        whole(&report);
        for outcome in &report.outcomes {
            if let Some(ttft) = outcome.ttft {
                prop_assert!(outcome.ended >= outcome.at + ttft);
            }
        }
        let again = simulate(&scenario, None).unwrap();
        prop_assert_eq!(&report.outcomes, &again.outcomes);
        prop_assert_eq!(report.json(), again.json());
    }
}

#[test]
fn another_seed_is_another_run() {
    let scenario = crate::scenarios::scenario((1, 1), 50, 5.0, (200, 20));
    let one = simulate(&scenario, None).unwrap();
    let other = simulate(&Scenario { seed: 8, ..scenario }, None).unwrap();
    assert_ne!(one.outcomes, other.outcomes);
}
