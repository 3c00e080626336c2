//! Who is in the cluster, by leases. Pure: the embedded registry drives it from its streams, and
//! time comes in as an argument.
//!
//! # When is a node gone?
//!
//! When it says so, when its stream breaks, or when it has said nothing for a lease. A node that
//! comes back under a newer generation replaces its old self at once; the old one's words are
//! refused from then on.
//!
//! # What if the router itself stood still?
//!
//! Then it finds everybody silent, with their words unread before it. So nobody is gone at the first
//! look: a member is doubted shortly before the end of its lease, and gone only when a second look, in time,
//! finds that it has still said nothing. A look that comes late is a first one again.

use std::{collections::BTreeMap, time::Duration};

use baton_types::{Generation, NodeId, Time};

mod stuck;

pub use self::stuck::StepPatience;

/// The versions of the node protocol this build speaks: N and N−1.
const NEWEST_VERSION: u32 = 1;

#[derive(Debug)]
pub struct Members {
    lease: Duration,
    nodes: BTreeMap<NodeId, Member>,
}

#[derive(Debug)]
struct Member {
    generation: Generation,
    heard: Time,
    /// Since when a look has found it silent for too long.
    doubted: Option<Time>,
}

/// Time to read what has been said already; at most a third of the lease.
const DOUBT: Duration = Duration::from_millis(100);

/// How a node came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// An earlier incarnation of the node was still a member, and is no more.
    pub replaced: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    #[error(
        "node {node} speaks protocol version {given}; this router speaks {newest} and the one \
         before: upgrade the older of the two"
    )]
    Version { node: NodeId, given: u32, newest: u32 },
    #[error(
        "the name {node} belongs to a living node of generation {current}, the newcomer's is \
         {given}: give it another name, or wait for the lease to end"
    )]
    NameTaken { node: NodeId, given: Generation, current: Generation },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {node} of generation {generation} is not a member; it must join again")]
pub struct NotAMember {
    pub node: NodeId,
    pub generation: Generation,
}

impl Members {
    /// Members are gone after `lease` of silence, as far as somebody looks when [`Members::poll_timeout`] says.
    pub fn new(lease: Duration) -> Self {
        Members { lease, nodes: BTreeMap::new() }
    }

    /// Takes a node in. A name's holder gives way once it has been silent for half a lease: a node
    /// that restarts after a crash needn't wait for its own ghost.
    pub fn join(
        &mut self,
        now: Time,
        node: NodeId,
        generation: Generation,
        version: u32,
    ) -> Result<Joined, JoinError> {
        if version > NEWEST_VERSION || version + 1 < NEWEST_VERSION || version == 0 {
            return Err(JoinError::Version { node, given: version, newest: NEWEST_VERSION });
        }
        let current = self.nodes.get(&node);
        if let Some(Member { generation: current, heard, .. }) = current {
            let alive = now.since(*heard) < self.lease / 2;
            if *current != generation && alive {
                return Err(JoinError::NameTaken { node, given: generation, current: *current });
            }
        }
        let replaced = current.is_some_and(|member| member.generation != generation);
        self.nodes.insert(node, Member { generation, heard: now, doubted: None });
        Ok(Joined { replaced })
    }

    /// A member spoke.
    pub fn heartbeat(
        &mut self,
        now: Time,
        node: &NodeId,
        generation: Generation,
    ) -> Result<(), NotAMember> {
        match self.nodes.get_mut(node) {
            Some(member) if member.generation == generation => {
                (member.heard, member.doubted) = (now, None);
                Ok(())
            }
            _ => Err(NotAMember { node: node.clone(), generation }),
        }
    }

    /// A member left, or its stream broke. False when it was none (any more).
    pub fn leave(&mut self, node: &NodeId, generation: Generation) -> bool {
        let is_member = self.is_member(node, generation);
        if is_member {
            self.nodes.remove(node);
        }
        is_member
    }

    pub fn is_member(&self, node: &NodeId, generation: Generation) -> bool {
        self.nodes.get(node).is_some_and(|member| member.generation == generation)
    }

    /// Members whose lease has ended; they are none any more.
    pub fn expire(&mut self, now: Time) -> Vec<NodeId> {
        let (lease, doubt) = (self.lease, self.doubt());
        let is_gone = |member: &mut Member| match member.doubted {
            Some(since) if now < since + doubt => false,
            Some(since) if now < since + doubt * 2 => true,
            // Whoever looks so late may have words unread.
            _ => {
                let is_silent = now.since(member.heard) >= lease - doubt;
                member.doubted = is_silent.then_some(now);
                false
            }
        };
        let gone = self.nodes.extract_if(.., |_, member| is_gone(member));
        gone.map(|(node, _)| node).collect()
    }

    /// When [`Members::expire`] has something to do next.
    pub fn poll_timeout(&self) -> Option<Time> {
        let (lease, doubt) = (self.lease, self.doubt());
        let due = |member: &Member| match member.doubted {
            Some(since) => since + doubt,
            None => member.heard + (lease - doubt),
        };
        self.nodes.values().map(due).min()
    }

    fn doubt(&self) -> Duration {
        DOUBT.min(self.lease / 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(2);
    const OLD: Generation = Generation(1);
    const NEW: Generation = Generation(2);

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    fn node() -> NodeId {
        NodeId::from("n")
    }

    #[test]
    fn a_silent_member_is_gone_after_its_lease() {
        let mut members = Members::new(LEASE);
        assert_eq!(members.join(at(0), node(), OLD, 1), Ok(Joined { replaced: false }));
        members.heartbeat(at(1500), &node(), OLD).unwrap();
        assert_eq!(members.poll_timeout(), Some(at(3400)));
        assert!(members.expire(at(3399)).is_empty());
        assert!(members.expire(at(3400)).is_empty(), "only doubted");
        assert_eq!(members.poll_timeout(), Some(at(3500)));
        assert!(members.expire(at(3499)).is_empty());
        assert_eq!(members.expire(at(3500)), [node()]);
        assert!(members.heartbeat(at(3501), &node(), OLD).is_err());
        assert_eq!(members.poll_timeout(), None);
    }

    #[test]
    fn who_speaks_while_doubted_is_a_member() {
        let mut members = Members::new(LEASE);
        members.join(at(0), node(), OLD, 1).unwrap();
        assert!(members.expire(at(1900)).is_empty());
        members.heartbeat(at(1950), &node(), OLD).unwrap();
        assert_eq!(members.poll_timeout(), Some(at(3850)));
        assert!(members.expire(at(2000)).is_empty());
    }

    /// The words are unread, and a router that stood still for longer than any lease must not take that for
    /// silence; not even if it does so again and again.
    #[test]
    fn a_late_look_ends_nobodys_membership() {
        let mut members = Members::new(LEASE);
        members.join(at(0), node(), OLD, 1).unwrap();
        assert!(members.expire(at(60_000)).is_empty(), "a first look, however late");
        assert!(members.expire(at(120_000)).is_empty(), "late again");
        assert_eq!(members.expire(at(120_100)), [node()], "in time");
    }

    #[test]
    fn a_living_name_is_not_taken_over_and_a_silent_one_is() {
        let mut members = Members::new(LEASE);
        members.join(at(0), node(), OLD, 1).unwrap();
        assert!(matches!(
            members.join(at(500), node(), NEW, 1),
            Err(JoinError::NameTaken { given: NEW, current: OLD, .. })
        ));
        assert_eq!(members.join(at(1500), node(), NEW, 1), Ok(Joined { replaced: true }));
        assert!(members.heartbeat(at(1501), &node(), OLD).is_err(), "an old self's word");
        assert!(!members.leave(&node(), OLD));
        assert!(members.leave(&node(), NEW));
    }

    #[test]
    fn foreign_versions_are_refused() {
        let mut members = Members::new(LEASE);
        for given in [0, 2, u32::MAX] {
            let error = members.join(at(0), node(), OLD, given).unwrap_err();
            assert_eq!(error, JoinError::Version { node: node(), given, newest: 1 });
        }
    }
}
