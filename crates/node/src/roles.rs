//! A node takes the other role without a restart: the engine, its pages and its ports stay.
//!
//! It lets nobody in, which its heartbeats tell: the router places elsewhere and moves away what is decoded here.
//! Once nobody is inside it is another incarnation: of another generation, so that a word to the old one is
//! refused, and in the other role. As that it joins again.

use std::sync::Arc;

use baton_kv_transfer::PeerIdentity;
use baton_types::{Generation, Role};

use crate::Node;

/// Gives the node the role it is wanted to have, for ever, or until it leaves.
pub(crate) async fn keep(node: Arc<Node>) {
    let mut wanted = node.wanted_role.subscribe();
    loop {
        let to = *wanted.borrow_and_update();
        let changes = to != node.role();
        if changes {
            tracing::info!(node = %node.id, inside = node.gate.inside(), %to, "draining to change roles");
            node.gate.close();
        } else {
            node.gate.reopen();
        }
        tokio::select! {
            () = node.gate.emptied(), if changes => {
                if !node.become_other(to) {
                    return;
                }
            }
            // The node has it for as long as it lives.
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

impl Node {
    /// Is another incarnation from now on, in this role. Not if it leaves.
    fn become_other(&self, role: Role) -> bool {
        let generation = Generation(rand::random());
        let identity = PeerIdentity { generation, role, ..self.identity().get() };
        let became = self.gate.reopen_as(identity);
        if became {
            tracing::info!(node = %self.id, %generation, %role, "has another role");
        }
        became
    }
}
