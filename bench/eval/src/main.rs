//! What Baton's router is worth, on virtual time: the figures of docs/evaluation.md.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool speaks there")]

mod dispatch;
mod distserve;
mod document;
mod engine;
mod fidelity;
mod live;
mod overload;
mod rebalance;
mod roles;
mod search;
mod system;
mod traces;
mod workers;

use std::{
    fs::{self, File},
    io::BufReader,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::Context;
use baton_policy::Policy;
use baton_sim::{plan::DeviceProfile, workload::Trace};
use clap::{Parser, ValueEnum};

use crate::{
    system::{Shape, System},
    traces::Cell,
};

#[derive(Debug, Parser)]
struct Cli {
    /// Folder with azure_llm_2023_conv.csv (AzurePublicDataset) and mooncake_synthetic.jsonl
    /// (Mooncake's FAST'25 release).
    #[arg(long, value_name = "DIR")]
    traces: PathBuf,
    /// Folder with the device profiles.
    #[arg(long, value_name = "DIR", default_value = "deploy/profiles")]
    profiles: PathBuf,
    /// Put the tables into this document.
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
    /// What to evaluate; left out: everything.
    #[arg(value_name = "SECTION")]
    sections: Vec<Section>,
    /// Fewer cells, requests and seeds, in less than five minutes.
    #[arg(long)]
    short: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    Distserve,
    /// With overload, which begins where this ends.
    Traces,
    /// Both traces on 64 workers.
    Large,
    Dispatch,
    /// Running requests that move, and that don't.
    Rebalance,
    /// How many workers are needed for the same P99 of times.
    Workers,
    /// Nodes that change roles, and that don't.
    Roles,
    /// Beside real processes: needs the machine to itself, and baton's binary in BATON_BIN.
    Fidelity,
    /// The same with the real engine, the default model and a measured profile.
    Engine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    Short,
    Full,
}

impl Scale {
    pub(crate) fn seeds(self) -> u64 {
        match self {
            Scale::Short => 1,
            Scale::Full => 3,
        }
    }
}

/// What is read from files.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub(crate) llama: Arc<DeviceProfile>,
    pub(crate) opt: Arc<DeviceProfile>,
    pub(crate) azure: Arc<Trace>,
    pub(crate) mooncake: Arc<Trace>,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let trace = |name: &str| read_trace(&cli.traces.join(name));
    let profile = |name: &str| read_profile(&cli.profiles.join(name));
    let inputs = Inputs {
        llama: Arc::new(profile("llama-3-8b-h100-80gb.toml")?),
        opt: Arc::new(profile("opt-13b-a100.toml")?),
        azure: Arc::new(trace("azure_llm_2023_conv.csv")?),
        mooncake: Arc::new(trace("mooncake_synthetic.jsonl")?),
    };
    let scale = if cli.short { Scale::Short } else { Scale::Full };
    let mut sections = cli.sections.clone();
    if sections.is_empty() {
        let all = Section::value_variants().iter().copied();
        // One cell of these takes longer than all the rest of a short run.
        let is_long = |section: &Section| matches!(section, Section::Large | Section::Workers);
        sections.extend(all.filter(|section| !(cli.short && is_long(section))));
    }
    let tell = |name: &str, table: String| tell(cli.document.as_deref(), name, &table);
    for section in sections {
        let began = Instant::now();
        match section {
            Section::Distserve => tell("distserve", distserve::section(&inputs, scale)?)?,
            Section::Traces => traces_and_overload(&inputs, scale, &tell)?,
            Section::Large => tell("traces-64", large(&inputs, scale)?)?,
            Section::Dispatch => tell("dispatch", dispatch::section(&inputs, scale)?)?,
            Section::Rebalance => tell("rebalance", rebalance::section(&inputs, scale)?)?,
            Section::Workers => tell("workers", workers::section(&inputs, scale)?)?,
            Section::Roles => tell("roles", roles::section(&inputs, scale)?)?,
            Section::Fidelity => tell("fidelity", fidelity::section(scale)?)?,
            Section::Engine => tell("engine", engine::section(scale)?)?,
        }
        eprintln!("{section:?}: {:.0} s", began.elapsed().as_secs_f64());
    }
    Ok(())
}

/// A section's table is done.
fn tell(document: Option<&Path>, section: &str, table: &str) -> anyhow::Result<()> {
    println!("── {section}\n\n{table}");
    if let Some(path) = document {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        fs::write(path, document::replace(&text, section, table)?)?;
    }
    Ok(())
}

/// Cells that are evaluated on 64 workers: from the tightest targets to the loosest, of both traces.
const LARGE: [usize; 6] = [0, 4, 8, 9, 13, 17];

/// Beside the split baselines that came first in a cell on 16 workers.
fn large(inputs: &Inputs, scale: Scale) -> anyhow::Result<String> {
    let seeds = scale.seeds();
    let cells = traces::cells(inputs, 64, seeds);
    let best = [Policy::Freeness, Policy::KvCost, Policy::PrefixAffinity];
    let best = best.map(|policy| System { policy, shape: Shape::Split });
    let chosen = if scale == Scale::Short { &LARGE[1..2] } else { &LARGE[..] };
    let chosen = chosen.iter().map(|at| (cells[*at].clone(), best.to_vec()));
    let compared = traces::compare(&chosen.collect::<Vec<_>>(), seeds)?;
    Ok(traces::table(&compared) + &traces::summary(&compared))
}

fn traces_and_overload(
    inputs: &Inputs,
    scale: Scale,
    tell: &dyn Fn(&str, String) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let seeds = scale.seeds();
    let mut cells = traces::cells(inputs, 16, seeds);
    if scale == Scale::Short {
        // The middle of each trace's grid.
        cells = [4, 13].map(|at: usize| cells[at].clone()).to_vec();
    }
    let all = |cell: Cell| (cell, traces::baselines());
    let small = traces::compare(&cells.into_iter().map(all).collect::<Vec<_>>(), seeds)?;
    let table = [traces::table, traces::summary, traces::all_baselines].map(|part| part(&small));
    tell("traces", table.concat())?;
    if scale == Scale::Short {
        return tell("overload", overload::section(&small.iter().collect::<Vec<_>>())?);
    }
    let middle = [4, 13].map(|at: usize| &small[at]);
    tell("overload", overload::section(&middle)?)
}

fn read_profile(path: &Path) -> anyhow::Result<DeviceProfile> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    toml::from_str(&text).with_context(|| path.display().to_string())
}

fn read_trace(path: &Path) -> anyhow::Result<Trace> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    Trace::read_any(BufReader::new(file)).with_context(|| path.display().to_string())
}
