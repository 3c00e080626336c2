//! `baton migrate`, `baton drain` and `baton role`: requests change nodes while they are answered, and nodes
//! their roles.

use baton_node::config::Span;
use baton_proto::v1::Migration;
use baton_types::Role;
use clap::ValueEnum;

use crate::client::{Client, ClientError};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct MigrateArgs {
    /// The id in the request's answer: cmpl-…, chatcmpl-… or req-….
    #[arg(value_name = "REQUEST_ID")]
    request: String,
    /// The decode node to go to. Left out: the best there is.
    #[arg(value_name = "NODE")]
    node: Option<String>,
    /// Where the cluster's API listens.
    #[arg(long, default_value = "http://127.0.0.1:8000", env = "BATON_URL")]
    url: String,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DrainArgs {
    /// The prefill or decode node to empty.
    #[arg(value_name = "NODE")]
    node: String,
    /// How long to wait until it is empty; it stays drained afterwards.
    #[arg(long, value_name = "TIME", default_value = "60s")]
    wait: Span,
    /// Let it take requests again.
    #[arg(long)]
    cancel: bool,
    /// Where the cluster's API listens.
    #[arg(long, default_value = "http://127.0.0.1:8000", env = "BATON_URL")]
    url: String,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RoleArgs {
    /// The prefill or decode node that is to have the role.
    #[arg(value_name = "NODE")]
    node: String,
    #[arg(value_name = "ROLE")]
    role: Wanted,
    /// How long to wait until it has it; it changes afterwards all the same.
    #[arg(long, value_name = "TIME", default_value = "60s")]
    wait: Span,
    /// Where the cluster's API listens.
    #[arg(long, default_value = "http://127.0.0.1:8000", env = "BATON_URL")]
    url: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Wanted {
    Prefill,
    Decode,
}

impl From<Wanted> for Role {
    fn from(wanted: Wanted) -> Role {
        match wanted {
            Wanted::Prefill => Role::Prefill,
            Wanted::Decode => Role::Decode,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum MigrateError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{left} of {all} sequences stay where they are")]
    Stay { left: usize, all: usize },
    #[error(
        "{left} requests are still on {node}; they go on, and it gets no new ones: drain it again to \
         wait longer, or with --cancel to let it take requests again"
    )]
    Left { node: String, left: u64 },
    #[error(
        "{node} isn't a {role} node yet: {left} requests are still on it, and it changes when they are \
         elsewhere or done; wait longer, or tell it to keep the role it has"
    )]
    Changing { node: String, role: Role, left: u64 },
}

/// Moves a request, and says what came of each of its sequences.
pub(crate) async fn migrate(args: MigrateArgs) -> Result<(), MigrateError> {
    let mut client = Client::connect(&args.url).await?;
    let migrations = client.migrate(&args.request, args.node.as_deref()).await?;
    for migration in &migrations {
        println!("{}", told(migration));
    }
    let (all, left) = (migrations.len(), migrations.iter().filter(|m| !m.stays.is_empty()).count());
    if left > 0 { Err(MigrateError::Stay { left, all }) } else { Ok(()) }
}

fn told(migration: &Migration) -> String {
    let Migration { choice, stays, from, to, took_us, gap_us, tail_us, step_us } = migration;
    let ms = |us: &u64| format!("{:.1} ms", *us as f64 / 1e3);
    match (&stays[..], &to[..]) {
        ("", "") => {
            format!("sequence {choice}: it had no pages on {from} and begins anew elsewhere")
        }
        ("", to) => format!(
            "sequence {choice}: from {from} to {to} in {}; {} between two tokens: {} for the last pages, {} for the \
             first step",
            ms(took_us),
            ms(gap_us),
            ms(tail_us),
            ms(step_us)
        ),
        (why, _) => format!("sequence {choice} stays: {why}"),
    }
}

/// Empties a node, and says what is left.
pub(crate) async fn drain(args: DrainArgs) -> Result<(), MigrateError> {
    let DrainArgs { node, wait, cancel, url } = args;
    let mut client = Client::connect(&url).await?;
    let left = client.drain(&node, wait.0, cancel).await?;
    if cancel {
        println!("{node} takes requests again");
        return Ok(());
    }
    if left > 0 {
        return Err(MigrateError::Left { node, left });
    }
    println!("{node} is empty and gets no new requests");
    Ok(())
}

/// Has a node take a role, and says whether it has.
pub(crate) async fn role(args: RoleArgs) -> Result<(), MigrateError> {
    let RoleArgs { node, role, wait, url } = args;
    let role = Role::from(role);
    let mut client = Client::connect(&url).await?;
    let (done, left) = client.set_role(&node, role, wait.0).await?;
    if !done {
        return Err(MigrateError::Changing { node, role, left });
    }
    println!("{node} is a {role} node");
    Ok(())
}
