//! `baton profile`: what a live cluster's steps cost, as a profile for `simulate` and `plan`.
//!
//! # How is it measured?
//!
//! By requests through the cluster's API, of all sizes it can take, and by what its nodes report of
//! each of their steps. So it is the production path that is measured, with whatever else a step meets
//! there; and the nodes' clocks measure it, not the client's.
//!
//! # What if others use the cluster?
//!
//! Then there is no profile: nodes that are busy before it begins are told, and if they have
//! computed more in the end than was asked of them, that is.

mod document;
mod drive;
mod rounds;
mod watch;

use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use baton_node::config::Span;
use baton_proto::{ConvertError, v1::Node};
use baton_sim::plan::{
    self,
    measure::{MeasureError, are_enough, fit_link, fit_steps},
};
use baton_types::Role;

use self::{
    document::Measured,
    drive::Done,
    rounds::{Bounds, Rounds},
    watch::Watch,
};
use crate::{
    client::{Client, ClientError},
    files::{FileError, write},
};

/// Of what was asked for, what nodes may have computed more: a retry is no disturbance.
const TOLERANCE: f64 = 0.02;
/// On slow nodes the time may be over before there were enough steps; it is taken so often at most.
const MOST_TRIES: u32 = 4;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ProfileArgs {
    /// Where the cluster's API listens. Nobody else may use the cluster meanwhile.
    #[arg(long, default_value = "http://127.0.0.1:8000", env = "BATON_URL")]
    url: String,
    /// The model to measure, if the cluster serves several.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// How long to measure; the longer, the more steps of each size.
    #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = parse_time)]
    time: Span,
    /// What to call the device. Left out: after a node.
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// A device's price an hour, in any currency. Left out: a placeholder.
    #[arg(long, value_name = "PRICE", value_parser = parse_price)]
    price: Option<f64>,
    /// Write the profile there. Left out: print it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("--model {wanted}: the cluster at {url} serves {served}")]
    NoSuchModel { wanted: String, url: String, served: String },
    #[error("the cluster at {url} serves {served}; say which to measure with --model")]
    SeveralModels { url: String, served: String },
    #[error("{model} has no {role} node; start one that joins the router")]
    NoNode { model: String, role: Role },
    #[error("of {expected} nodes {heard} spoke within ten seconds; see whether the others live")]
    Silent { expected: usize, heard: usize },
    #[error(
        "{node} has work of others ({running} running, {waiting} waiting, {steps} steps in the last \
         second); measure when nobody uses the cluster"
    )]
    Busy { node: String, running: u32, waiting: u32, steps: usize },
    #[error(
        "the nodes computed {seen} {role} tokens and were asked for {asked}: others used the \
         cluster, or a pool was too small; measure again when nobody does"
    )]
    Disturbed { role: Role, asked: u64, seen: u64 },
    #[error(
        "{one} and {other} differ in {what}; a profile is of one kind of node, so let the others leave"
    )]
    Unlike { one: String, other: String, what: &'static str },
    #[error(
        "{model}'s context of {max_context} tokens and its nodes' pools of {pool_tokens} are too small \
         to measure; both need a few hundred"
    )]
    TooSmall { model: String, max_context: u32, pool_tokens: u32 },
    #[error(transparent)]
    Measure(#[from] MeasureError),
    #[error("the router tells of a node what this version doesn't know: {0}")]
    Unknown(#[from] ConvertError),
    #[error("what was measured makes no profile: {0}")]
    Impossible(#[from] plan::ProfileError),
    #[error("the profile can't be written: {0}")]
    Toml(#[from] toml::ser::Error),
    #[error(transparent)]
    File(#[from] FileError),
}

/// Measures, and tells about it.
pub(crate) async fn profile(args: ProfileArgs) -> Result<(), ProfileError> {
    let mut client = Client::connect(&args.url).await?;
    let (model, expected) = choose(&mut client, &args).await?;
    let mut watch = Watch::new(client.watch_nodes(&model).await?, expected);
    watch.rest().await?;
    let bounds = bounds(&watch, &model)?;
    let seconds = args.time.0.as_secs_f64();
    eprintln!("Measuring {model} on {expected} nodes for about {seconds:.0} s …");

    let mut rounds = Rounds::new(bounds, fresh());
    let mut warm = Done::default();
    for round in rounds.warm_up() {
        watch.during(warm.make(&client, &model, &round)).await?;
    }
    watch.rest().await?;
    watch.steps.clear();
    let (began, mut done) = (Instant::now(), Done::default());
    for _ in 0..MOST_TRIES {
        watch.during(done.make_all(&client, &model, &mut rounds, args.time.0)).await?;
        watch.rest().await?;
        if are_enough(&watch.steps) {
            break;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    undisturbed(&done, &watch)?;

    let measured = Measured {
        prefill: watch.nodes(Role::Prefill),
        decode: watch.nodes(Role::Decode),
        steps: fit_steps(&watch.steps)?,
        link: fit_link(&done.transfers),
        requests: done.requests,
        seconds,
        at: SystemTime::now(),
        url: client.url(),
        device: args.device.as_deref(),
        price: args.price,
    };
    let (profile, header) = (measured.profile()?, measured.header());
    profile.validate()?;
    let text = format!("{header}\n{}", toml::to_string(&profile)?);
    match &args.out {
        Some(path) => {
            // It took too long to be lost for a wrong path.
            write(path, text.as_bytes()).inspect_err(|_| print!("{text}"))?;
            eprint!("{header}");
            eprintln!("Written to {}", path.display());
        }
        None => print!("{text}"),
    }
    Ok(())
}

/// The model, and how many nodes it has.
async fn choose(client: &mut Client, args: &ProfileArgs) -> Result<(String, usize), ProfileError> {
    let models = client.models().await?;
    let url = args.url.clone();
    let names: Vec<&str> = models.iter().map(|model| &model.id[..]).collect();
    let served = names.join(", ");
    let wanted = |id: &str| args.model.as_ref().is_none_or(|wanted| wanted == id);
    let mut chosen = models.iter().filter(|model| wanted(&model.id));
    let model = match (chosen.next(), chosen.next(), &args.model) {
        (Some(model), None, _) => model,
        (Some(_), Some(_), _) => return Err(ProfileError::SeveralModels { url, served }),
        (None, _, Some(wanted)) if !models.is_empty() => {
            return Err(ProfileError::NoSuchModel { wanted: wanted.clone(), url, served });
        }
        (None, ..) => return Err(ClientError::NoModel { url }.into()),
    };
    for (role, nodes) in [(Role::Prefill, model.prefill_nodes), (Role::Decode, model.decode_nodes)]
    {
        if nodes == 0 {
            return Err(ProfileError::NoNode { model: model.id.clone(), role });
        }
    }
    Ok((model.id.clone(), (model.prefill_nodes + model.decode_nodes) as usize))
}

/// What the nodes can take, all of a role being of one kind.
fn bounds(watch: &Watch, model: &str) -> Result<Bounds, ProfileError> {
    let mut all = Vec::new();
    for role in [Role::Prefill, Role::Decode] {
        let nodes = watch.nodes(role);
        let Some(first) = nodes.first() else {
            return Err(ProfileError::NoNode { model: model.to_owned(), role });
        };
        for other in &nodes[1..] {
            alike(first, other)?;
        }
        all.push(*first);
    }
    let pool_tokens = |node: &&Node| node.total_blocks.saturating_mul(node.block_tokens);
    let least = |of: &dyn Fn(&&Node) -> u32| all.iter().map(of).min().unwrap_or(0);
    let max_context = least(&|node| node.max_context);
    let pool_tokens = least(&pool_tokens);
    let bounds = Bounds { max_context, pool_tokens, max_running: least(&|node| node.max_running) };
    if !bounds.are_enough() {
        return Err(ProfileError::TooSmall { model: model.to_owned(), max_context, pool_tokens });
    }
    Ok(bounds)
}

fn alike(one: &Node, other: &Node) -> Result<(), ProfileError> {
    let what = [
        (one.total_blocks == other.total_blocks, "the size of their pools"),
        (one.max_context == other.max_context, "their contexts"),
        (one.layout() == other.layout(), "their layouts"),
        (one.max_batch_tokens == other.max_batch_tokens, "scheduler.max_batch_tokens"),
        (one.chunk_tokens == other.chunk_tokens, "scheduler.chunk_tokens"),
        (one.max_running == other.max_running, "scheduler.max_running"),
    ];
    match what.into_iter().find(|(same, _)| !same) {
        Some((_, what)) => {
            let (one, other) = (one.name.clone(), other.name.clone());
            Err(ProfileError::Unlike { one, other, what })
        }
        None => Ok(()),
    }
}

/// Whether the nodes computed nothing but what was asked of them here.
fn undisturbed(done: &Done, watch: &Watch) -> Result<(), ProfileError> {
    let shapes = || watch.steps.iter().map(|step| &step.shape);
    let prefill: u64 = shapes().map(|shape| u64::from(shape.prefill_tokens)).sum();
    let decode: u64 = shapes().map(|shape| u64::from(shape.decode_batch)).sum();
    for (role, asked, seen) in
        [(Role::Prefill, done.prefill_tokens, prefill), (Role::Decode, done.decode_tokens, decode)]
    {
        if seen as f64 > (1.0 + TOLERANCE) * asked as f64 {
            return Err(ProfileError::Disturbed { role, asked, seen });
        }
    }
    Ok(())
}

/// A number that no earlier measurement began with: prompts of one must not be in the caches yet.
fn fresh() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

fn parse_time(given: &str) -> Result<Span, String> {
    const LEAST: Duration = Duration::from_secs(5);
    let span: Span = given.parse().map_err(|error| format!("{error}"))?;
    if span.0 < LEAST {
        return Err("steps of all sizes take five seconds at least".to_owned());
    }
    Ok(span)
}

fn parse_price(given: &str) -> Result<f64, String> {
    match given.parse() {
        Ok(price) if price > 0.0 && f64::is_finite(price) => Ok(price),
        _ => Err("expected a number above 0".to_owned()),
    }
}
