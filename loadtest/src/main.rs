//! `baton-load`: the load test by itself. It is `baton load`, too.

use std::process::ExitCode;

use clap::Parser;

/// The same as Baton's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "baton-load", version, about, long_about = None)]
struct Cli {
    #[command(flatten)]
    args: baton_load::LoadArgs,
}

fn main() -> ExitCode {
    baton_load::load(&Cli::parse().args)
}
