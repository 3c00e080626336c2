//! Everything of a kind that there is, and what changes of it.
//!
//! This is `list` and `watch` of `kube` and not its `watcher`, which serves controllers well and this badly: it
//! asks for a version that is gone over and over when the API server says so by an HTTP status, waits for an API server
//! that hangs for ever unless it had begun to speak, and resumes where it was behind an API server whose data were
//! restored, where nothing newer comes for long. Here whatever goes wrong is a new beginning: a list, which
//! is short for what is listed here.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Debug,
    pin::pin,
    time::{Duration, Instant},
};

use futures::StreamExt;
use k8s_openapi::{ListableResource, Metadata, NamespaceResourceScope};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, ObjectMeta, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};

use super::reach::{Lost, PATIENCE, api, within};
use crate::{KubernetesOptions, backoff::Backoff};

/// A watch is closed by the API server after so many leases, up to twice as many, so that one whose connection is
/// silently gone is missed soon.
const WATCH: u32 = 3;
/// One that ends sooner is none.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);

/// What there is, by name.
pub(super) type Known<K> = BTreeMap<String, K>;

/// How something came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It was listed: what was in between isn't known.
    List,
    Change,
}

/// Tells what there is with these labels, and whenever it changes, for ever.
pub(super) async fn follow<K>(
    options: &KubernetesOptions,
    labels: &str,
    mut tell: impl FnMut(News, &Known<K>),
) where
    K: ListableResource + Metadata<Ty = ObjectMeta> + Clone + Debug + DeserializeOwned,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let mut backoff = Backoff::new();
    loop {
        let begun = Instant::now();
        let Err(lost) = follow_once(options, labels, &mut tell).await;
        if begun.elapsed() > PATIENCE {
            backoff.reset();
        }
        tracing::warn!(
            kind = K::KIND, error = %lost,
            "lost the Kubernetes API; going on with what is known"
        );
        sleep(backoff.step().max(lost.wait().unwrap_or_default())).await;
    }
}

async fn follow_once<K>(
    options: &KubernetesOptions,
    labels: &str,
    mut tell: impl FnMut(News, &Known<K>),
) -> Result<Infallible, Lost>
where
    K: ListableResource + Metadata<Ty = ObjectMeta> + Clone + Debug + DeserializeOwned,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let api: Api<K> = api(options).await?;
    let listed = within(PATIENCE, api.list(&ListParams::default().labels(labels))).await?;
    let mut version = listed.metadata.resource_version.ok_or(Lost::NoVersion)?;
    let mut known: Known<K> =
        listed.items.into_iter().map(|object| (object.name_any(), object)).collect();
    tracing::info!(kind = K::KIND, labels, known = known.len(), "following the Kubernetes API");
    tell(News::List, &known);
    loop {
        let begun = Instant::now();
        let seconds = options.lease.mul_f64(f64::from(WATCH) * (1.0 + rand::random::<f64>()));
        let seconds = seconds.as_secs().clamp(1, MOST_SECONDS);
        let params = WatchParams::default().labels(labels).timeout(seconds as u32);
        let mut events = pin!(within(PATIENCE, api.watch(&params, &version)).await?);
        let patience = Duration::from_secs(seconds) + PATIENCE;
        let mut is_short = true;
        while let Some(event) =
            timeout(patience, events.next()).await.map_err(|_late| Lost::Silent(patience))?
        {
            is_short = false;
            version = match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let version = object.resource_version();
                    known.insert(object.name_any(), object);
                    version
                }
                WatchEvent::Deleted(object) => {
                    known.remove(&object.name_any());
                    object.resource_version()
                }
                WatchEvent::Bookmark(mark) => {
                    version = mark.metadata.resource_version;
                    continue;
                }
                WatchEvent::Error(status) => return Err((*status).into()),
            }
            .ok_or(Lost::NoVersion)?;
            tell(News::Change, &known);
        }
        // It is resumed where it ended, but not as fast as it can be closed.
        let after = begun.elapsed();
        if is_short && after < SHORTEST_WATCH {
            return Err(Lost::Ended { after });
        }
    }
}

/// What `kube` takes for the length of a watch.
const MOST_SECONDS: u64 = 290;
