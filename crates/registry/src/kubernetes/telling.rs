//! What routers tell each other: each in a Lease of its own.
//!
//! Who leaves in order takes it away. What the dead leave behind doesn't count after a lease, and the leader takes it
//! away after three: there is one that does in any cluster that has a use for it.

use std::{collections::BTreeMap, time::Duration};

use baton_types::Time;
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    follow::{Known, News, follow},
    leases::{self, GOODBYE_PATIENCE, Named},
    rates::{Word, Words},
    reach::{Lost, PATIENCE},
};
use crate::{
    Elsewhere, KubernetesOptions, Rates,
    backoff::jittered,
    held::{id, send},
};

/// The label of all routers' leases; its value is the service.
const LABEL: &str = "baton-routers-of";
/// The annotation that has requests a second, by model, as JSON.
const RATES: &str = "baton-rates";
/// How often a lease is renewed while it lasts.
const RENEWALS: u32 = 3;

fn name(options: &KubernetesOptions, id: &str) -> String {
    format!("{}-{id}", options.service)
}

/// Tells the others what comes to this router, until `leave`.
pub(super) async fn tell(
    options: &KubernetesOptions,
    id: &str,
    rates: watch::Receiver<Rates>,
    leave: &CancellationToken,
) {
    let mut own = Own {
        id,
        lease: options.lease,
        named: Named::new(name(options, id), options),
        first: leases::labelled([(LABEL, &options.service)]),
        last: None,
        rates,
    };
    tokio::select! {
        () = own.keep() => {}
        () = leave.cancelled() => {}
    }
    own.leave().await;
}

/// A router's own lease.
#[derive(Debug)]
struct Own<'a> {
    id: &'a str,
    lease: Duration,
    named: Named,
    /// What it is when there is none.
    first: Lease,
    /// As it was read or written last.
    last: Option<Lease>,
    rates: watch::Receiver<Rates>,
}

impl Own<'_> {
    async fn keep(&mut self) {
        let mut is_heard = true;
        loop {
            let renewed = self.renew().await;
            if let Err(error) = &renewed {
                self.last = None;
                if is_heard {
                    tracing::warn!(%error, "the other routers don't hear what comes to this one");
                }
            }
            is_heard = renewed.is_ok();
            sleep(jittered(self.lease / RENEWALS)).await;
        }
    }

    async fn renew(&mut self) -> Result<(), Lost> {
        let before = match self.last.take() {
            Some(last) => last,
            None => self.named.read(PATIENCE).await?.unwrap_or_else(|| self.first.clone()),
        };
        let (name, id) = (&self.named.name, Some(self.id));
        let mut lease = leases::renewed(Some(&before), name, id, self.lease);
        let rates = serde_json::to_string(&*self.rates.borrow()).expect("plain JSON");
        lease.annotations_mut().insert(RATES.to_owned(), rates);
        self.last = Some(self.named.write(&lease, PATIENCE).await?);
        Ok(())
    }

    async fn leave(mut self) {
        let version = self.last.as_ref().and_then(ResourceExt::resource_version);
        // Otherwise it counts until its end, and the leader takes it away.
        let _ = match version {
            Some(version) => self.named.delete(&version, GOODBYE_PATIENCE).await,
            None => Ok(()),
        };
    }
}

/// Tells what comes to all other routers, for ever.
pub(crate) async fn elsewhere(options: KubernetesOptions, told: Elsewhere) {
    let origin = Instant::now();
    let mut words = Words::new(name(&options, &id(told.own)));
    let (dead, mut found) = watch::channel(BTreeMap::<String, String>::new());
    let tell = |news, known: &Known<Lease>| {
        let now = Time::ZERO + origin.elapsed();
        words.hear(now, news == News::List, known.iter().filter_map(word).collect());
        send(&told.rates, words.elsewhere());
        let gone = words.dead().map(|(name, version)| (name.to_owned(), version.to_owned()));
        // Told each time, for who doesn't lead now may the next time.
        dead.send_if_modified(|dead| {
            *dead = gone.collect();
            !dead.is_empty()
        });
    };
    let labels = format!("{LABEL}={}", options.service);
    let following = follow(&options, &labels, tell);
    tokio::join!(following, clean(&options, &mut found, told.leads));
}

/// Takes away what the dead have left, if this router leads.
async fn clean(
    options: &KubernetesOptions,
    dead: &mut watch::Receiver<BTreeMap<String, String>>,
    leads: watch::Receiver<bool>,
) {
    while dead.changed().await.is_ok() {
        let gone = dead.borrow_and_update().clone();
        for (name, version) in gone.into_iter().filter(|_| *leads.borrow()) {
            match Named::new(name.clone(), options).delete(&version, PATIENCE).await {
                Ok(()) => tracing::info!(lease = name, "took a dead router's lease away"),
                Err(error) => tracing::debug!(lease = name, %error, "a lease stays"),
            }
        }
    }
}

fn word((name, lease): (&String, &Lease)) -> Option<(String, Word)> {
    let rates = lease.annotations().get(RATES)?;
    let rates = match serde_json::from_str(rates) {
        Ok(rates) => rates,
        Err(error) => {
            tracing::warn!(lease = name, %error, "a router's rates can't be read");
            return None;
        }
    };
    let (version, lease) = (lease.resource_version()?, leases::length(lease)?);
    Some((name.clone(), Word { version, rates, lease }))
}
