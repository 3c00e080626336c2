//! One part of a cluster as a process: a router, a prefill node, a decode node.

use baton_node::{
    config::{NodeConfig, NodeFlags, to_toml},
    telemetry,
};
use baton_router::RouterFlags;
use baton_types::Role;

use crate::leash;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    flags: NodeFlags,
    /// Leave when standard input ends: how `baton up` keeps its children from outliving it.
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

pub(crate) async fn node(args: NodeArgs, role: Role) -> anyhow::Result<()> {
    let Some(config) = node_config(&args)? else { return Ok(()) };
    baton_worker::run(config, role, leash::shutdown(args.exit_with_stdin)?).await
}

/// The configuration to run with; none when it was only to be printed.
fn node_config(args: &NodeArgs) -> anyhow::Result<Option<NodeConfig>> {
    let config = args.flags.load(std::env::vars())?;
    if args.flags.print_config {
        print!("{}", to_toml(&config)?);
        return Ok(None);
    }
    telemetry::init(&config.log)?;
    Ok(Some(config))
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RouterArgs {
    #[command(flatten)]
    flags: RouterFlags,
    /// Leave when standard input ends: how `baton up` keeps its children from outliving it.
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

pub(crate) async fn router(args: RouterArgs) -> anyhow::Result<()> {
    let config = args.flags.load(std::env::vars())?;
    if args.flags.print_config {
        print!("{}", to_toml(&config)?);
        return Ok(());
    }
    telemetry::init(&config.log)?;
    baton_router::run(config, leash::shutdown(args.exit_with_stdin)?).await
}
