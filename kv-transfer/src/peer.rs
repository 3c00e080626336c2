use baton_transfer_protocol::{Hello, VERSION};
use baton_types::{Generation, KvLayout, NodeId, NumericsId, Role};
use tokio::sync::watch;

/// What a node says of itself at the beginning of every stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    pub node: NodeId,
    pub generation: Generation,
    pub role: Role,
    pub numerics: NumericsId,
    pub layout: KvLayout,
}

/// A node's identity, as everything in its process sees it: it changes when the node takes another role. Streams
/// that have said hello keep what they said.
#[derive(Clone, Debug)]
pub struct SharedIdentity(watch::Sender<PeerIdentity>);

impl SharedIdentity {
    pub fn get(&self) -> PeerIdentity {
        self.0.borrow().clone()
    }

    /// Who the node is from now on.
    pub fn set(&self, identity: PeerIdentity) {
        self.0.send_if_modified(|own| {
            let is_other = *own != identity;
            *own = identity;
            is_other
        });
    }

    pub fn watch(&self) -> watch::Receiver<PeerIdentity> {
        self.0.subscribe()
    }

    pub(crate) fn hello(&self) -> Hello {
        let PeerIdentity { node, generation, role, numerics, layout } = self.get();
        Hello { version: VERSION, node, generation, role, numerics, layout }
    }
}

impl From<PeerIdentity> for SharedIdentity {
    fn from(identity: PeerIdentity) -> Self {
        SharedIdentity(watch::Sender::new(identity))
    }
}
