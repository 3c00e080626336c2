//! Which routers the EndpointSlices of a service name.
//!
//! Every endpoint counts, whatever its conditions say. They are about where new requests should go; nodes ask who may
//! have requests for them:
//! - one that isn't ready may have no nodes yet, which is just what it waits for;
//! - one that terminates still has the requests it had, and needs its nodes until it ends, whether it serves or not;
//! - one that is dead and listed costs nothing but attempts.
//!
//! A pod is one router, however many addresses it has: in a cluster with both families it is in slices of both, and
//! a node that registered at both would throw itself out. Among several the one that was told before is kept, for the
//! slices of the two families don't change at once; else IPv4 goes first.

use std::collections::BTreeMap;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::Routers;

/// Control addresses of the routers in these slices. `before` is what was told last.
pub(super) fn addresses<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    port: &str,
    before: &Routers,
) -> Routers {
    let mut best: BTreeMap<String, (bool, Family, String)> = BTreeMap::new();
    for slice in slices {
        let Some(family) = Family::of(slice) else { continue };
        for number in ports(slice, port) {
            for endpoint in &slice.endpoints {
                let Some(host) = host(endpoint, family) else { continue };
                let address = format!("http://{host}:{number}");
                let one = (!before.contains(&address), family, address);
                let of = pod(endpoint).unwrap_or_else(|| one.2.clone());
                let best = best.entry(of).or_insert_with(|| one.clone());
                *best = one.min(best.clone());
            }
        }
    }
    best.into_values().map(|(_, _, address)| address).collect()
}

/// What a slice's addresses are, those first that are taken first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    IPv4,
    IPv6,
    Name,
}

impl Family {
    fn of(slice: &EndpointSlice) -> Option<Family> {
        match slice.address_type.as_str() {
            "IPv4" => Some(Family::IPv4),
            "IPv6" => Some(Family::IPv6),
            "FQDN" => Some(Family::Name),
            other => {
                tracing::warn!(address_type = other, "a slice's addresses are of no known type");
                None
            }
        }
    }
}

/// A slice has no ports, or ports without a number, when it is meant for any.
fn ports(slice: &EndpointSlice, name: &str) -> impl Iterator<Item = i32> {
    let named = |port: &&k8s_openapi::api::discovery::v1::EndpointPort| {
        let is_tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        is_tcp && port.name.as_deref() == Some(name)
    };
    slice.ports.iter().flatten().filter(named).filter_map(|port| port.port)
}

/// The first address, for the others of one endpoint lead to the same place.
fn host(endpoint: &Endpoint, family: Family) -> Option<String> {
    let address = endpoint.addresses.first().filter(|address| !address.is_empty())?;
    Some(match family {
        Family::IPv6 => format!("[{address}]"),
        Family::IPv4 | Family::Name => address.clone(),
    })
}

/// What is behind an endpoint, if that is said.
fn pod(endpoint: &Endpoint) -> Option<String> {
    let target = endpoint.target_ref.as_ref()?;
    let named = || Some(format!("{}/{}", target.kind.as_deref()?, target.name.as_deref()?));
    target.uid.clone().or_else(named)
}

#[cfg(test)]
mod tests;
