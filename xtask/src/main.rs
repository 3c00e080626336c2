//! `cargo xtask`: what developers and CI run. `test` proves the tree, `bench` measures it.

#![expect(clippy::print_stdout, reason = "a command line tool speaks there")]

mod bench;
mod left_out;
mod purity;
mod step;
mod test;
mod tools;

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
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Test(args) => test::test(&args),
        Command::Bench(args) => bench::bench(&args),
    }
}
