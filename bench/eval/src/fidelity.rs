//! The simulator beside a real cluster: real processes with the simulated engine on loopback, and the
//! same requests at the same times.

use baton_scheduler::{SchedulerConfig, sim::SimConfig};
use baton_sim::{
    LatencyConfig, ModelConfig, NetworkConfig, Scenario, Topology, WorkerConfig, simulate,
    workload::{Arrivals, Lengths, SloConfig, WorkloadConfig},
};
use baton_tests::{Cluster, Engine, Options};
use baton_types::{KvLayout, LatencyProfile, Mixing};

use crate::{
    Scale,
    live::{self, Run},
};

/// Of the table, also of the real engine's.
pub(crate) const HEAD: &str =
    "| nodes | req/s | | real | simulated | off |\n| --- | --- | --- | --- | --- | --- |\n";
/// What nodes with the simulated engine call it.
const MODEL: &str = "sim";
/// Steps of at least five milliseconds: what the machine does besides is small beside them.
const PROFILE: LatencyProfile = LatencyProfile {
    prefill_us: 8000.0,
    prefill_token_us: 60.0,
    prefill_attention_us: 0.005,
    decode_us: 10_000.0,
    decode_sequence_us: 400.0,
    decode_context_us: 0.5,
    mixing: Mixing::Sum,
};
/// Prefill nodes, decode nodes, and requests a second: idle, busy, and a larger cluster.
const LOADS: [(u32, u32, f64); 3] = [(2, 2, 10.0), (2, 2, 30.0), (4, 4, 50.0)];
/// A pool of each node that holds whatever comes.
const BLOCKS: u32 = 1 << 16;
/// What the attainment is of; nobody is told.
const SLO: SloConfig = SloConfig {
    ttft_ms: Some(80.0),
    ttft_per_prompt_token_us: 0.0,
    tpot_ms: Some(16.0),
    declared: false,
};

fn scenario(prefill: u32, decode: u32, rate: f64, seed: u64, scale: Scale) -> Scenario {
    let mut scenario = Scenario { seed, ..Scenario::default() };
    let worker = WorkerConfig {
        profile: PROFILE,
        scheduler: SchedulerConfig::default(),
        kv_blocks: BLOCKS,
        ..WorkerConfig::default()
    };
    let seconds = if scale == Scale::Short { 20.0 } else { 60.0 };
    let SimConfig { layout, max_context, vocab, .. } = SimConfig::default();
    let KvLayout { layers, kv_heads, head_dim, block_tokens, dtype } = layout;
    scenario.cluster.model =
        ModelConfig { layers, kv_heads, head_dim, block_tokens, dtype, max_context, vocab };
    scenario.cluster.topology = Topology::Disaggregated { prefill, decode };
    (scenario.cluster.prefill, scenario.cluster.decode) = (worker, worker);
    // Loopback's, which is no limit here; the router's is measured.
    scenario.cluster.network =
        NetworkConfig { bytes_per_second: 2e9, latency_us: 50.0, ..NetworkConfig::default() };
    scenario.latency = LatencyConfig { seed: Some(PROFILE), ..LatencyConfig::default() };
    scenario.workload = WorkloadConfig {
        requests: (rate * seconds) as u64,
        arrivals: Arrivals::Poisson { rate },
        prompt: Lengths::Lognormal { mean: 300.0, cv: 1.0, max: 2000 },
        output: Lengths::Lognormal { mean: 50.0, cv: 1.0, max: 200 },
        ..WorkloadConfig::default()
    };
    scenario.slo = SLO;
    scenario
}

/// The same cluster as processes.
fn options(prefill: u32, decode: u32) -> Options {
    let mut options = Options::new(Engine::Sim).nodes(prefill, decode);
    for (name, us) in LatencyProfile::COEFFICIENTS.iter().zip(PROFILE.coefficients()) {
        options = options
            .set(format!("engine.profile.{name}_us={us:?}"))
            .router_set(format!("latency.default.{name}_us={us:?}"));
    }
    options
}

pub(crate) fn section(scale: Scale) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut out = HEAD.to_owned();
    for (prefill, decode, rate) in LOADS {
        let runs = (0..scale.seeds()).map(|seed| {
            let mut scenario = scenario(prefill, decode, rate, seed, scale);
            let cluster = Cluster::start(&options(prefill, decode))?;
            let overhead = runtime.block_on(live::overhead(cluster.url(), MODEL, &PROFILE))?;
            eprintln!("{prefill} + {decode}: {overhead}");
            // There and back.
            scenario.cluster.network.router_latency_us = overhead.beyond / 2.0;
            let seen = runtime.block_on(live::drive(cluster.url(), MODEL, &scenario))?;
            Ok(Run { seen, report: simulate(&scenario, None)? })
        });
        let runs = runs.collect::<anyhow::Result<Vec<Run>>>()?;
        let cells = format!("{prefill} + {decode} | {rate:.0}");
        out += &live::rows(&cells, &runs)?;
        out += &live::attainment_row(&cells, &runs, SLO);
    }
    Ok(out)
}
