//! `baton`: the one binary. Alone it starts a cluster; its subcommands are the cluster's parts and
//! the tools around it.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool speaks there")]

mod chat;
mod client;
mod explain;
mod files;
mod leash;
mod memory;
mod migrate;
mod model;
mod part;
mod plan;
mod profile;
mod simulate;
mod status;
mod table;
mod up;

use std::{path::PathBuf, process::ExitCode};

use baton_types::Role;
use clap::{Args, Parser, Subcommand};
use tokio::signal;

/// A router allocates several times for each token it passes on: that is a seventh of its work with
/// the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Serves large language models on a cluster that splits prefill from decode.
///
/// Without a subcommand: `baton up`, a whole cluster on this machine.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    up: up::UpArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a whole cluster on this machine, answer a first prompt, and serve.
    Up(up::UpArgs),
    /// Talk to a model in the terminal.
    Chat(chat::ChatArgs),
    /// Models on this machine.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Say why a request ran where it did: what was predicted of each path, and what came of it.
    Explain(explain::ExplainArgs),
    /// Show what a cluster serves.
    Status(status::StatusArgs),
    /// Move a request that is being answered to another decode node; its client doesn't notice.
    Migrate(migrate::MigrateArgs),
    /// Empty a node: it gets nothing new, and what it decodes goes on elsewhere.
    Drain(migrate::DrainArgs),
    /// Have a node take the other role, without a restart: it is emptied first.
    Role(migrate::RoleArgs),
    /// Measure what a running cluster's steps cost, for `simulate` and `plan`.
    Profile(profile::ProfileArgs),
    /// Simulate a cluster: how well it would serve a workload, and how much it could take.
    Simulate(Box<simulate::SimulateArgs>),
    /// Plan a cluster: the cheapest devices and worker counts that serve a workload within its targets.
    Plan(Box<plan::PlanArgs>),
    /// Load-test a cluster, or any server that speaks OpenAI's API, against latency objectives.
    Load(Box<baton_load::LoadArgs>),
    /// Run a router.
    Router(part::RouterArgs),
    /// Run a prefill node.
    PrefillNode(part::NodeArgs),
    /// Run a decode node.
    DecodeNode(part::NodeArgs),
}

#[derive(Debug, Subcommand)]
enum ModelCommand {
    /// Download the default model into the cache, unless it is there, and print its path.
    Pull(PullArgs),
}

#[derive(Debug, Args)]
struct PullArgs {
    /// Folder for downloaded models. Left out: `baton` in the user's cache folder.
    #[arg(long, value_name = "DIR", env = "BATON_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // It has threads and exit statuses of its own.
    if let Some(Command::Load(args)) = &cli.command {
        return baton_load::load(args);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(cli.command.unwrap_or(Command::Up(cli.up))));
            // A thread may be waiting for standard input, which nobody can interrupt.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_sentence(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(args) => Ok(up::up(args).await?),
        Command::Chat(args) => Ok(chat::chat(args).await?),
        Command::Model(ModelCommand::Pull(args)) => pull(args).await,
        Command::Status(args) => Ok(status::status(args).await?),
        Command::Explain(args) => Ok(explain::explain(args).await?),
        Command::Migrate(args) => Ok(migrate::migrate(args).await?),
        Command::Role(args) => Ok(migrate::role(args).await?),
        Command::Drain(args) => Ok(migrate::drain(args).await?),
        Command::Profile(args) => Ok(profile::profile(args).await?),
        Command::Simulate(args) => Ok(simulate::simulate(&args)?),
        Command::Plan(args) => Ok(plan::plan(&args)?),
        Command::Load(_) => unreachable!("it runs without a runtime"),
        Command::Router(args) => part::router(args).await,
        Command::PrefillNode(args) => {
            memory::give_back_at_once();
            part::node(args, Role::Prefill).await
        }
        Command::DecodeNode(args) => {
            memory::give_back_at_once();
            part::node(args, Role::Decode).await
        }
    }
}

async fn pull(args: PullArgs) -> anyhow::Result<()> {
    let cache = model::cache_dir(args.cache_dir.as_deref())?;
    let path = if model::DEFAULT.is_cached(&cache) {
        model::DEFAULT.path(&cache)
    } else {
        tokio::select! {
            path = model::pull(&model::DEFAULT, &cache) => path?,
            _ = signal::ctrl_c() => anyhow::bail!("stopped; nothing was installed"),
        }
    };
    println!("{}", path.display());
    Ok(())
}

/// An error and its causes on one line; a cause that its effect already told is left out, and so is
/// the backtrace that some libraries put into their messages.
fn one_sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = message(cause);
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn message(cause: &dyn std::error::Error) -> String {
    let text = cause.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("0: "));
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn errors_are_one_line_and_tell_each_cause_once() {
        let error = Err::<(), _>(anyhow::anyhow!("no\n  such file")).context("a: b").unwrap_err();
        assert_eq!(one_sentence(&error), "a: b: no such file");
        let told = Err::<(), _>(anyhow::anyhow!("b")).context("a: b").unwrap_err();
        assert_eq!(one_sentence(&told), "a: b");
        let traced = anyhow::anyhow!("bad magic\n   0: f\n             at lib.rs:1");
        assert_eq!(one_sentence(&traced), "bad magic");
    }
}
