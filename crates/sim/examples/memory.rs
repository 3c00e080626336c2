//! What pools that are nearly full cost: preemptions, and attempts that nodes refused.
//!
//! `cargo run --release -p baton-sim --example memory [requests]`

#![expect(clippy::print_stdout, reason = "it prints a table")]

use baton_sim::{
    Scenario, Topology, simulate,
    workload::{Arrivals, Lengths},
};

fn main() {
    let requests = std::env::args().nth(1).map_or(3000, |arg| arg.parse().expect("a number"));
    println!(
        "| outputs | KV blocks | req/s | preemptions | retries | failed | KV mean, % | goodput, req/s |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (cv, kv_blocks) in [(0.5, 512), (1.0, 512), (2.0, 512), (2.0, 1024), (3.0, 1024)] {
        for rate in [8.0, 16.0, 24.0] {
            let report = simulate(&scenario(cv, kv_blocks, rate, requests), None).expect("sound");
            let decode = report.roles.iter().find(|role| role.role == "decode").expect("a role");
            let failed: u64 = report.failed.values().sum();
            println!(
                "| cv {cv} | {kv_blocks} | {rate} | {} | {} | {failed} | {:.1} | {:.2} |",
                decode.preemptions,
                report.retries,
                100.0 * decode.kv_mean,
                report.goodput
            );
        }
    }
}

/// Two decode nodes whose pools are full long before their time is: outputs with long tails, of which
/// nobody says how long they will be.
fn scenario(cv: f64, kv_blocks: u32, rate: f64, requests: u64) -> Scenario {
    let mut scenario = Scenario { seed: 1, ..Scenario::default() };
    scenario.cluster.topology = Topology::Disaggregated { prefill: 2, decode: 2 };
    scenario.cluster.decode.kv_blocks = kv_blocks;
    scenario.workload.requests = requests;
    scenario.workload.arrivals = Arrivals::Poisson { rate };
    scenario.workload.prompt = Lengths::Lognormal { mean: 256.0, cv: 1.0, max: 1024 };
    scenario.workload.output = Lengths::Lognormal { mean: 200.0, cv, max: 4096 };
    scenario.workload.max_tokens = Some(4096);
    scenario.slo.ttft_ms = Some(2000.0);
    scenario.slo.tpot_ms = Some(100.0);
    scenario
}
