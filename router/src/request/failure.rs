//! What a failed attempt means for its request.

use std::time::Duration;

use baton_policy::Way;
use baton_proto::status::Refused;
use baton_types::{NodeId, Role};
use tonic::{Code, Status};

use super::merge::MergeError;

/// Why an attempt ended without the sequence's end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// Those to pass over next time.
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The request itself is wrong: no node will take it.
    Request,
    /// A node has no room.
    Full {
        retry_after: Duration,
    },
    /// A node can't be reached, or its connection broke.
    Unreachable,
    /// A node refused or failed for its own reasons.
    Node,
    /// The pages didn't arrive.
    HandOver,
    /// It is to go on elsewhere, and needs no pages for it.
    Moved,
    Deadline,
}

impl Kind {
    /// Whether it may come of a node's end.
    pub(crate) fn may_be_a_death(self) -> bool {
        matches!(self, Kind::Unreachable | Kind::Node | Kind::HandOver)
    }

    /// A label for the metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Kind::Request => "request",
            Kind::Full { .. } => "full",
            Kind::Unreachable => "unreachable",
            Kind::Node => "node",
            Kind::HandOver => "hand_over",
            Kind::Moved => "moved",
            Kind::Deadline => "deadline",
        }
    }
}

/// The nodes of an attempt.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    /// Nobody when the node that decodes computes the prompt too.
    pub(crate) prefill: Option<NodeId>,
    pub(crate) decode: Option<NodeId>,
}

impl Pair {
    fn nodes(&self, role: Role) -> Vec<NodeId> {
        match role {
            Role::Prefill => self.prefill.iter().cloned().collect(),
            Role::Decode => self.decode.iter().cloned().collect(),
        }
    }

    fn both(&self) -> Vec<NodeId> {
        self.decode.iter().chain(&self.prefill).cloned().collect()
    }
}

impl Failure {
    /// The `role` node of `pair` answered `status`.
    pub(crate) fn refused(pair: &Pair, role: Role, status: &Status) -> Self {
        let refused = Refused::from(status);
        let kind = kind(&refused);
        let nodes = match kind {
            // Either end may be the broken one.
            Kind::HandOver => pair.both(),
            _ => pair.nodes(role),
        };
        let name = pair.nodes(role).first().map(NodeId::to_string).unwrap_or_default();
        let message = match kind {
            Kind::Request => refused.message,
            _ => format!("{role} node {name}: {}", refused.message),
        };
        Failure { kind, nodes, message }
    }

    /// What of an attempt's ways failed with it.
    pub(crate) fn ways(&self, pair: &Pair) -> Vec<Way> {
        match (self.kind, &pair.prefill, &pair.decode) {
            (Kind::HandOver, Some(from), Some(to)) => vec![Way::Link(from.clone(), to.clone())],
            (Kind::Node, ..) => self.nodes.iter().cloned().map(Way::Node).collect(),
            _ => Vec::new(),
        }
    }

    /// Its stream ended before its work did.
    pub(crate) fn ended(pair: &Pair, role: Role) -> Self {
        Failure::refused(pair, role, &Status::unavailable("its stream ended too early"))
    }

    /// Somebody broke the protocol.
    pub(crate) fn protocol(pair: &Pair, error: &MergeError) -> Self {
        Failure { kind: Kind::Node, nodes: pair.both(), message: error.to_string() }
    }

    /// It said something nobody understands.
    pub(crate) fn garbled(pair: &Pair, role: Role) -> Self {
        let message = format!("the {role} node said something this router doesn't understand");
        Failure { kind: Kind::Node, nodes: pair.nodes(role), message }
    }
}

fn kind(refused: &Refused) -> Kind {
    match refused.reason.as_str() {
        "LEASE_EXPIRED" | "HAND_OVER_ABORTED" | "PULL_FAILED" | "OFFER_REFUSED" => {
            return Kind::HandOver;
        }
        // Its process is about to end.
        "STEP_LOOP_ENDED" => return Kind::Unreachable,
        "" if refused.code == Code::Unavailable || refused.code == Code::Unknown => {
            return Kind::Unreachable;
        }
        _ => {}
    }
    match refused.code {
        Code::InvalidArgument | Code::OutOfRange => Kind::Request,
        Code::ResourceExhausted => {
            Kind::Full { retry_after: refused.retry_after.unwrap_or(Duration::from_millis(100)) }
        }
        Code::DeadlineExceeded => Kind::Deadline,
        _ => Kind::Node,
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    fn check(code: Code, reason: &str, expected: Kind, nodes: &[&str]) {
        let pair = Pair { prefill: Some(NodeId::from("p")), decode: Some(NodeId::from("d")) };
        let status = match reason {
            "" => Status::new(code, "no"),
            _ => {
                let details = ErrorDetails::with_error_info(reason, "baton.node", []);
                Status::with_error_details(code, "no", details)
            }
        };
        let failure = Failure::refused(&pair, Role::Decode, &status);
        let nodes: Vec<NodeId> = nodes.iter().map(|&node| NodeId::from(node)).collect();
        assert_eq!((failure.kind, failure.nodes), (expected, nodes), "{code:?} {reason}");
    }

    #[test]
    fn statuses_are_judged_by_reason_and_code() {
        let full = Kind::Full { retry_after: Duration::from_millis(100) };
        check(Code::ResourceExhausted, "KV_POOL_FULL", full, &["d"]);
        check(Code::InvalidArgument, "INVALID_REQUEST", Kind::Request, &["d"]);
        check(Code::OutOfRange, "CONTEXT_TOO_LONG", Kind::Request, &["d"]);
        check(Code::Aborted, "PULL_FAILED", Kind::HandOver, &["d", "p"]);
        check(Code::Aborted, "SUPERSEDED", Kind::Node, &["d"]);
        check(Code::Unavailable, "NODE_DRAINING", Kind::Node, &["d"]);
        check(Code::Unavailable, "", Kind::Unreachable, &["d"]);
        check(Code::Unknown, "", Kind::Unreachable, &["d"]);
        check(Code::Unavailable, "STEP_LOOP_ENDED", Kind::Unreachable, &["d"]);
        check(Code::Internal, "ENGINE_FAILED", Kind::Node, &["d"]);
        check(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", Kind::Deadline, &["d"]);
    }
}
