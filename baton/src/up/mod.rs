//! `baton up`: a whole cluster on this machine, every part a process of its own.
//!
//! The parent holds one pipe to each child's standard input. A child leaves when its pipe closes,
//! so the cluster ends with its parent however that ends, `kill -9` included.

mod children;
mod demo;
mod memory;
mod plan;
mod ready;
mod report;

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use plan::UpArgs;

use self::children::{Children, Ended};
use crate::{
    client::ClientError,
    model::{DEFAULT, NoCacheDir, PullError, pull},
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum UpError {
    #[error("port {port} on {host} can't be used ({reason}); choose another with {flag}")]
    Port { host: std::net::IpAddr, port: u16, reason: String, flag: &'static str },
    #[error("--port and --control-port are both {port}; they must differ")]
    SamePort { port: u16 },
    #[error("--model: {0}")]
    Model(#[from] baton_engine::LoadError),
    #[error(
        "{nodes} nodes need about {needed_mib} MiB of memory ({kv_mib} MiB of KV pool and \
         {weights_mib} MiB of weights each) and {available_mib} MiB are available; \
         use fewer nodes or a smaller --kv-size"
    )]
    Memory { nodes: u64, needed_mib: u64, kv_mib: u64, weights_mib: u64, available_mib: u64 },
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error(transparent)]
    CacheDir(#[from] NoCacheDir),
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("{0}")]
    ChildEnded(Ended),
    #[error("the cluster was not ready within {waited:?}: {seen}; its logs are in {}", logs.display())]
    NotReady { waited: Duration, seen: String, logs: PathBuf },
    #[error("the first answer failed: {0}")]
    FirstAnswer(#[from] ClientError),
}

/// Runs a cluster until Ctrl-C or SIGTERM, or with `--once` until it has answered.
pub(crate) async fn up(args: UpArgs) -> Result<(), UpError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(io_error("signal handler"))?;
    let data = Data::new(&args)?;
    let mut children = None;
    let result = tokio::select! {
        result = serve(&args, data.path(), &mut children) => result,
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    if let Some(children) = children {
        if result.is_ok() && !args.once {
            println!("\nStopping.");
        }
        children.stop(result.is_err()).await;
    }
    result
}

async fn serve(args: &UpArgs, data: &Path, slot: &mut Option<Children>) -> Result<(), UpError> {
    let model = match &args.model {
        _ if args.is_sim() => None,
        Some(path) => Some(path.clone()),
        None => Some(default_model(args).await?),
    };
    let plan = plan::plan(args, model, data)?;
    println!("Starting   {}", plan.summary());
    let started = Instant::now();
    let children = slot.insert(Children::new(args.log_dir.as_deref(), args.verbose)?);
    for process in &plan.processes {
        children.spawn(process)?;
    }
    let mut client = ready::wait(&plan, children).await?;
    println!(
        "Ready      after {:.1} s; logs in {}",
        started.elapsed().as_secs_f64(),
        children.logs().display()
    );

    if !args.no_demo || args.once {
        let answer = demo::answer(&mut client);
        tokio::select! {
            complete = answer => print!("{}", report::report(&complete?)),
            ended = children.first_to_end() => return Err(UpError::ChildEnded(ended)),
        }
    }
    if args.once {
        return Ok(());
    }
    let model = client.model(None).await?;
    print!("{}", report::invitation(&plan.urls(), &model));
    let mut routers = plan.urls().len();
    loop {
        let ended = children.first_to_end().await;
        routers -= usize::from(ended.name.starts_with(plan::ROUTER));
        if routers == 0 {
            return Err(UpError::ChildEnded(ended));
        }
        println!("{ended}; the others go on.");
    }
}

/// Where files and batches are kept.
enum Data {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Data {
    fn new(args: &UpArgs) -> Result<Self, UpError> {
        if let Some(path) = &args.data_dir {
            return Ok(Data::Kept(path.clone()));
        }
        let folder = tempfile::Builder::new().prefix("baton-up-data-").tempdir();
        folder.map(Data::Temporary).map_err(io_error("temporary folder for files"))
    }

    fn path(&self) -> &Path {
        match self {
            Data::Kept(path) => path,
            Data::Temporary(folder) => folder.path(),
        }
    }
}

/// The default model's file, pulled first when it isn't there.
async fn default_model(args: &UpArgs) -> Result<PathBuf, UpError> {
    let cache = crate::model::cache_dir(args.cache_dir.as_deref())?;
    if DEFAULT.is_cached(&cache) {
        return Ok(DEFAULT.path(&cache));
    }
    println!("Pulling    {} ({:.0} MB)", DEFAULT.file_name, DEFAULT.bytes as f64 / 1e6);
    Ok(pull(&DEFAULT, &cache).await?)
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> UpError {
    let what = what.into();
    move |source| UpError::Io { what, source }
}
