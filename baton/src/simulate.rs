//! `baton simulate`: a cluster on virtual time, from a scenario file, flags, or both.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use baton_sim::{
    CapacityConfig, CapacityError, ChartError, ClusterConfig, Scenario, ScenarioError, Topology,
    plan::{DeviceProfile, ProfileError},
    workload::{Arrivals, Lengths},
};
use baton_types::LatencyProfile;

use crate::files::{FileError, read_toml, read_trace};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SimulateArgs {
    /// Scenario, TOML. Flags go before it; what neither says has a default.
    #[arg(value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Prefill nodes.
    #[arg(long, value_name = "N")]
    prefill: Option<u32>,
    /// Decode nodes.
    #[arg(long, value_name = "N")]
    decode: Option<u32>,
    /// Workers that do both, instead of prefill and decode nodes.
    #[arg(long, value_name = "N", conflicts_with_all = ["prefill", "decode"])]
    colocated: Option<u32>,
    /// What steps cost on every worker: a latency profile, or a device's as `baton plan` and `baton
    /// profile` have them, whose model, pools, limits and link are then taken too; TOML.
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// How nodes are chosen: joint, round_robin, random, least_outstanding, …
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// Requests a second; a trace's requests are moved together or apart until they come so.
    #[arg(long, value_name = "RATE")]
    rate: Option<f64>,
    /// Requests offered.
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// Tokens of every prompt.
    #[arg(long, value_name = "TOKENS")]
    prompt: Option<u32>,
    /// Tokens of every output.
    #[arg(long, value_name = "TOKENS")]
    output: Option<u32>,
    /// Replay a recorded trace: Azure's or BurstGPT's CSV, or Mooncake's JSON lines.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Target for the time to first token.
    #[arg(long, value_name = "MS")]
    ttft_ms: Option<f64>,
    /// Target for the mean time between tokens.
    #[arg(long, value_name = "MS")]
    tpot_ms: Option<f64>,
    /// Everything random follows from it.
    #[arg(long)]
    seed: Option<u64>,
    /// Search for the highest rate at which 90 % of requests meet their targets.
    #[arg(long)]
    capacity: bool,
    /// Share of requests to meet their targets, instead of 90 %.
    #[arg(long, value_name = "SHARE", requires = "capacity")]
    attainment: Option<f64>,
    /// Seeds to search with; their spread is the figure's confidence interval.
    #[arg(long, value_name = "N", requires = "capacity")]
    seeds: Option<u32>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// Write a row for each request; with --capacity, for each rate.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draw the distributions of both times; with --capacity, attainment over rate.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print the scenario that the flags make, as a file to begin with, and simulate nothing.
    #[arg(long)]
    print_scenario: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SimulateError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path}: {source}")]
    Profile { path: PathBuf, source: ProfileError },
    #[error("--policy {given}: {message}")]
    Policy { given: String, message: String },
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    #[error(transparent)]
    Capacity(#[from] CapacityError),
    #[error(transparent)]
    Chart(#[from] ChartError),
    #[error("the scenario can't be written: {0}")]
    Print(#[from] toml::ser::Error),
}

/// Simulates, and tells about it.
pub(crate) fn simulate(args: &SimulateArgs) -> Result<(), SimulateError> {
    let scenario = args.scenario()?;
    if args.print_scenario {
        print!("{}", toml::to_string(&scenario)?);
        return Ok(());
    }
    let trace = args.trace.as_deref().map(read_trace).transpose()?.map(Arc::new);
    if args.capacity {
        let defaults = CapacityConfig::default();
        let config = CapacityConfig {
            attainment: args.attainment.unwrap_or(defaults.attainment),
            seeds: args.seeds.unwrap_or(defaults.seeds),
            ..defaults
        };
        let capacity = config.search(&scenario, trace.as_ref())?;
        write_to(args.csv.as_deref(), |out| capacity.write_csv(out))?;
        draw(args.svg.as_deref(), || capacity.svg())?;
        print(args.json, &capacity, || capacity.json());
        return Ok(());
    }
    let report = baton_sim::simulate(&scenario, trace.as_ref())?;
    write_to(args.csv.as_deref(), |out| report.write_csv(out))?;
    draw(args.svg.as_deref(), || report.svg())?;
    print(args.json, &report, || report.json());
    Ok(())
}

impl SimulateArgs {
    fn scenario(&self) -> Result<Scenario, SimulateError> {
        let mut scenario: Scenario = match &self.scenario {
            Some(path) => read_toml(path)?,
            None => Scenario::default(),
        };
        let cluster = &mut scenario.cluster;
        cluster.topology = match (self.colocated, cluster.topology) {
            (Some(workers), _) => Topology::Colocated { workers },
            (None, Topology::Disaggregated { prefill, decode }) => Topology::Disaggregated {
                prefill: self.prefill.unwrap_or(prefill),
                decode: self.decode.unwrap_or(decode),
            },
            (None, colocated) if self.prefill.is_none() && self.decode.is_none() => colocated,
            (None, _) => Topology::Disaggregated {
                prefill: self.prefill.unwrap_or(1),
                decode: self.decode.unwrap_or(1),
            },
        };
        if let Some(path) = &self.profile {
            let keys: toml::Table = read_toml(path)?;
            if keys.contains_key("parallelism") {
                let impossible = |source| SimulateError::Profile { path: path.clone(), source };
                let device: DeviceProfile = read_toml(path)?;
                device.validate().map_err(impossible)?;
                // Its first way to build a worker.
                let like = device.cluster(0, cluster.topology).map_err(impossible)?;
                let ClusterConfig { model, prefill, decode, colocated, network, .. } = like;
                *cluster =
                    ClusterConfig { model, prefill, decode, colocated, network, ..cluster.clone() };
            } else {
                let profile: LatencyProfile = read_toml(path)?;
                for worker in [&mut cluster.prefill, &mut cluster.decode, &mut cluster.colocated] {
                    worker.profile = profile;
                }
            }
        }
        if let Some(given) = &self.policy {
            let policy = toml::Value::String(given.clone()).try_into();
            scenario.policy.policy = policy.map_err(|error: toml::de::Error| {
                let message = error.message().to_owned();
                SimulateError::Policy { given: given.clone(), message }
            })?;
        }
        let workload = &mut scenario.workload;
        if let Some(rate) = self.rate {
            workload.arrivals = match workload.arrivals {
                Arrivals::Ramp { .. } | Arrivals::Surge { .. } => Arrivals::Poisson { rate },
                arrivals => arrivals.at_rate(rate),
            };
            workload.trace_rate = self.trace.as_ref().map(|_| rate);
        }
        // A whole trace, unless somebody says how much of it.
        match self.requests {
            Some(requests) => workload.requests = requests,
            None if self.trace.is_some() && self.scenario.is_none() => {
                workload.requests = u64::MAX;
            }
            None => {}
        }
        if let Some(tokens) = self.prompt {
            workload.prompt = Lengths::Fixed { tokens };
        }
        if let Some(tokens) = self.output {
            workload.output = Lengths::Fixed { tokens };
        }
        scenario.slo.ttft_ms = self.ttft_ms.or(scenario.slo.ttft_ms);
        scenario.slo.tpot_ms = self.tpot_ms.or(scenario.slo.tpot_ms);
        scenario.seed = self.seed.unwrap_or(scenario.seed);
        Ok(scenario)
    }
}

fn write_to(
    path: Option<&Path>,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), SimulateError> {
    let Some(path) = path else { return Ok(()) };
    let written = File::create(path).and_then(|file| {
        let mut out = BufWriter::new(file);
        write(&mut out)?;
        out.flush()
    });
    Ok(written.map_err(FileError::of(path))?)
}

fn draw(
    path: Option<&Path>,
    draw: impl FnOnce() -> Result<String, ChartError>,
) -> Result<(), SimulateError> {
    let Some(path) = path else { return Ok(()) };
    let document = draw()?;
    write_to(Some(path), |out| out.write_all(document.as_bytes()))
}

/// A reader that has seen enough, as `head` has, is no error.
fn print(as_json: bool, text: &impl std::fmt::Display, json: impl FnOnce() -> String) {
    let mut out = io::stdout().lock();
    let _ = if as_json { writeln!(out, "{}", json()) } else { write!(out, "{text}") };
}
