//! What a router has in a registry, and what it wants to hear from there.

use std::collections::BTreeMap;

use baton_types::RouterId;
use tokio::sync::watch;

use crate::{Announcement, Rates};

/// What is kept there of a router.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) router: Announcement,
    pub(crate) rates: watch::Receiver<Rates>,
    pub(crate) leads: watch::Sender<bool>,
}

/// What comes to the other routers.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    pub(crate) own: RouterId,
    pub(crate) rates: watch::Sender<Rates>,
    /// Whether this router leads: who does cleans up, where that isn't done by itself.
    pub(crate) leads: watch::Receiver<bool>,
}

/// How routers are named in a registry.
pub(crate) fn id(router: RouterId) -> String {
    format!("{:016x}", router.0)
}

/// Says it if it is new.
pub(crate) fn send<T: PartialEq>(channel: &watch::Sender<T>, now: T) {
    channel.send_if_modified(|before| {
        let changed = *before != now;
        *before = now;
        changed
    });
}

/// What comes to all of these routers together.
pub(crate) fn sum<'a>(routers: impl Iterator<Item = &'a Rates>) -> Rates {
    let mut sum: Rates = BTreeMap::new();
    for (model, rate) in routers.flatten() {
        *sum.entry(model.clone()).or_default() += rate;
    }
    sum
}
