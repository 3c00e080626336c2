//! Nodes that are to be empty: what they decode goes elsewhere.
//!
//! A node drains because somebody said so (`baton drain`), or because it says so itself: it was told to end.
//! It takes nothing new, and its sequences move away, a few at a time, those that are still on their way
//! there as soon as they are decoded.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use baton_node::task;
use baton_types::{NodeId, SequenceKey};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    moves::{NotMoved, Why},
    router::Router,
};

/// Sequences that leave a node at the same time.
const AT_ONCE: usize = 8;
/// After how long a node is looked at again whose sequences couldn't move, or that has none.
const AGAIN: Duration = Duration::from_millis(50);

/// Empties nodes that drain, for ever.
pub(crate) async fn keep(router: Arc<Router>) {
    let mut draining = router.cluster.watch_draining();
    let mut evacuations: HashMap<NodeId, AbortOnDropHandle<()>> = HashMap::new();
    loop {
        let nodes: BTreeSet<NodeId> = draining.borrow_and_update().clone();
        evacuations.retain(|node, _| nodes.contains(node));
        for node in nodes {
            let evacuation = || task::owned(evacuate(Arc::clone(&router), node.clone()));
            evacuations.entry(node.clone()).or_insert_with(evacuation);
        }
        if draining.changed().await.is_err() {
            return;
        }
    }
}

/// Moves whatever a node decodes elsewhere, until it is dropped.
async fn evacuate(router: Arc<Router>, node: NodeId) {
    tracing::info!(%node, sequences = router.moves.on(&node).len(), "its sequences go elsewhere");
    loop {
        let mut waiting = router.moves.on(&node).into_iter();
        let mut moving: FuturesUnordered<_> =
            waiting.by_ref().take(AT_ONCE).map(|key| one(&router, key)).collect();
        let mut has_moved = false;
        while let Some(moved) = moving.next().await {
            has_moved |= moved;
            moving.extend(waiting.next().map(|key| one(&router, key)));
        }
        if !has_moved {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Whether the sequence isn't there any more.
async fn one(router: &Router, key: SequenceKey) -> bool {
    match router.moves.ask(key, None, Why::Drain).await {
        Ok(_) | Err(NotMoved::Ended) => true,
        Err(why) => {
            tracing::debug!(%key, %why, "it stays for now");
            false
        }
    }
}
