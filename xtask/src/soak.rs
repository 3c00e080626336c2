//! `cargo xtask soak`: what the tests try a few times, very often.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Context;

use crate::{
    left_out,
    step::{cargo, run, target_dir},
    test::FEATURES,
    tools::Tools,
};

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
    /// Simulated clusters that live for an hour of their time, with a fault every four seconds.
    #[arg(long, default_value_t = 4)]
    hours: u64,
    /// Seconds for which real processes are killed, stopped and, where the machine has networks for them, cut off.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Which way that goes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds for which etcd is out of reach, or says nothing.
    #[arg(long, default_value_t = 30)]
    etcd_away: u64,
    /// Do nothing but what this names: schedules, clusters, moves, hours, kills, etcd. Repeatable.
    #[arg(long)]
    only: Vec<Part>,
    /// Put the figures of hours and kills into this document, such as docs/soak.md.
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
}

/// What can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Schedules,
    Clusters,
    Moves,
    Hours,
    Kills,
    Etcd,
}

pub(crate) fn soak(args: &SoakArgs) -> anyhow::Result<()> {
    let is_wanted = |part| args.only.is_empty() || args.only.contains(&part);
    for (part, soak) in [
        (Part::Schedules, schedules as fn(&SoakArgs) -> anyhow::Result<()>),
        (Part::Clusters, clusters),
        (Part::Hours, hours),
    ] {
        if is_wanted(part) {
            soak(args)?;
        }
    }
    let of_processes = [
        (Part::Moves, moves as fn(&SoakArgs, &Tools) -> _),
        (Part::Etcd, etcd),
        (Part::Kills, kills),
    ];
    let wanted: Vec<_> = of_processes.into_iter().filter(|(part, _)| is_wanted(*part)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let tools = Tools::prepare()?;
    let mut build = cargo();
    build.args(["build", "--locked", "--package=baton"]).args(FEATURES);
    run("building baton", build.env("PROTOC", &tools.protoc))?;
    wanted.into_iter().try_for_each(|(_, soak)| soak(args, &tools))
}

fn schedules(args: &SoakArgs) -> anyhow::Result<()> {
    run(
        &format!("{} schedules of a migration", args.schedules),
        cargo()
            .args(["test", "--release", "--locked", "--package=baton-migration"])
            .args(["--test=schedules"])
            .env("BATON_SCHEDULES", args.schedules.to_string()),
    )
}

fn clusters(args: &SoakArgs) -> anyhow::Result<()> {
    run(
        &format!("{} simulated clusters in a storm", args.clusters),
        cargo()
            .args(["test", "--release", "--locked", "--package=baton-sim", "--test=sim"])
            .args(["--", "moving"])
            .env("BATON_CLUSTERS", args.clusters.to_string()),
    )
}

fn hours(args: &SoakArgs) -> anyhow::Result<()> {
    // An hour takes so little that building it again for release would take longer.
    let mut soak = cargo();
    soak.args(["test", "--locked", "--package=baton-sim", "--test=sim", "--", "hour"]);
    soak.env("BATON_HOURS", args.hours.to_string());
    reported(&format!("{} hours of simulated clusters", args.hours), &mut soak, "hours", args)
}

fn moves(args: &SoakArgs, tools: &Tools) -> anyhow::Result<()> {
    let mut soak = processes("migration::every_way_to_draw", tools)?;
    let what = format!("{} moves between real processes", args.moves);
    run(&what, soak.env("BATON_MOVES", args.moves.to_string()))
}

fn etcd(args: &SoakArgs, tools: &Tools) -> anyhow::Result<()> {
    if !left_out::has_networks() {
        println!("left out on this machine: etcd out of reach");
        return Ok(());
    }
    let mut soak = processes("chaos::partition::etcd", tools)?;
    let what = format!("etcd out of reach for {} s at a time", args.etcd_away);
    run(&what, soak.env("BATON_ETCD_AWAY", args.etcd_away.to_string()))
}

fn kills(args: &SoakArgs, tools: &Tools) -> anyhow::Result<()> {
    let name = if left_out::has_networks() {
        "chaos::partition::whoever_ends"
    } else {
        println!("left out on this machine: links that are cut");
        "chaos::kills::whoever_ends"
    };
    let mut soak = processes(name, tools)?;
    soak.env("BATON_CHAOS_SECONDS", args.seconds.to_string());
    soak.env("BATON_CHAOS_SEED", args.seed.to_string());
    reported(&format!("{} s of random kills", args.seconds), &mut soak, "kills", args)
}

fn processes(name: &str, tools: &Tools) -> anyhow::Result<Command> {
    let mut test = cargo();
    test.args(["test", "--locked", "--package=baton", "--package=baton-tests"]).args(FEATURES);
    test.args(["--test=clusters", "--", "--nocapture", name])
        .env("PROTOC", &tools.protoc)
        .env("BATON_ETCD", &tools.etcd)
        .env("BATON_BIN", target_dir()?.join("debug").join("baton"));
    Ok(test)
}

/// Runs it, and puts its figures into the document where that has room for them.
fn reported(
    what: &str,
    command: &mut Command,
    section: &str,
    args: &SoakArgs,
) -> anyhow::Result<()> {
    let Some(document) = &args.document else { return run(what, command) };
    let figures = target_dir()?.join(format!("soak-{section}.md"));
    // It is added to.
    let _ = fs::remove_file(&figures);
    run(what, command.env("BATON_SOAK_REPORT", &figures))?;
    let figures =
        fs::read_to_string(&figures).with_context(|| format!("the figures of {section}"))?;
    let text = fs::read_to_string(document)?;
    let text = replaced(&text, section, figures.trim())
        .with_context(|| format!("{} has no section {section}", document.display()))?;
    Ok(fs::write(document, text)?)
}

/// The document with other figures between a section's marks.
fn replaced(text: &str, section: &str, figures: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {section} -->\n"), format!("<!-- end of {section} -->"));
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}{figures}\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_take_the_place_of_older_ones() {
        let text = "A.\n<!-- kills -->\nold\n<!-- end of kills -->\nB.\n";
        let expected = "A.\n<!-- kills -->\nnew\n<!-- end of kills -->\nB.\n";
        assert_eq!(replaced(text, "kills", "new").as_deref(), Some(expected));
        assert_eq!(replaced(text, "hours", "new"), None);
    }
}
