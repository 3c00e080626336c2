//! Kubernetes: routers are the endpoints of a service, one of them is elected with a Lease, and each has a Lease of its
//! own for what it tells the others.
//!
//! | object | is |
//! | --- | --- |
//! | EndpointSlices labelled `kubernetes.io/service-name=SERVICE` | where the routers are: kept by the cluster itself |
//! | Lease `SERVICE-leader` | who leads ([`election`]) |
//! | Lease `SERVICE-ID`, labelled `baton-routers-of=SERVICE` | what comes to a router, in an annotation ([`rates`]) |
//!
//! An API server that is away, was restarted or lost its history costs nothing but a new beginning ([`follow`]).
//!
//! # Why an election of our own?
//!
//! The crates there are (`kube-leader-election`, kubert's `lease`) compare the time in the record with the clock of
//! whoever reads it, so that a candidate whose clock is ahead takes over from a leader that leads; the first one
//! also writes without saying over which version.

mod election;
mod endpoints;
mod follow;
mod leading;
mod leases;
mod rates;
mod reach;
mod telling;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use self::{reach::check, telling::elsewhere};
use crate::{
    Held, KubernetesOptions, Routers,
    held::{id, send},
};

/// Tells which routers there are, for ever.
pub(crate) async fn routers(options: KubernetesOptions, routers: watch::Sender<Routers>) {
    let labels = format!("kubernetes.io/service-name={}", options.service);
    let tell = |_, slices: &follow::Known<EndpointSlice>| {
        let before = routers.borrow().clone();
        send(&routers, endpoints::addresses(slices.values(), &options.port, &before));
    };
    follow::follow(&options, &labels, tell).await
}

/// Keeps what a router has to tell there, and has it stand for election, until it leaves.
pub(crate) async fn keep(options: KubernetesOptions, held: Held, leave: CancellationToken) {
    let Held { router, rates, leads } = held;
    let id = id(router.id);
    tokio::join!(
        leading::stand(&options, &id, leads, &leave),
        telling::tell(&options, &id, rates, &leave),
    );
}
