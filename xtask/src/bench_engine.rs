//! `cargo xtask bench-engine`: the CPU engine beside llama.cpp, figure by figure in turn, and what the machine could do.

use std::{
    fmt::Write,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::{
    bench::measurement::{self, Measurement, Rounds},
    step::{cargo, output, run, target_dir},
    tools,
};

#[derive(Debug, clap::Args)]
pub(crate) struct BenchEngineArgs {
    /// How often everything is measured; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Compute threads of both. Left out: one for each core.
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// GGUF file to measure with. Left out: the default model.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Instructions ours is to use. Left out: the best there are.
    #[arg(long)]
    isa: Option<String>,
    /// Folder with llama-bench and llama-batched-bench. Left out: wherever they are on the PATH; without them ours is
    /// measured alone.
    #[arg(long, value_name = "FOLDER")]
    llama: Option<PathBuf>,
}

/// Batch 8 first: what comes later finds a warmer machine.
const FIGURES: [&str; 7] =
    ["decode_8", "decode_1", "decode_4", "decode_16", "prefill_128", "prefill_512", "prefill_2048"];
/// Of ours alone.
const OWN: [&str; 4] = ["decode_1_at_2048", "decode_1_at_8000", "mixed_8_256", "load"];

/// One llama.cpp.
struct Llama {
    bench: PathBuf,
    batched: PathBuf,
}

struct Bench<'a> {
    engine: PathBuf,
    model: &'a Path,
    threads: String,
    isa: Option<String>,
}

pub(crate) fn bench_engine(args: &BenchEngineArgs) -> anyhow::Result<()> {
    let build = || {
        let mut cargo = cargo();
        cargo.args(["build", "--release", "--locked"]);
        cargo
    };
    let engine = ["--package=baton-device", "--package=baton-engine", "--examples"];
    run("building", build().args(engine))?;
    let release = target_dir()?.join("release");
    let model = match &args.model {
        Some(model) => model.clone(),
        None => {
            run("building what gets the model", build().args(["--package=baton", "--bins"]))?;
            tools::model(&release.join("baton"))?
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = args.threads.map_or(cores, NonZeroUsize::get).to_string();
    let examples = release.join("examples");
    let isa = args.isa.clone();
    let bench = Bench { engine: examples.join("engine_bench"), model: &model, threads, isa };
    let llama = Llama::find(args.llama.as_deref())?;
    if llama.is_none() {
        println!("── no llama-bench and llama-batched-bench on the PATH: ours alone");
    }

    let work = bench.ours("work")?;
    let megabytes = measurement::value(&work, "weights").unwrap_or(100.0).ceil().to_string();
    let mut peaks = Command::new(examples.join("peaks"));
    peaks.args([&bench.threads, &megabytes]);
    let mut rounds = Rounds::default();
    for round in 1..=args.rounds {
        println!("── round {round} of {}", args.rounds);
        for figure in FIGURES {
            let ours = bench.ours(figure)?;
            let theirs = llama.as_ref().map(|llama| llama.best(&bench, figure)).transpose()?;
            match theirs {
                None => rounds.add(ours),
                Some(theirs) => {
                    let theirs = vec![Measurement::new(figure, theirs, "tok/s")];
                    rounds.add(measurement::anchored(ours, &theirs, "llama.cpp"));
                    rounds.add(theirs.into_iter().map(|m| m.renamed("llama.cpp ")).collect());
                }
            }
        }
        for figure in OWN {
            rounds.add(bench.ours(figure)?);
        }
        rounds.add(measurement::parse(&output("peaks", &mut peaks)?)?);
    }
    let medians = rounds.medians();
    print!("{}", measurement::table(&medians));
    print!("{}", roofline(&work, &medians));
    Ok(())
}

impl Bench<'_> {
    fn ours(&self, figure: &str) -> anyhow::Result<Vec<Measurement>> {
        let mut program = Command::new(&self.engine);
        program.arg(self.model).arg(&self.threads).args(&self.isa).arg(figure);
        measurement::parse(&output(&format!("{program:?}"), &mut program)?)
    }
}

impl Llama {
    fn find(folder: Option<&Path>) -> anyhow::Result<Option<Self>> {
        let named = |name: &str| match folder {
            Some(folder) => Some(folder.join(name)),
            None => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                std::env::split_paths(&path).map(|folder| folder.join(name)).find(|at| at.is_file())
            }
        };
        let (Some(bench), Some(batched)) = (named("llama-bench"), named("llama-batched-bench"))
        else {
            return Ok(None);
        };
        for program in [&bench, &batched] {
            ensure!(program.is_file(), "{}: there is no such program", program.display());
        }
        Ok(Some(Llama { bench, batched }))
    }

    /// Tokens a second, the most of the ways it has: with and without flash attention, and one sequence by either program.
    fn best(&self, bench: &Bench<'_>, figure: &str) -> anyhow::Result<f64> {
        let (kind, number) = figure.split_once('_').context("a figure has a number")?;
        let mut rates = Vec::new();
        for flash in ["on", "off"] {
            match (kind, number) {
                ("prefill", _) => {
                    rates.push(self.single(bench, &["-p", number, "-n", "0"], flash)?)
                }
                (_, "1") => {
                    // Without a context it is faster still, which counts here.
                    for depth in ["0", "128"] {
                        let what = ["-p", "0", "-n", "64", "-d", depth];
                        rates.push(self.single(bench, &what, flash)?);
                    }
                    rates.push(self.batch(bench, number, flash)?);
                }
                _ => rates.push(self.batch(bench, number, flash)?),
            }
        }
        Ok(rates.into_iter().fold(0.0, f64::max))
    }

    fn single(&self, bench: &Bench<'_>, what: &[&str], flash: &str) -> anyhow::Result<f64> {
        let mut program = Command::new(&self.bench);
        program.arg("-m").arg(bench.model).args(["-t", &bench.threads, "-r", "1", "-o", "json"]);
        program.args(what).args(["-fa", flash]);
        let said = quietly(&mut program)?;
        let said: Value = serde_json::from_str(&said).with_context(|| format!("{program:?}"))?;
        said[0]["avg_ts"].as_f64().with_context(|| format!("{program:?} says no avg_ts"))
    }

    fn batch(&self, bench: &Bench<'_>, sequences: &str, flash: &str) -> anyhow::Result<f64> {
        let mut program = Command::new(&self.batched);
        program.arg("-m").arg(bench.model).args(["-t", &bench.threads, "-npp", "128"]);
        program.args(["-ntg", "64", "-npl", sequences, "-c", "4096", "-fa", flash]);
        let said = quietly(program.args(["--output-format", "jsonl"]))?;
        let line = said.lines().find(|line| line.starts_with('{'));
        let line = line.with_context(|| format!("{program:?} says nothing"))?;
        let said: Value = serde_json::from_str(line).with_context(|| format!("{program:?}"))?;
        said["speed_tg"].as_f64().with_context(|| format!("{program:?} says no speed_tg"))
    }
}

/// What it wrote to standard output; it has much to say besides.
fn quietly(program: &mut Command) -> anyhow::Result<String> {
    let output = program.output().with_context(|| format!("{program:?}"))?;
    ensure!(output.status.success(), "{program:?} ended with {}", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("output of {program:?}"))
}

/// How much of what the machine can do is used: of its memory by decoding one sequence, which reads all weights for each
/// token; of its products by prompts.
fn roofline(work: &[Measurement], medians: &[Measurement]) -> String {
    let mut text = String::new();
    let mut line = |figure: &str, of: &str, per_token: f64, peak: &str, unit: &str| {
        let (Some(rate), Some(peak)) =
            (measurement::value(medians, figure), measurement::value(medians, peak))
        else {
            return;
        };
        let reached = rate * per_token;
        let share = 100.0 * reached / peak;
        let _ = writeln!(text, "{figure}: {reached:.1} of {peak:.1} {unit} {of}, {share:.0} %");
    };
    if let Some(megabytes) = measurement::value(work, "weights") {
        line("decode_1", "read", megabytes / 1e3, "peak_read", "GB/s");
    }
    if let Some(products) = measurement::value(work, "products") {
        for figure in ["decode_16", "prefill_128", "prefill_512", "prefill_2048"] {
            line(figure, "of int8 products in layers", products, "peak_int8", "GOP/s");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roofline_is_what_was_reached_of_what_can_be() {
        let work =
            [Measurement::new("weights", 100.0, "MB"), Measurement::new("products", 0.2, "GOP")];
        let medians = [
            Measurement::new("decode_1", 300.0, "tok/s"),
            Measurement::new("peak_read", 40.0, "GB/s"),
            Measurement::new("prefill_512", 1000.0, "tok/s"),
            Measurement::new("peak_int8", 800.0, "GOP/s"),
        ];
        let said = roofline(&work, &medians);
        assert!(said.contains("decode_1: 30.0 of 40.0 GB/s read, 75 %"), "{said}");
        assert!(said.contains("prefill_512: 200.0 of 800.0 GOP/s"), "{said}");
        assert!(!said.contains("prefill_128"), "{said}");
    }
}
