//! What following advice is worth: load that surges to four times its rate and falls again, served by
//! as many workers as the surge takes, and by those that each formula recommends.
//!
//! `cargo run --release -p baton-sim --example advice [seeds]`

#![expect(clippy::print_stdout, reason = "it prints a table")]

use baton_policy::advice::{AdviceConfig, Formula};
use baton_sim::{
    Report, ScalingConfig, ScalingReport, Scenario, Topology,
    plan::roofline::catalogue,
    simulate,
    workload::{Arrivals, SloConfig},
};

/// TTFT and TPOT, ms.
const TARGETS: [(f64, f64); 2] = [(250.0, 40.0), (200.0, 25.0)];
/// Requests a second, and for how long each.
const RATE: f64 = 8.0;
const PEAK: f64 = 32.0;
const SECONDS: f64 = 600.0;
/// Workers.
const MOST: u32 = 16;

/// Llama-3-8B on A100s, one a worker; lengths like ShareGPT's.
fn scenario(targets: (f64, f64), seed: u64, prefill: u32, decode: u32) -> Scenario {
    let profiles = catalogue();
    let named = profiles.iter().find(|sourced| sourced.file == "llama-3-8b-a100-80gb");
    let profile = &named.expect("it is there").profile;
    let worker = profile.worker(0, profile.scheduler).expect("the model fits");
    let mut scenario = Scenario { seed, ..Scenario::default() };
    scenario.cluster.model = profile.model_config();
    scenario.cluster.network.bytes_per_second = profile.device.link_bytes_per_second;
    (scenario.cluster.prefill, scenario.cluster.decode) = (worker, worker);
    scenario.cluster.topology = Topology::Disaggregated { prefill, decode };
    scenario.workload.requests = (SECONDS * (2.0 * RATE + PEAK)) as u64;
    let (from_s, to_s) = (SECONDS, 2.0 * SECONDS);
    scenario.workload.arrivals = Arrivals::Surge { rate: RATE, peak: PEAK, from_s, to_s };
    scenario.slo = SloConfig {
        ttft_ms: Some(targets.0),
        tpot_ms: Some(targets.1),
        declared: true,
        ..SloConfig::default()
    };
    scenario
}

fn run(scenario: &Scenario) -> Report {
    simulate(scenario, None).expect("a sound scenario")
}

/// The smallest fixed cluster that meets the targets for 90 % of the surge's requests.
fn peak(targets: (f64, f64)) -> (u32, u32) {
    let is_enough = |&(prefill, decode): &(u32, u32)| {
        let mut scenario = scenario(targets, 0, prefill, decode);
        scenario.workload.requests = (60.0 * PEAK) as u64;
        scenario.workload.arrivals = Arrivals::Poisson { rate: PEAK };
        run(&scenario).attainment >= 0.9
    };
    let mut clusters =
        (2..=MOST).flat_map(|all| (1..all).map(move |prefill| (prefill, all - prefill)));
    clusters.find(is_enough).expect("a cluster that takes the surge")
}

/// Attainment of the requests that came in each of the three parts.
fn parts(report: &Report) -> [f64; 3] {
    [0.0, 1.0, 2.0].map(|part| {
        let came = report.outcomes.iter().filter(|outcome| {
            let at = outcome.at.as_nanos() as f64 / 1e9 / SECONDS;
            (part..part + 1.0).contains(&at)
        });
        let met: Vec<bool> = came.map(baton_sim::Outcome::met).collect();
        met.iter().filter(|met| **met).count() as f64 / met.len() as f64
    })
}

fn row(
    (ttft, tpot): (f64, f64),
    name: &str,
    reports: &[Report],
    node_seconds: &dyn Fn(&Report) -> f64,
) {
    let mean =
        |of: &dyn Fn(&Report) -> f64| reports.iter().map(of).sum::<f64>() / reports.len() as f64;
    let percent = |of: &dyn Fn(&Report) -> f64| format!("{:.1}", 100.0 * mean(of));
    let changes = |report: &Report| {
        report.scaling.as_ref().map_or(0.0, |scaling| scaling.changes.len() as f64 - 1.0)
    };
    println!(
        "| {ttft} / {tpot} | {name} | {} | {} | {} | {} | {:.0} | {:.1} |",
        percent(&|report| report.attainment),
        percent(&|report| parts(report)[0]),
        percent(&|report| parts(report)[1]),
        percent(&|report| parts(report)[2]),
        mean(node_seconds),
        mean(&changes)
    );
}

fn main() {
    let seeds = std::env::args().nth(1).map_or(3, |seeds| seeds.parse().expect("a number"));
    println!(
        "| TTFT / TPOT, ms | | attained, % | before | surge | after | node-seconds | changes |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for targets in TARGETS {
        let (prefill, decode) = peak(targets);
        let fixed: Vec<Report> =
            (0..seeds).map(|seed| run(&scenario(targets, seed, prefill, decode))).collect();
        let all = f64::from(prefill + decode);
        let name = format!("fixed {prefill} + {decode}");
        row(targets, &name, &fixed, &|report| all * report.duration_s);
        for formula in Formula::ALL {
            let advised = |seed| {
                let mut scenario = scenario(targets, seed, MOST, MOST);
                let advice = AdviceConfig { formula, ..AdviceConfig::default() };
                let scaling =
                    ScalingConfig { prefill: 2, decode: 2, advice, ..ScalingConfig::default() };
                scenario.scaling = Some(scaling);
                run(&scenario)
            };
            let reports: Vec<Report> = (0..seeds).map(advised).collect();
            let node_seconds =
                |report: &Report| report.scaling.as_ref().map_or(0.0, ScalingReport::node_seconds);
            row(targets, formula.name(), &reports, &node_seconds);
        }
    }
}
