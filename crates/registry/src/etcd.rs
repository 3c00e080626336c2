//! etcd v3: a key of each router under its lease, and an election among them.
//!
//! `PREFIX/routers/ID` holds a router's record; `PREFIX/leader` is the name of etcd's own election. Both hang on
//! one lease, so that a router that is gone is neither found nor the leader any more.
//!
//! A registry that is away, was restarted, compacted or emptied costs nothing but a new beginning: who
//! follows reads all keys again, who is announced takes another lease.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use etcd_client::{
    Certificate, Client, ConnectOptions, EventType, GetOptions, Identity, KeyValue, PutOptions,
    TlsOptions, WatchOptions,
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{Announcement, EtcdOptions, Routers};

/// How long etcd may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a word of leaving may take.
const GOODBYE_PATIENCE: Duration = Duration::from_millis(500);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(2);
/// How often a lease is renewed while it lasts.
const RENEWALS: u32 = 3;

/// A router's value; what later versions add is passed over.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    control_address: String,
}

/// Why a connection to etcd is of no use any more.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Etcd(#[from] etcd_client::Error),
    #[error("etcd didn't answer within {PATIENCE:?}")]
    Silent,
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the watch ended: {reason}")]
    Ended { reason: String },
    #[error("the lease of {lease:?} is over")]
    Lease { lease: Duration },
}

/// Tells which routers there are, for ever.
pub(crate) async fn follow(options: EtcdOptions, routers: watch::Sender<Routers>) {
    let mut backoff = FIRST_BACKOFF;
    loop {
        let begun = Instant::now();
        let Err(lost) = follow_once(&options, &routers).await;
        if begun.elapsed() > PATIENCE {
            backoff = FIRST_BACKOFF;
        }
        tracing::warn!(error = %lost, "lost etcd; going on with the routers known");
        sleep(jittered(backoff)).await;
        backoff = (backoff * 2).min(LAST_BACKOFF);
    }
}

async fn follow_once(
    options: &EtcdOptions,
    routers: &watch::Sender<Routers>,
) -> Result<Infallible, Lost> {
    let mut client = connect(options).await?;
    let prefix = format!("{}/routers/", options.prefix);
    let all = GetOptions::new().with_prefix();
    let all = within(client.get(prefix.as_bytes(), Some(all))).await?;
    let revision = all.header().map_or(0, |header| header.revision());
    let mut known = BTreeMap::new();
    for entry in all.kvs() {
        known.extend(read(entry));
    }
    tell(routers, &known);
    let changes = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
    let mut changes = within(client.watch(prefix.as_bytes(), Some(changes))).await?;
    tracing::info!(routers = known.len(), "following etcd");
    while let Some(said) = changes.message().await? {
        if said.canceled() {
            return Err(Lost::Ended { reason: said.cancel_reason().to_owned() });
        }
        for event in said.events() {
            let Some(entry) = event.kv() else { continue };
            match event.event_type() {
                EventType::Put => known.extend(read(entry)),
                EventType::Delete => {
                    known.remove(entry.key());
                }
            }
        }
        tell(routers, &known);
    }
    Err(Lost::Ended { reason: "etcd closed it".to_owned() })
}

fn read(entry: &KeyValue) -> Option<(Vec<u8>, String)> {
    match serde_json::from_slice::<Record>(entry.value()) {
        Ok(record) => Some((entry.key().to_vec(), record.control_address)),
        Err(error) => {
            let key = String::from_utf8_lossy(entry.key());
            tracing::warn!(%key, %error, "etcd has a router that can't be read");
            None
        }
    }
}

fn tell(routers: &watch::Sender<Routers>, known: &BTreeMap<Vec<u8>, String>) {
    let now: Routers = known.values().cloned().collect();
    routers.send_if_modified(|before| {
        let changed = *before != now;
        *before = now;
        changed
    });
}

/// Keeps a router's record and stands for election until it leaves.
pub(crate) async fn announce(
    options: EtcdOptions,
    router: Announcement,
    leads: watch::Sender<bool>,
    leave: CancellationToken,
) {
    let mut backoff = FIRST_BACKOFF;
    loop {
        let begun = Instant::now();
        let held = hold(&options, &router, &leads, &leave).await;
        leads.send_replace(false);
        let Err(lost) = held else { return };
        if begun.elapsed() > PATIENCE {
            backoff = FIRST_BACKOFF;
        }
        tracing::warn!(error = %lost, "lost etcd; going on without");
        tokio::select! {
            () = sleep(jittered(backoff)) => {}
            () = leave.cancelled() => return,
        }
        backoff = (backoff * 2).min(LAST_BACKOFF);
    }
}

/// One lease's time. Ends well when the router leaves.
async fn hold(
    options: &EtcdOptions,
    router: &Announcement,
    leads: &watch::Sender<bool>,
    leave: &CancellationToken,
) -> Result<(), Lost> {
    let id = format!("{:016x}", router.id.0);
    let mut client = connect(options).await?;
    // It is this router's until then, whatever happens to its renewals.
    let mut until = Instant::now() + options.lease;
    let seconds = i64::try_from(options.lease.as_secs()).unwrap_or(i64::MAX);
    let lease = within(client.lease_grant(seconds, None)).await?.id();
    let record = Record { control_address: router.control_address.clone() };
    let record = serde_json::to_vec(&record).expect("a record is plain JSON");
    let key = format!("{}/routers/{id}", options.prefix);
    within(client.put(key, record, Some(PutOptions::new().with_lease(lease)))).await?;
    let (mut keeper, mut kept) = within(client.lease_keep_alive(lease)).await?;
    tracing::info!(router = id, address = router.control_address, "announced in etcd");

    let mut candidate = client.election_client();
    let mut elected = pin!(candidate.campaign(format!("{}/leader", options.prefix), id, lease));
    let mut ticks = interval(options.lease / RENEWALS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let asked = Instant::now();
                let renewing = async {
                    keeper.keep_alive().await?;
                    kept.message().await
                };
                let over = Lost::Lease { lease: options.lease };
                match timeout_at(until, renewing).await {
                    Ok(Ok(Some(renewed))) if renewed.ttl() > 0 => until = asked + options.lease,
                    Ok(Err(error)) => return Err(error.into()),
                    Ok(Ok(_)) | Err(_) => return Err(over),
                }
            }
            won = &mut elected, if !*leads.borrow() => {
                won?;
                leads.send_replace(true);
                tracing::info!("this router leads");
            }
            () = leave.cancelled() => {
                leads.send_replace(false);
                // Otherwise it ends by itself.
                let _ = timeout(GOODBYE_PATIENCE, client.lease_revoke(lease)).await;
                return Ok(());
            }
        }
    }
}

async fn connect(options: &EtcdOptions) -> Result<Client, Lost> {
    let mut connect = ConnectOptions::new()
        .with_connect_timeout(PATIENCE)
        .with_keep_alive(PATIENCE, PATIENCE)
        .with_keep_alive_while_idle(true)
        .with_auto_token_refresh(true);
    if let Some(login) = &options.login {
        connect = connect.with_user(&login.user, &login.password);
    }
    if let Some(tls) = &options.tls {
        let mut of = TlsOptions::new().ca_certificate(Certificate::from_pem(file(&tls.ca).await?));
        if let Some((certificate, key)) = &tls.identity {
            of = of.identity(Identity::from_pem(file(certificate).await?, file(key).await?));
        }
        connect = connect.with_tls(of);
    }
    within(Client::connect(&options.endpoints, Some(connect))).await
}

async fn file(path: &Path) -> Result<Vec<u8>, Lost> {
    let read = tokio::fs::read(path).await;
    read.map_err(|source| Lost::File { path: path.to_owned(), source })
}

async fn within<T>(asked: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, Lost> {
    Ok(timeout(PATIENCE, asked).await.map_err(|_late| Lost::Silent)??)
}

/// So that many don't come back at the same time.
fn jittered(backoff: Duration) -> Duration {
    backoff.mul_f64(0.5 + rand::random::<f64>())
}
