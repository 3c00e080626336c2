//! `cargo xtask bench`: each program measures one part and prints what it measured; programs that
//! are compared alternate inside one run, so that a machine's moods meet both.

pub(crate) mod measurement;

use std::{fs, num::NonZeroUsize, path::PathBuf, process::Command};

use anyhow::Context;

use self::measurement::{Measurement, Rounds};
use crate::{
    step::{cargo, output, run, target_dir},
    tools,
};

#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Write the measurements as a JSON array of {name, value, unit, anchor?, ratio?}.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often everything is measured; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Compute threads of the engine and of stock candle. Left out: one for each core.
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// GGUF file to measure with. Left out: the default model.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
}

pub(crate) fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    run(
        "building",
        cargo().args(["build", "--release", "--locked"]).args([
            "--package=baton",
            "--package=candle-baseline",
            "--package=relay-bench",
            "--package=placement-bench",
            "--package=baton-engine",
            "--package=baton-kv-transfer",
            "--bins",
            "--examples",
        ]),
    )?;
    let release = target_dir()?.join("release");
    let model = match &args.model {
        Some(model) => model.clone(),
        None => tools::model(&release.join("baton"))?,
    };
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = args.threads.map_or(cores, NonZeroUsize::get).to_string();
    let engines = |program: PathBuf| {
        let mut program = Command::new(program);
        measure(program.arg(&model).arg(&threads).env("RAYON_NUM_THREADS", &threads))
    };

    let mut rounds = Rounds::default();
    for round in 1..=args.rounds {
        println!("── round {round} of {}", args.rounds);
        let stock = engines(release.join("candle-baseline"))?;
        let engine = engines(release.join("examples").join("engine_bench"))?;
        let relay = measure(Command::new(release.join("relay-bench")).arg(release.join("baton")))?;
        let placement = measure(&mut Command::new(release.join("placement-bench")))?;
        let transfer = measure(&mut Command::new(release.join("examples").join("transfer_bench")))?;
        rounds.add(measurement::anchored(engine, &stock, "candle"));
        rounds.add(stock.into_iter().map(|m| m.renamed("candle ")).collect());
        rounds.add(transfer);
        rounds.add(relay);
        rounds.add(placement);
    }

    let medians = rounds.medians();
    print!("{}", measurement::table(&medians));
    if let Some(file) = &args.json {
        let json = serde_json::to_string_pretty(&medians).context("measurements")?;
        fs::write(file, json + "\n").with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// Runs a program that prints measurements, each a line of JSON.
fn measure(program: &mut Command) -> anyhow::Result<Vec<Measurement>> {
    let text = output(&format!("{program:?}"), program)?;
    measurement::parse(&text).with_context(|| format!("output of {program:?}"))
}
