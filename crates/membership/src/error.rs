use std::time::Duration;

use baton_types::{Generation, NodeId};

use crate::SessionId;

/// Why a word was refused. It has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    #[error(
        "node name {node} is taken by live generation {holder}, so generation {given} can't join; \
         give this node another name or stop the other one"
    )]
    NameTaken { node: NodeId, holder: Generation, given: Generation, lease_left: Duration },
    #[error(
        "generation {given} of node {node} was replaced by {current}; an old incarnation's words \
         don't count"
    )]
    Replaced { node: NodeId, given: Generation, current: Generation },
    #[error(
        "node {node} speaks protocol version {given}, this router {ours}; \
         only neighbouring versions work together: upgrade the older one"
    )]
    Version { node: NodeId, given: u32, ours: u32 },
    #[error("node {node}, generation {generation}, joined before with another hello")]
    HelloChanged { node: NodeId, generation: Generation },
    #[error("a node name of {given} bytes; it must have 1 to {max}")]
    Name { given: usize, max: usize },
    #[error("the cluster has {members} members, the most it may have")]
    Full { members: usize },
    #[error("session {session} is already in use")]
    SessionInUse { session: SessionId },
    #[error("session {session} is over; join again")]
    SessionOver { session: SessionId },
}

impl MembershipError {
    /// A stable name, UPPER_SNAKE, for programs to decide by.
    pub fn reason(&self) -> &'static str {
        match self {
            MembershipError::NameTaken { .. } => "NODE_NAME_TAKEN",
            MembershipError::Replaced { .. } => "NODE_REPLACED",
            MembershipError::Version { .. } => "PROTOCOL_VERSION",
            MembershipError::HelloChanged { .. } => "HELLO_CHANGED",
            MembershipError::Name { .. } => "INVALID_NODE_NAME",
            MembershipError::Full { .. } => "CLUSTER_FULL",
            MembershipError::SessionInUse { .. } => "SESSION_IN_USE",
            MembershipError::SessionOver { .. } => "SESSION_OVER",
        }
    }

    /// When joining again may succeed by itself.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            MembershipError::NameTaken { lease_left, .. } => Some(*lease_left),
            MembershipError::SessionOver { .. } => Some(Duration::ZERO),
            _ => None,
        }
    }
}
