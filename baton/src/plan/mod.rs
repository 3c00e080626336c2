//! `baton plan`: what to buy for a workload.

mod slo;
mod text;
mod values;

use std::path::PathBuf;

use baton_sim::{
    ChartError,
    plan::{PlanError, PlanRequest, Planner},
    workload::{Lengths, WorkloadConfig},
};
use rayon::prelude::*;

use self::slo::Targets;
use crate::files::{FileError, read_toml, read_trace, write};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PlanArgs {
    /// What the model costs on a device (deploy/profiles has some). Several: devices to choose from,
    /// for each phase.
    #[arg(long = "profile", value_name = "FILE", required = true, num_args = 1..)]
    profiles: Vec<PathBuf>,
    /// A recorded trace of requests: Azure's or BurstGPT's CSV, or Mooncake's JSON lines.
    /// Without it and without --prompt and --output: lengths like ShareGPT's.
    #[arg(long, value_name = "TRACE", conflicts_with_all = ["prompt", "output"])]
    workload: Option<PathBuf>,
    /// Tokens of every prompt.
    #[arg(long, value_name = "TOKENS", requires = "output")]
    prompt: Option<u32>,
    /// Tokens of every output.
    #[arg(long, value_name = "TOKENS", requires = "prompt")]
    output: Option<u32>,
    /// Targets in seconds, for time to first token and time per output token.
    #[arg(long, value_name = "ttft=S,tpot=S", value_parser = slo::parse)]
    slo: Targets,
    /// Requests a second to serve.
    #[arg(long, value_name = "RATE")]
    rate: f64,
    /// Share of requests that must meet both targets.
    #[arg(long, value_name = "SHARE", default_value_t = 0.9)]
    attainment: f64,
    /// Everything random follows from it.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print the plan as JSON.
    #[arg(long)]
    json: bool,
    /// Draw price over capacity.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write replicas of both phases and the model as Helm values.
    #[arg(long, value_name = "FILE")]
    helm_values: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanCommandError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path}: {source}")]
    Profile { path: PathBuf, source: baton_sim::plan::ProfileError },
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Chart(#[from] ChartError),
    #[error(
        "--helm-values: no configuration of the plan has workers for each phase, and Baton's nodes \
         have one phase each"
    )]
    NotDisaggregated,
}

/// Plans, and tells about it.
pub(crate) fn plan(args: &PlanArgs) -> Result<(), PlanCommandError> {
    let planner = Planner::new(args.request()?)?;
    let plan = planner.plan(&|planner, jobs| {
        jobs.par_iter().with_max_len(1).map(|job| planner.run(job)).collect()
    })?;
    if let Some(path) = &args.svg {
        write(path, plan.svg()?.as_bytes())?;
    }
    if let Some(path) = &args.helm_values {
        let values = values::document(&plan).ok_or(PlanCommandError::NotDisaggregated)?;
        write(path, values.as_bytes())?;
    }
    if args.json {
        println!("{}", plan.json());
    } else {
        print!("{}", text::Text(&plan));
    }
    Ok(())
}

impl PlanArgs {
    fn request(&self) -> Result<PlanRequest, PlanCommandError> {
        let mut profiles: Vec<baton_sim::plan::DeviceProfile> = Vec::new();
        for path in &self.profiles {
            let profile: baton_sim::plan::DeviceProfile = read_toml(path)?;
            profile.validate().map_err(|source| {
                let path = path.clone();
                PlanCommandError::Profile { path, source }
            })?;
            profiles.push(profile);
        }
        let mut workload = WorkloadConfig::default();
        if let (Some(prompt), Some(output)) = (self.prompt, self.output) {
            workload.prompt = Lengths::Fixed { tokens: prompt };
            workload.output = Lengths::Fixed { tokens: output };
        }
        let trace = self.workload.as_deref().map(read_trace).transpose()?;
        Ok(PlanRequest {
            profiles,
            workload,
            trace: trace.map(Into::into),
            ttft_ms: self.slo.ttft_ms,
            tpot_ms: self.slo.tpot_ms,
            attainment: self.attainment,
            rate: self.rate,
            seed: self.seed,
        })
    }
}
