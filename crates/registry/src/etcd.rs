//! etcd v3: a key of each router under its lease, and an election among them.
//!
//! `PREFIX/routers/ID` holds a router's record, `PREFIX/rates/ID` what comes to it; `PREFIX/leader` is the name of
//! etcd's own election. All hang on one lease, so that a router that is gone is neither found nor the leader any more.
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
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Elsewhere, EtcdOptions, Held, Rates, Routers,
    backoff::Backoff,
    held::{id, send, sum},
};

/// How long etcd may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a word of leaving may take.
const GOODBYE_PATIENCE: Duration = Duration::from_millis(500);
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
pub(crate) async fn routers(options: EtcdOptions, routers: watch::Sender<Routers>) {
    let tell = |known: &BTreeMap<String, Record>| {
        send(&routers, known.values().map(|record| record.control_address.clone()).collect());
    };
    follow(&options, "routers", tell).await
}

/// Tells what comes to all routers but one, for ever.
pub(crate) async fn elsewhere(options: EtcdOptions, told: Elsewhere) {
    let own = id(told.own);
    let tell = |known: &BTreeMap<String, Rates>| {
        let others = known.iter().filter(|(id, _)| **id != own);
        send(&told.rates, sum(others.map(|(_, rates)| rates)));
    };
    follow(&options, "rates", tell).await
}

/// Tells all values of a section, by the routers' ids, whenever one changes.
async fn follow<T: DeserializeOwned>(
    options: &EtcdOptions,
    section: &str,
    tell: impl Fn(&BTreeMap<String, T>),
) {
    let mut backoff = Backoff::new();
    loop {
        let begun = Instant::now();
        let Err(lost) = follow_once(options, section, &tell).await;
        if begun.elapsed() > PATIENCE {
            backoff.reset();
        }
        tracing::warn!(section, error = %lost, "lost etcd; going on with what is known");
        sleep(backoff.step()).await;
    }
}

async fn follow_once<T: DeserializeOwned>(
    options: &EtcdOptions,
    section: &str,
    tell: impl Fn(&BTreeMap<String, T>),
) -> Result<Infallible, Lost> {
    let mut client = connect(options).await?;
    let prefix = format!("{}/{section}/", options.prefix);
    let all = GetOptions::new().with_prefix();
    let all = within(client.get(prefix.as_bytes(), Some(all))).await?;
    let revision = all.header().map_or(0, |header| header.revision());
    let mut known: BTreeMap<String, T> =
        all.kvs().iter().filter_map(|entry| Some((of(entry, &prefix), read(entry)?))).collect();
    tell(&known);
    let changes = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
    let mut changes = within(client.watch(prefix.as_bytes(), Some(changes))).await?;
    tracing::debug!(section, known = known.len(), "following etcd");
    while let Some(said) = changes.message().await? {
        if said.canceled() {
            return Err(Lost::Ended { reason: said.cancel_reason().to_owned() });
        }
        for entry in said.events() {
            let (kind, Some(entry)) = (entry.event_type(), entry.kv()) else { continue };
            let key = of(entry, &prefix);
            match (kind, read(entry)) {
                (EventType::Put, Some(value)) => drop(known.insert(key, value)),
                (EventType::Put, None) => {}
                (EventType::Delete, _) => drop(known.remove(&key)),
            }
        }
        tell(&known);
    }
    Err(Lost::Ended { reason: "etcd closed it".to_owned() })
}

/// Whose a key is.
fn of(entry: &KeyValue, prefix: &str) -> String {
    String::from_utf8_lossy(entry.key()).trim_start_matches(prefix).to_owned()
}

fn read<T: DeserializeOwned>(entry: &KeyValue) -> Option<T> {
    let read = serde_json::from_slice(entry.value());
    if let Err(error) = &read
        && !entry.value().is_empty()
    {
        let key = String::from_utf8_lossy(entry.key());
        tracing::warn!(%key, %error, "etcd has something that can't be read");
    }
    read.ok()
}

/// Keeps a router there, and has it stand for election, until it leaves.
pub(crate) async fn keep(options: EtcdOptions, held: Held, leave: CancellationToken) {
    let mut backoff = Backoff::new();
    loop {
        let begun = Instant::now();
        let ended = held.hold(&options, &leave).await;
        held.leads.send_replace(false);
        let Err(lost) = ended else { return };
        if begun.elapsed() > PATIENCE {
            backoff.reset();
        }
        tracing::warn!(error = %lost, "lost the place in etcd; going on without");
        tokio::select! {
            () = sleep(backoff.step()) => {}
            () = leave.cancelled() => return,
        }
    }
}

impl Held {
    /// One lease's time. Ends well when the router leaves.
    async fn hold(&self, options: &EtcdOptions, leave: &CancellationToken) -> Result<(), Lost> {
        let id = id(self.router.id);
        let mut client = connect(options).await?;
        // It is this router's until then, whatever happens to its renewals.
        let mut until = Instant::now() + options.lease;
        let seconds = i64::try_from(options.lease.as_secs()).unwrap_or(i64::MAX);
        let lease = within(client.lease_grant(seconds, None)).await?.id();
        let record = Record { control_address: self.router.control_address.clone() };
        put(&mut client, options, &format!("routers/{id}"), &record, lease).await?;
        let (mut keeper, mut kept) = within(client.lease_keep_alive(lease)).await?;
        tracing::info!(router = id, address = record.control_address, "announced in etcd");

        let mut candidate = client.election_client();
        let name = format!("{}/leader", options.prefix);
        let mut elected = pin!(candidate.campaign(name, id.as_str(), lease));
        let mut ticks = interval(options.lease / RENEWALS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let asked = Instant::now();
                    let renewing = async {
                        keeper.keep_alive().await?;
                        kept.message().await
                    };
                    match timeout_at(until, renewing).await {
                        Ok(Ok(Some(renewed))) if renewed.ttl() > 0 => until = asked + options.lease,
                        Ok(Err(error)) => return Err(error.into()),
                        Ok(Ok(_)) | Err(_) => return Err(Lost::Lease { lease: options.lease }),
                    }
                    let rates = self.rates.borrow().clone();
                    if told.as_ref() != Some(&rates) {
                        put(&mut client, options, &format!("rates/{id}"), &rates, lease).await?;
                        told = Some(rates);
                    }
                }
                won = &mut elected, if !*self.leads.borrow() => {
                    won?;
                    self.leads.send_replace(true);
                    tracing::info!(router = id, "this router leads");
                }
                () = leave.cancelled() => {
                    self.leads.send_replace(false);
                    // Otherwise it ends by itself.
                    let _ = timeout(GOODBYE_PATIENCE, client.lease_revoke(lease)).await;
                    return Ok(());
                }
            }
        }
    }
}

async fn put(
    client: &mut Client,
    options: &EtcdOptions,
    key: &str,
    value: &impl Serialize,
    lease: i64,
) -> Result<(), Lost> {
    let value = serde_json::to_vec(value).expect("plain JSON");
    let key = format!("{}/{key}", options.prefix);
    within(client.put(key, value, Some(PutOptions::new().with_lease(lease)))).await?;
    Ok(())
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
