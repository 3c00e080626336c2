use baton_transfer_protocol::{Hello, VERSION};
use baton_types::{Generation, KvLayout, NodeId, NumericsId, Role};

/// What a node says of itself at the beginning of every stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    pub node: NodeId,
    pub generation: Generation,
    pub role: Role,
    pub numerics: NumericsId,
    pub layout: KvLayout,
}

impl PeerIdentity {
    pub(crate) fn hello(&self) -> Hello {
        Hello {
            version: VERSION,
            node: self.node.clone(),
            generation: self.generation,
            role: self.role,
            numerics: self.numerics,
            layout: self.layout,
        }
    }
}
