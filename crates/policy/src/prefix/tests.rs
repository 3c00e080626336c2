use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::*;

fn hashes(range: std::ops::Range<u128>) -> Vec<BlockHash> {
    range.map(BlockHash).collect()
}

fn snapshot(upto: u64, stored: std::ops::Range<u128>) -> KvEvents {
    KvEvents { since: None, upto, stored: hashes(stored), removed: Vec::new() }
}

/// An index with two nodes.
fn two() -> (PrefixIndex, Slot, Slot) {
    let mut index = PrefixIndex::default();
    let (one, other) = (index.enter(), index.enter());
    (index, one, other)
}

#[test]
fn each_node_counts_up_to_its_first_gap() {
    let (mut index, one, other) = two();
    index.observe(one, Some(&snapshot(1, 0..6))).unwrap();
    let with_gap = KvEvents { stored: [hashes(0..2), hashes(3..9)].concat(), ..snapshot(1, 0..0) };
    index.observe(other, Some(&with_gap)).unwrap();
    let matches = index.matching(&hashes(0..8));
    assert_eq!((matches.of(one), matches.of(other)), (6, 2));
    assert_eq!(index.matching(&hashes(7..9)).of(one), 0);
    assert_eq!(index.matching(&hashes(7..9)).of(other), 2);
}

#[test]
fn changes_count_only_without_a_gap() {
    let (mut index, one, _) = two();
    let changes = |since, upto| KvEvents {
        since: Some(since),
        upto,
        stored: hashes(2..3),
        removed: hashes(0..1),
    };
    let missed = MissedEvents { since: Some(0), known: None };
    assert_eq!(index.observe(one, Some(&changes(0, 2))), Err(missed), "a snapshot comes first");
    index.observe(one, Some(&snapshot(5, 0..2))).unwrap();
    let missed = MissedEvents { since: Some(6), known: Some(5) };
    assert_eq!(index.observe(one, Some(&changes(6, 8))), Err(missed));
    assert_eq!(index.matching(&hashes(0..2)).of(one), 2, "as before");
    index.observe(one, Some(&changes(5, 7))).unwrap();
    assert_eq!(index.matching(&hashes(0..2)).of(one), 0);
    assert_eq!(index.matching(&hashes(1..3)).of(one), 2);
    index.observe(one, Some(&changes(3, 6))).unwrap();
    index.observe(one, Some(&snapshot(9, 0..1))).unwrap();
    assert_eq!((index.matching(&hashes(0..2)).of(one), index.blocks(one)), (1, 1));
}

#[test]
fn what_is_on_its_way_counts_until_the_node_has_spoken_twice() {
    let (mut index, one, other) = two();
    let prompt: Arc<[BlockHash]> = hashes(0..4).into();
    for slot in [one, other] {
        index.expect(slot, &prompt);
        index.is_over(slot, Arc::clone(&prompt));
    }
    index.observe(one, Some(&snapshot(0, 0..0))).unwrap();
    let stored = KvEvents { since: Some(0), upto: 3, stored: hashes(0..3), removed: Vec::new() };
    assert_eq!(index.matching(&prompt).of(one), 4, "the word may have been on its way");
    index.observe(one, Some(&stored)).unwrap();
    assert_eq!(index.matching(&prompt).of(one), 3, "the last was never stored");
    index.observe(other, None).unwrap();
    index.observe(other, None).unwrap();
    assert_eq!((index.matching(&prompt).of(other), index.blocks(other)), (0, 0));
}

#[test]
fn a_number_is_given_again_with_nothing_behind_it() {
    let (mut index, one, other) = two();
    index.expect(one, &hashes(0..2));
    index.observe(other, Some(&snapshot(1, 0..3))).unwrap();
    index.leave(one);
    let again = index.enter();
    assert_eq!(again, one);
    assert_eq!(index.matching(&hashes(0..3)), Matches(vec![(other, 3)]));
    index.leave(other);
    assert!(index.holders.is_empty(), "{index:?}");
}

#[derive(Clone, Debug)]
enum Op {
    Stored(u8, u8),
    Removed(u8, u8),
    /// The node speaks, and is heard or not.
    Speak(u8, bool),
    Expect(u8, u8, u8),
    Over(u8),
    Leave(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let (node, hash) = (0..3_u8, 0..8_u8);
    prop_oneof![
        4 => (node.clone(), hash.clone()).prop_map(|(node, hash)| Op::Stored(node, hash)),
        2 => (node.clone(), hash.clone()).prop_map(|(node, hash)| Op::Removed(node, hash)),
        4 => (node.clone(), prop::bool::weighted(0.8)).prop_map(|(node, heard)| Op::Speak(node, heard)),
        2 => (node.clone(), hash.clone(), hash).prop_map(|(node, from, to)| Op::Expect(node, from, to)),
        2 => node.clone().prop_map(Op::Over),
        1 => node.prop_map(Op::Leave),
    ]
}

/// A node as it is, and what was said of it.
#[derive(Debug, Default)]
struct Truth {
    stored: HashSet<u128>,
    changes: Vec<(u128, bool)>,
    heard: Option<u64>,
    expected: VecDeque<Arc<[BlockHash]>>,
}

impl Truth {
    fn events(&self, since: Option<u64>) -> KvEvents {
        let upto = self.changes.len() as u64;
        let Some(from) = since else {
            let stored = self.stored.iter().copied().map(BlockHash).collect();
            return KvEvents { since, upto, stored, removed: Vec::new() };
        };
        let mut last = BTreeMap::new();
        last.extend(self.changes[from as usize..].iter().copied());
        let of = |is_stored| {
            let those = last.iter().filter(move |&(_, &is)| is == is_stored);
            those.map(|(&hash, _)| BlockHash(hash)).collect()
        };
        KvEvents { since, upto, stored: of(true), removed: of(false) }
    }
}

proptest! {
    /// `index-follows`: whatever is lost on the way, once a node is heard and nothing is on its way there,
    /// the index says of it what it has.
    #[test]
    fn the_index_follows_the_caches(ops in prop::collection::vec(op(), 1..200)) {
        let mut index = PrefixIndex::default();
        let mut nodes: Vec<(Slot, Truth)> =
            (0..3).map(|_| (index.enter(), Truth::default())).collect();
        let settle = (0..3).flat_map(|node| {
            [Op::Over(node), Op::Speak(node, true), Op::Speak(node, true), Op::Speak(node, true)]
        });
        for op in ops.into_iter().chain(settle) {
            match op {
                Op::Stored(node, hash) => {
                    let truth = &mut nodes[usize::from(node)].1;
                    if truth.stored.insert(hash.into()) {
                        truth.changes.push((hash.into(), true));
                    }
                }
                Op::Removed(node, hash) => {
                    let truth = &mut nodes[usize::from(node)].1;
                    if truth.stored.remove(&hash.into()) {
                        truth.changes.push((hash.into(), false));
                    }
                }
                Op::Speak(node, is_heard) => {
                    let (slot, truth) = &mut nodes[usize::from(node)];
                    let events = truth.events(truth.heard);
                    // It doesn't know what is lost.
                    truth.heard = Some(events.upto);
                    if is_heard && index.observe(*slot, Some(&events)).is_err() {
                        truth.heard = None;
                    }
                }
                Op::Expect(node, from, to) => {
                    let (slot, truth) = &mut nodes[usize::from(node)];
                    let prompt: Arc<[BlockHash]> = hashes(from.into()..to.into()).into();
                    index.expect(*slot, &prompt);
                    truth.expected.push_back(prompt);
                }
                Op::Over(node) => {
                    let (slot, truth) = &mut nodes[usize::from(node)];
                    for prompt in truth.expected.drain(..) {
                        index.is_over(*slot, prompt);
                    }
                }
                Op::Leave(node) => {
                    let (slot, truth) = &mut nodes[usize::from(node)];
                    index.leave(*slot);
                    *truth = Truth::default();
                    *slot = index.enter();
                }
            }
        }
        for (slot, truth) in &nodes {
            let has = |hash| index.matching(&[BlockHash(hash)]).of(*slot) == 1;
            let known: HashSet<u128> = (0..8).filter(|&hash| has(hash)).collect();
            prop_assert_eq!(&known, &truth.stored);
            prop_assert_eq!(index.blocks(*slot), truth.stored.len());
        }
        nodes.into_iter().for_each(|(slot, _)| index.leave(slot));
        prop_assert!(index.holders.is_empty());
    }
}
