//! Running requests change nodes when the policy says so: see [`baton_policy::rebalance`].
//!
//! A node is to be empty because somebody said so (`baton drain`), or because it says so itself: it was told
//! to end. That is seen to even if nobody moves otherwise.

use std::{collections::HashMap, sync::Arc};

use baton_node::task;
use baton_policy::rebalance::{Proposal, Rebalancer};
use baton_types::SequenceKey;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use crate::{moves::Why, router::Router};

/// Looks at the cluster now and then, for ever.
pub(crate) async fn keep(router: Arc<Router>) {
    let config = router.config.rebalance.policy();
    let mut rebalancer = Rebalancer::new(config);
    let mut asked: HashMap<SequenceKey, AbortOnDropHandle<()>> = HashMap::new();
    let mut looks = interval(config.every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // A cluster with nothing to do isn't looked at.
        router.moves.some().await;
        looks.tick().await;
        asked.retain(|_, asking| !asking.is_finished());
        for proposal in router.cluster.rebalance(&mut rebalancer) {
            let key = router.moves.at(proposal.reservation);
            // One that isn't decoded yet moves when it is.
            if let Some(key) = key.filter(|key| !asked.contains_key(key)) {
                asked.insert(key, task::owned(ask(Arc::clone(&router), key, proposal)));
            }
        }
    }
}

async fn ask(router: Arc<Router>, key: SequenceKey, proposal: Proposal) {
    let Proposal { to, reason, .. } = proposal;
    if let Err(why) = router.moves.ask(key, to, Why::Rebalance(reason)).await {
        tracing::debug!(%key, %why, reason = reason.label(), "it stays for now");
    }
}
