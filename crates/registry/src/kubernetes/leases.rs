//! Leases as this crate reads and writes them.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ObjectMeta, PostParams, Preconditions},
};

use super::reach::{Lost, api, within};
use crate::KubernetesOptions;

/// How long a word of leaving may take.
pub(super) const GOODBYE_PATIENCE: Duration = Duration::from_millis(500);

/// One Lease, and the way to it.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) name: String,
    options: KubernetesOptions,
    /// Made when it is needed, and anew when it was of no use.
    api: Option<Api<Lease>>,
}

impl Named {
    pub(super) fn new(name: String, options: &KubernetesOptions) -> Self {
        Named { name, options: options.clone(), api: None }
    }

    async fn api(&mut self) -> Result<&Api<Lease>, Lost> {
        let api = match self.api.take() {
            Some(api) => api,
            None => api(&self.options).await?,
        };
        Ok(self.api.insert(api))
    }

    /// What is there, if anything.
    pub(super) async fn read(&mut self, patience: Duration) -> Result<Option<Lease>, Lost> {
        let name = self.name.clone();
        let asked = within(patience, self.api().await?.get_opt(&name)).await;
        self.used(asked)
    }

    /// Writes it over the version that it names, or makes it if it names none.
    pub(super) async fn write(&mut self, lease: &Lease, patience: Duration) -> Result<Lease, Lost> {
        let name = self.name.clone();
        let api = self.api().await?;
        let params = PostParams::default();
        let asked = match lease.resource_version() {
            Some(_) => within(patience, api.replace(&name, &params, lease)).await,
            None => within(patience, api.create(&params, lease)).await,
        };
        self.used(asked)
    }

    /// Takes it away, if it is what it was.
    pub(super) async fn delete(&mut self, version: &str, patience: Duration) -> Result<(), Lost> {
        let name = self.name.clone();
        let preconditions =
            Preconditions { resource_version: Some(version.to_owned()), ..Default::default() };
        let params = DeleteParams::default().preconditions(preconditions);
        let asked = within(patience, self.api().await?.delete(&name, &params)).await;
        self.used(asked).map(drop)
    }

    /// An API server that refuses is one that can be reached, unless it doesn't know who asks any more.
    fn used<T>(&mut self, asked: Result<T, Lost>) -> Result<T, Lost> {
        let is_useless = |lost: &Lost| {
            matches!(lost, Lost::Unreachable(_) | Lost::Silent(_) | Lost::Refused { code: 401, .. })
        };
        if asked.as_ref().is_err_and(is_useless) {
            self.api = None;
        }
        asked
    }
}

/// A Lease that `holder` renews now. What else a Lease has is kept of `before`.
pub(super) fn renewed(
    before: Option<&Lease>,
    name: &str,
    holder: Option<&str>,
    length: Duration,
) -> Lease {
    let mut lease = before.cloned().unwrap_or_default();
    lease.metadata.name = Some(name.to_owned());
    // What the API server says of who wrote what is its own.
    lease.metadata.managed_fields = None;
    let now = MicroTime(Timestamp::now());
    let spec = lease.spec.get_or_insert_default();
    if spec.holder_identity.as_deref() != holder {
        spec.holder_identity = holder.map(str::to_owned);
        spec.acquire_time = Some(now.clone());
        if holder.is_some() {
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |times| times + 1));
        }
    }
    spec.renew_time = Some(now);
    spec.lease_duration_seconds = Some(whole_seconds(length));
    lease
}

/// A new one's metadata.
pub(super) fn labelled(labels: [(&str, &str); 1]) -> Lease {
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let labels: BTreeMap<String, String> = labels.map(owned).into();
    Lease {
        metadata: ObjectMeta { labels: Some(labels), ..ObjectMeta::default() },
        spec: Some(LeaseSpec::default()),
    }
}

/// How long its holder may count on it.
pub(super) fn length(lease: &Lease) -> Option<Duration> {
    let seconds = lease.spec.as_ref()?.lease_duration_seconds?;
    u64::try_from(seconds).ok().filter(|&seconds| seconds > 0).map(Duration::from_secs)
}

/// Never less than was meant: others may wait longer, and mustn't wait shorter.
fn whole_seconds(length: Duration) -> i32 {
    let seconds = length.as_secs() + u64::from(length.subsec_nanos() > 0);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}
