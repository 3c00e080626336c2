//! `cargo xtask soak`: what the tests try a few times, very often.

use crate::step::{cargo, run, target_dir};

#[derive(Debug, clap::Args)]
pub(crate) struct SoakArgs {
    /// Random schedules of live migration's machines.
    #[arg(long, default_value_t = 1_000_000)]
    schedules: u64,
    /// Simulated clusters whose requests move all the time, while messages are lost and nodes die.
    #[arg(long, default_value_t = 3_000)]
    clusters: u64,
    /// Moves between real processes, while clients stream answers that are compared with the engine's alone.
    #[arg(long, default_value_t = 20_000)]
    moves: u64,
}

pub(crate) fn soak(args: &SoakArgs) -> anyhow::Result<()> {
    run(
        &format!("{} schedules of a migration", args.schedules),
        cargo()
            .args(["test", "--release", "--locked", "--package=baton-migration"])
            .args(["--test=schedules"])
            .env("BATON_SCHEDULES", args.schedules.to_string()),
    )?;
    run(
        &format!("{} simulated clusters in a storm", args.clusters),
        cargo()
            .args(["test", "--release", "--locked", "--package=baton-sim", "--test=sim"])
            .args(["--", "moving"])
            .env("BATON_CLUSTERS", args.clusters.to_string()),
    )?;
    run("building baton", cargo().args(["build", "--locked", "--package=baton"]))?;
    run(
        &format!("{} moves between real processes", args.moves),
        cargo()
            .args(["test", "--locked", "--package=baton-tests", "--test=clusters"])
            .args(["--", "every_way_to_draw"])
            .env("BATON_BIN", target_dir()?.join("debug").join("baton"))
            .env("BATON_MOVES", args.moves.to_string()),
    )
}
