//! The simulator beside the real engine: one prefill and one decode node on loopback, each with one
//! compute thread on a core of its own, and a profile that `baton profile` has just measured there.

use std::{fs, process::Command};

use anyhow::{Context, ensure};
use baton_sim::{
    Scenario, Topology,
    plan::DeviceProfile,
    simulate,
    workload::{Arrivals, Lengths, WorkloadConfig},
};
use baton_tests::{Cluster, Engine, Options, Pid, baton};
use baton_types::StepShape;
use rustix::{
    process::Pid as RawPid,
    thread::{CpuSet, sched_setaffinity},
};

use crate::{
    Scale, fidelity,
    live::{self, Run},
};

/// Where a node computes, with one thread.
const COMPUTE_THREAD: &str = "baton-step";
/// Mean tokens of a prompt and of an output, and the longest.
const PROMPT: (u32, u32) = (48, 256);
const OUTPUT: (u32, u32) = (24, 64);
/// Of the prefill node's time, what the prompts are to take.
const LOAD: f64 = 0.4;

pub(crate) fn section(scale: Scale) -> anyhow::Result<String> {
    let (measuring, seconds) = if scale == Scale::Short { ("20s", 30.0) } else { ("90s", 120.0) };
    let runtime = tokio::runtime::Runtime::new()?;
    let runs = (0..scale.seeds()).map(|seed| {
        let cluster =
            Cluster::start(&Options::new(Engine::Llama).nodes(1, 1).set("engine.threads=1"))?;
        for (core, node) in ["prefill-1", "decode-1"].iter().enumerate() {
            pin(cluster.child(node)?, core)?;
        }
        let profile = measure(cluster.url(), measuring)?;
        let (mut scenario, rate) = scenario(&profile, seed, seconds)?;
        let (url, model, costs) =
            (cluster.url(), &profile.model.name, profile.parallelism[0].steps());
        let overhead = runtime.block_on(live::overhead(url, model, &costs))?;
        eprintln!("{rate:.1} requests/s; {overhead}");
        // There and back.
        scenario.cluster.network.router_latency_us = overhead.beyond / 2.0;
        let seen = runtime.block_on(live::drive(url, model, &scenario))?;
        Ok((rate, Run { seen, report: simulate(&scenario, None)? }))
    });
    let (rates, runs): (Vec<f64>, Vec<Run>) =
        runs.collect::<anyhow::Result<Vec<_>>>()?.into_iter().unzip();
    let rate = rates.iter().sum::<f64>() / rates.len() as f64;
    let rows = live::rows(&format!("1 + 1 | {rate:.1}"), &runs)?;
    Ok(format!("{}{rows}", fidelity::HEAD))
}

/// Poisson arrivals of short prompts, so many a second.
fn scenario(profile: &DeviceProfile, seed: u64, seconds: f64) -> anyhow::Result<(Scenario, f64)> {
    let (mean, max) = PROMPT;
    let mut shape = StepShape::default();
    shape.add_prefill(mean as usize, 0);
    let rate = LOAD / profile.parallelism[0].steps().step(&shape).as_secs_f64();
    let lengths = |(mean, max): (u32, u32)| Lengths::Lognormal { mean: mean.into(), cv: 0.5, max };
    let mut scenario = Scenario { seed, ..Scenario::default() };
    scenario.cluster = profile.cluster(0, Topology::Disaggregated { prefill: 1, decode: 1 })?;
    scenario.workload = WorkloadConfig {
        requests: (rate * seconds) as u64,
        arrivals: Arrivals::Poisson { rate },
        prompt: lengths((mean, max)),
        output: lengths(OUTPUT),
        ..WorkloadConfig::default()
    };
    Ok((scenario, rate))
}

/// As anybody would measure it.
fn measure(url: &str, time: &str) -> anyhow::Result<DeviceProfile> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("profile.toml");
    let mut command = Command::new(baton());
    command.args(["profile", "--url", url, "--time", time, "--out"]).arg(&path);
    ensure!(command.status()?.success(), "`baton profile` failed");
    Ok(toml::from_str(&fs::read_to_string(&path)?)?)
}

/// Binds the thread that computes to a core.
fn pin(node: &Pid, core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    for entry in fs::read_dir(format!("/proc/{}/task", node.id()))? {
        let thread = entry?;
        let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        if name.trim() == COMPUTE_THREAD {
            let id = thread.file_name().to_str().and_then(|id| id.parse().ok());
            let id = id.and_then(RawPid::from_raw).context("a thread has a number")?;
            return sched_setaffinity(Some(id), &cores)
                .with_context(|| format!("binding {COMPUTE_THREAD} to core {core}"));
        }
    }
    anyhow::bail!("process {} has no thread {COMPUTE_THREAD}", node.id())
}
