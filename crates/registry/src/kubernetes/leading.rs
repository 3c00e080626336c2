//! Standing for election: asks the API server what [`Election`] wants to know, and writes what it claims.

use std::time::Duration;

use baton_types::Time;
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    election::{Election, Record},
    leases::{self, GOODBYE_PATIENCE, Named},
    reach::Lost,
};
use crate::{KubernetesOptions, backoff::jittered};

/// How often a lease is renewed, or looked at, while it lasts.
const ROUNDS: u32 = 5;

/// Stands for election until `leave`.
pub(super) async fn stand(
    options: &KubernetesOptions,
    id: &str,
    leads: watch::Sender<bool>,
    leave: &CancellationToken,
) {
    let mut candidate = Candidate {
        id,
        lease: options.lease,
        record: Named::new(format!("{}-leader", options.service), options),
        last: None,
        election: Election::new(id.to_owned(), options.lease),
        origin: Instant::now(),
        leads,
        is_heard: true,
    };
    tokio::select! {
        () = candidate.stand() => {}
        () = leave.cancelled() => {}
    }
    candidate.resign().await;
}

#[derive(Debug)]
struct Candidate<'a> {
    id: &'a str,
    lease: Duration,
    record: Named,
    /// The record whole, as it was read or written last.
    last: Option<Lease>,
    election: Election,
    /// `Time::ZERO` of the election.
    origin: Instant,
    leads: watch::Sender<bool>,
    /// Whether the API server answered the last time.
    is_heard: bool,
}

impl Candidate<'_> {
    async fn stand(&mut self) {
        loop {
            let next = Instant::now() + jittered(self.lease / ROUNDS);
            let done = self.round().await;
            let heard = done.as_ref().err().is_none_or(Lost::is_conflict);
            if let Err(error) = done {
                self.election.doubt();
                if heard || !self.is_heard {
                    tracing::debug!(%error, "no news of who leads");
                } else {
                    tracing::warn!(%error, "lost who leads; asking on");
                }
            }
            self.is_heard = heard;
            // It ceases to lead in time, whether it is heard or not.
            let until = self.origin + self.election.until().since(Time::ZERO);
            while Instant::now() < next {
                self.publish();
                let wake = if Instant::now() < until { next.min(until) } else { next };
                sleep_until(wake).await;
            }
            self.publish();
        }
    }

    /// Reads if that is needed, and writes if there is a reason.
    async fn round(&mut self) -> Result<(), Lost> {
        if self.election.should_read(self.now()) {
            let patience = self.patience();
            let read = self.record.read(patience).await?;
            self.election.read(self.now(), read.as_ref().map(record));
            self.last = read;
            self.publish();
        }
        let Some(claim) = self.election.claim(self.now()) else { return Ok(()) };
        let before = self.last.as_ref().filter(|_| claim.over.is_some());
        let mut lease = leases::renewed(before, &self.record.name, Some(self.id), self.lease);
        lease.metadata.resource_version.clone_from(&claim.over);
        let asked = self.now();
        let written = self.record.write(&lease, self.patience()).await?;
        let version = written.resource_version().ok_or(Lost::NoVersion)?;
        self.election.written(asked, self.now(), &claim, version);
        self.last = Some(written);
        self.publish();
        Ok(())
    }

    /// No longer than it leads, so that it ceases in time.
    fn patience(&self) -> Duration {
        let most = self.lease / (ROUNDS - 1);
        let now = self.now();
        match self.election.leads(now) {
            true => most.min(self.election.until().since(now)),
            false => most,
        }
    }

    fn publish(&self) {
        let now = self.election.leads(self.now());
        let changed = self.leads.send_if_modified(|before| std::mem::replace(before, now) != now);
        if changed && now {
            tracing::info!(router = self.id, "this router leads");
        } else if changed {
            tracing::warn!(router = self.id, "this router leads no more");
        }
    }

    /// Has another one lead at once.
    async fn resign(mut self) {
        let release = self.election.resign(self.now());
        self.publish();
        let Some(version) = release else { return };
        let mut released = leases::renewed(self.last.as_ref(), &self.record.name, None, self.lease);
        released.metadata.resource_version = Some(version);
        // Otherwise it ends by itself.
        let _ = self.record.write(&released, GOODBYE_PATIENCE).await;
    }

    fn now(&self) -> Time {
        Time::ZERO + self.origin.elapsed()
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.clone());
    Record {
        version: lease.resource_version().unwrap_or_default(),
        holder: holder.filter(|holder| !holder.is_empty()),
        lease: leases::length(lease),
    }
}
