//! The routers a node registers with: those it was told of, and those that the registry has.
//!
//! A router that the registry has no more is kept for as long as its stream speaks: the registry may be
//! wrong, and the router isn't gone before it is silent.

use std::collections::BTreeMap;

use baton_registry::{Directory, Routers};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::registration::{Pulse, Registration};

/// Registers `node` with every router there is, until `leave`.
pub(crate) async fn keep<P: Pulse + Clone + 'static>(
    node: Registration<P>,
    fixed: Routers,
    directory: Option<Directory>,
    leave: CancellationToken,
) {
    let mut directory = directory;
    let mut listed: BTreeMap<String, watch::Sender<bool>> = BTreeMap::new();
    let mut registrations: JoinSet<String> = JoinSet::new();
    loop {
        let mut wanted = fixed.clone();
        if let Some(directory) = &mut directory {
            wanted.extend(directory.routers.borrow_and_update().iter().cloned());
        }
        for (address, is_listed) in &listed {
            is_listed.send_replace(wanted.contains(address));
        }
        for address in wanted {
            listed.entry(address).or_insert_with_key(|address| {
                let (sender, is_listed) = watch::channel(true);
                let registration = Registration { router: address.clone(), ..node.clone() };
                let (address, leave) = (address.clone(), leave.clone());
                registrations.spawn(async move {
                    registration.keep(is_listed, leave).await;
                    address
                });
                sender
            });
        }
        let changed = async {
            match &mut directory {
                Some(directory) => directory.routers.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changed => if !changed {
                directory = None;
            },
            Some(ended) = registrations.join_next() => match ended {
                // Looked at again, for it may be listed by now.
                Ok(address) => {
                    listed.remove(&address);
                }
                Err(error) => tracing::error!(%error, "a registration ended"),
            },
            () = leave.cancelled() => break,
        }
    }
    while registrations.join_next().await.is_some() {}
}
