//! Ways that fail though the nodes at their ends live: passed over for a while, longer each time.
//!
//! What is tried again and again is a node that fails whatever comes, for it always has the least to do, and a pair
//! of nodes that can't reach each other, for both are well by all they say.

use std::{collections::BTreeMap, time::Duration};

use baton_types::{NodeId, Time};

/// How long a way is passed over at first; twice as long each time it fails again,
const FIRST: Duration = Duration::from_secs(1);
/// and no longer than this.
const LONGEST: Duration = Duration::from_secs(30);
/// A node that failed so often in a row fails whatever comes. One failure of a pair is enough.
const NODE_FAILURES: u32 = 3;

/// What may fail.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Node(NodeId),
    /// The pages' way from one node to another.
    Link(NodeId, NodeId),
}

impl Way {
    fn touches(&self, node: &NodeId) -> bool {
        match self {
            Way::Node(of) => of == node,
            Way::Link(from, to) => from == node || to == node,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Trouble {
    failures: u32,
    /// When it may be tried again, if it is passed over.
    until: Option<Time>,
    /// Somebody tries whether it works again.
    is_tried: bool,
}

/// Ways that failed lately.
#[derive(Clone, Debug, Default)]
pub struct Troubles {
    ways: BTreeMap<Way, Trouble>,
}

impl Troubles {
    /// What went there failed. Says for how long it is passed over from now on, unless it is already.
    pub fn failed(&mut self, way: Way, now: Time) -> Option<Duration> {
        let least = match &way {
            Way::Node(_) => NODE_FAILURES,
            Way::Link(..) => 1,
        };
        let new = Trouble { failures: 0, until: None, is_tried: false };
        let trouble = self.ways.entry(way).or_insert(new);
        // What was under way when it failed fails as well, and says nothing new.
        if trouble.until.is_some_and(|until| now < until) && !trouble.is_tried {
            return None;
        }
        trouble.is_tried = false;
        trouble.failures = trouble.failures.saturating_add(1);
        let again = trouble.failures.checked_sub(least)?;
        let span = FIRST.saturating_mul(1 << again.min(16)).min(LONGEST);
        trouble.until = Some(now + span);
        Some(span)
    }

    /// What went there came.
    pub fn came(&mut self, way: &Way) {
        self.ways.remove(way);
    }

    /// Whether it is passed over, where there is another.
    pub fn avoids(&self, way: &Way, now: Time) -> bool {
        let until = self.ways.get(way).and_then(|trouble| trouble.until);
        until.is_some_and(|until| now < until)
    }

    /// Something is sent there. If it is the first to try again, others wait for what comes of it.
    pub fn tried(&mut self, way: &Way, now: Time) {
        if let Some(trouble) = self.ways.get_mut(way)
            && trouble.until.is_some_and(|until| now >= until)
        {
            (trouble.until, trouble.is_tried) = (Some(now + LONGEST), true);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.ways.is_empty()
    }

    /// A node is gone, or another incarnation.
    pub fn leave(&mut self, node: &NodeId) {
        self.ways.retain(|way, _| !way.touches(node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    fn link() -> Way {
        Way::Link(NodeId::from("p"), NodeId::from("d"))
    }

    #[test]
    fn a_link_that_fails_again_is_passed_over_longer_and_longer() {
        let mut troubles = Troubles::default();
        assert_eq!(troubles.failed(link(), at(0)), Some(FIRST));
        assert_eq!(troubles.failed(link(), at(10)), None, "it was under way");
        assert!(troubles.avoids(&link(), at(999)) && !troubles.avoids(&link(), at(1000)));
        troubles.tried(&link(), at(1000));
        assert!(troubles.avoids(&link(), at(1001)), "one tries it");
        assert_eq!(troubles.failed(link(), at(1500)), Some(2 * FIRST));
        assert!(troubles.avoids(&link(), at(3499)) && !troubles.avoids(&link(), at(3500)));
        let mut now = 3500;
        for _ in 0..20 {
            troubles.tried(&link(), at(now));
            let span = troubles.failed(link(), at(now)).unwrap();
            assert!(span <= LONGEST);
            now += 30_000;
        }
        troubles.came(&link());
        assert!(!troubles.avoids(&link(), at(now)) && troubles.is_empty());
        assert_eq!(troubles.failed(link(), at(now)), Some(FIRST), "it is forgiven");
    }

    #[test]
    fn a_node_is_passed_over_once_it_fails_in_a_row() {
        let (mut troubles, node) = (Troubles::default(), Way::Node(NodeId::from("d")));
        for _ in 0..5 {
            assert_eq!(troubles.failed(node.clone(), at(1)), None);
            assert_eq!(troubles.failed(node.clone(), at(2)), None);
            troubles.came(&node);
        }
        for _ in 0..2 {
            assert_eq!(troubles.failed(node.clone(), at(3)), None);
        }
        assert_eq!(troubles.failed(node.clone(), at(4)), Some(FIRST));
        troubles.failed(link(), at(4));
        assert!(troubles.avoids(&node, at(5)));
        troubles.leave(&NodeId::from("d"));
        assert!(troubles.is_empty(), "its links are forgotten with it");
    }
}
