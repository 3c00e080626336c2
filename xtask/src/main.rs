//! `cargo xtask`: what developers and CI run. `test` proves the tree, `bench` and `bench-engine` measure
//! it, `eval` simulates it at a size nobody owns, `soak` tries it for long, `proto-baseline` promises
//! its wire formats.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool speaks there")]

mod bench;
mod bench_engine;
mod chromium;
mod eval;
mod left_out;
mod purity;
mod soak;
mod step;
mod test;
mod tools;
mod wire;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Baton's build tasks.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Get what the tests need, check format, lints, licences and purity, and run every test.
    Test(test::TestArgs),
    /// Measure the engine and the page transfer, each against its anchor in the same run.
    Bench(bench::BenchArgs),
    /// Measure the CPU engine beside llama.cpp, and beside what the machine can do.
    BenchEngine(bench_engine::BenchEngineArgs),
    /// Simulate what the router is worth, and put the figures into docs/evaluation.md.
    Eval(eval::EvalArgs),
    /// Try at random, for minutes, what the tests try for seconds.
    Soak(soak::SoakArgs),
    /// Promise what the .proto files say now: later changes must not break it.
    ProtoBaseline(wire::BaselineArgs),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Test(args) => test::test(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::BenchEngine(args) => bench_engine::bench_engine(&args),
        Command::Eval(args) => eval::eval(&args),
        Command::Soak(args) => soak::soak(&args),
        Command::ProtoBaseline(args) => wire::baseline(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
