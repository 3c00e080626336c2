//! How many requests a second are simulated on one core.
//!
//! `cargo run --release -p baton-sim --example speed [workers] [requests] [rate]`

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "it measures real time")]

use baton_sim::{Scenario, Topology, simulate, workload::Arrivals};

fn main() {
    let mut numbers = std::env::args().skip(1).map(|arg| arg.parse::<f64>().expect("a number"));
    let workers = numbers.next().unwrap_or(64.0) as u32;
    let requests = numbers.next().unwrap_or(20_000.0) as u64;
    let rate = numbers.next().unwrap_or(3.0 * f64::from(workers));
    let mut scenario = Scenario { seed: 1, ..Scenario::default() };
    let prefill = workers / 2;
    scenario.cluster.topology = Topology::Disaggregated { prefill, decode: workers - prefill };
    scenario.workload.requests = requests;
    scenario.workload.arrivals = Arrivals::Poisson { rate };
    let began = std::time::Instant::now();
    let report = simulate(&scenario, None).expect("a sound scenario");
    let took = began.elapsed().as_secs_f64();
    println!("{report}");
    println!(
        "{workers} workers: {requests} requests in {took:.2} s: {:.0} requests/s, {:.1} million an \
         hour; {} events",
        requests as f64 / took,
        requests as f64 / took * 3600.0 / 1e6,
        report.events
    );
}
