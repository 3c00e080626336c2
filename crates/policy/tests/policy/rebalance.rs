//! Who moves, what for, and that nobody goes to and fro.

use std::{collections::BTreeMap, time::Duration};

use baton_policy::{
    Class, ClassId, ClusterView, Decision, FitConfig, LatencyFit, Policy, PolicyConfig,
    RequestView, ReservationId, Service, decide, destination,
    rebalance::{Proposal, Reason, RebalanceConfig, Rebalancer},
};
use baton_types::{LatencyProfile, NodeId, Role, Slo, Time};
use proptest::prelude::*;

use crate::cluster::{Draws, ask, cluster, hello, placed, request};

/// Decode nodes with running requests; moves are made at once.
struct World {
    view: ClusterView,
    rebalancer: Rebalancer,
    running: BTreeMap<ReservationId, (NodeId, RequestView)>,
    names: Vec<NodeId>,
    now: Time,
    next: u128,
}

impl World {
    fn new(names: &[&str]) -> Self {
        // Steps that depend on who is there.
        let profile = LatencyProfile {
            decode_us: 1000.0,
            decode_sequence_us: 200.0,
            decode_context_us: 1.0,
            ..LatencyProfile::default()
        };
        let mut view = cluster(&["p1"]);
        for name in names {
            let fit = LatencyFit::new(profile, FitConfig::default());
            view.join(&hello(name, Role::Decode), fit);
        }
        World {
            view,
            rebalancer: Rebalancer::new(RebalanceConfig::default()),
            running: BTreeMap::new(),
            names: names.iter().map(|name| NodeId::from(*name)).collect(),
            now: Time::ZERO,
            next: 0,
        }
    }

    /// One more on `node`, which has its first token already.
    fn put(&mut self, node: &str, request: RequestView) -> ReservationId {
        let others = self.names.iter().filter(|name| **name != NodeId::from(node));
        let request = RequestView { exclude: others.cloned().collect(), ..request };
        // Where objectives will be missed, by a policy that knows none.
        let careless = PolicyConfig { policy: Policy::LeastOutstanding, ..PolicyConfig::default() };
        let placement = match ask(&self.view, &request, 1) {
            Decision::Place(placement) => placement,
            _ => placed(decide(&careless, &self.view, &request, self.now, &mut Draws(1))),
        };
        let id = self.view.reserve(&request, &placement, self.now);
        self.view.first_token(id, self.now);
        self.running.insert(id, (node.into(), request));
        id
    }

    fn request(&mut self, tokens: u32, most: u32) -> RequestView {
        self.next += 1000;
        request(tokens, most, self.next)
    }

    fn look(&mut self, waits: Option<&RequestView>) -> Vec<Proposal> {
        self.rebalancer.look(&mut self.view, waits, self.now)
    }

    /// Makes a proposed move; its new place, if there is room.
    fn make(&mut self, proposal: &Proposal) -> Option<ReservationId> {
        let (id, to) = self.begin(proposal)?;
        let (_, request) = self.running.remove(&proposal.reservation).expect("it runs");
        self.view.moved(proposal.reservation, id);
        self.view.release(proposal.reservation);
        self.running.insert(id, (to, request));
        Some(id)
    }

    /// Begins it.
    fn begin(&mut self, proposal: &Proposal) -> Option<(ReservationId, NodeId)> {
        let (from, request) = &self.running[&proposal.reservation];
        assert_eq!(*from, proposal.from);
        let leaving =
            RequestView { exclude: vec![from.clone()], has_begun: true, ..request.clone() };
        let mut nodes = self.view.nodes(Role::Decode).iter();
        let group = nodes.find(|view| view.node == *from).expect("a node").group.clone();
        let config = PolicyConfig::default();
        let wanted = proposal.to.as_ref();
        let there = destination(&config, &self.view, &leaving, &group, wanted, self.now).ok()?;
        let to = there.path.decode().expect("a decode node").node.clone();
        assert!(wanted.is_none_or(|wanted| *wanted == to) && to != *from);
        let id = self.view.reserve_move(proposal.reservation, &leaving, &there, self.now);
        Some((id, to))
    }

    /// A decode step of a node, as it is.
    fn step(&self, node: &str) -> Duration {
        let mut nodes = self.view.nodes(Role::Decode).iter();
        let view = nodes.find(|view| view.node == node.into()).expect("a node");
        view.latency.decode(view.batch(), view.context_tokens())
    }

    fn count(&self, node: &str) -> usize {
        self.running.values().filter(|(at, _)| *at == node.into()).count()
    }
}

fn slo(tpot: Duration) -> Slo {
    Slo { tpot: Some(tpot), ..Slo::default() }
}

fn class(priority: u8) -> Class {
    Class { id: ClassId(priority.into()), priority, service: Service::Interactive }
}

#[test]
fn nodes_with_as_much_to_do_are_left_alone() {
    let mut world = World::new(&["d1", "d2"]);
    for node in ["d1", "d2", "d1", "d2"] {
        let request = world.request(100, 50);
        world.put(node, request);
    }
    assert_eq!(world.look(None), []);
}

#[test]
fn a_node_with_far_more_to_do_gives_some_of_it_away_until_there_is_balance() {
    let mut world = World::new(&["d1", "d2"]);
    for _ in 0..8 {
        let request = world.request(60, 100);
        world.put("d1", request);
    }
    let mut moves = 0;
    for _ in 0..40 {
        for proposal in world.look(None) {
            assert_eq!((&proposal.from, proposal.reason), (&"d1".into(), Reason::Balance));
            moves += u32::from(world.make(&proposal).is_some());
        }
        world.now += Duration::from_millis(50);
    }
    assert!((3..=4).contains(&moves) && world.count("d2") == moves as usize, "{moves}");
}

#[test]
fn whoever_misses_an_objective_for_others_goes_where_both_meet_theirs() {
    let mut world = World::new(&["d1", "d2"]);
    // Steps take 2.6 ms with six of them, 2.3 ms with five, and 1.3 ms with one.
    for _ in 0..6 {
        let request = world.request(60, 100);
        world.put("d1", RequestView { slo: slo(Duration::from_micros(2450)), ..request });
    }
    let step = world.step("d1");
    assert!((2500..2700).contains(&step.as_micros()), "{step:?}");
    for _ in 0..20 {
        let proposals = world.look(None);
        assert!(proposals.len() <= 1, "one at a time: {proposals:?}");
        for proposal in proposals {
            assert_eq!((&proposal.from, proposal.reason), (&"d1".into(), Reason::Objectives));
            world.make(&proposal).expect("there is room");
        }
    }
    // How long steps are is not known well yet: a few more make it surer.
    assert!((1..=3).contains(&world.count("d2")), "{}", world.count("d2"));
}

#[test]
fn a_lower_class_makes_way_for_a_higher_one() {
    let mut world = World::new(&["d1", "d2"]);
    let high = world.request(60, 400);
    let high = world.put("d1", RequestView { class: class(4), ..high });
    for _ in 0..4 {
        for node in ["d1", "d2"] {
            let low = world.request(60, 400);
            world.put(node, low);
        }
    }
    let proposals = world.look(None);
    assert_eq!(proposals.len(), 1, "{proposals:?}");
    assert_eq!((&proposals[0].from, proposals[0].reason), (&"d1".into(), Reason::Priority));
    assert_ne!(proposals[0].reservation, high);
}

/// Every node has eight of the lower class, and some have one of a class that counts 16 times as much, or a few:
/// these are faster afterwards by more than the others are slower.
#[test]
fn higher_classes_come_together_where_steps_are_short() {
    let mut world = World::new(&["d1", "d2", "d3", "d4"]);
    for (node, high) in [("d1", 3), ("d2", 1), ("d3", 0), ("d4", 1)] {
        for priority in std::iter::repeat_n(2, high).chain([0; 8]) {
            let request = world.request(30, 60);
            world.put(node, RequestView { class: class(priority), ..request });
        }
    }
    // In the mean over those of a class, in milliseconds.
    let steps = |world: &World, priority: u8| {
        let all = world.running.values().filter(|(_, request)| request.class.priority == priority);
        let steps: Vec<f64> =
            all.map(|(node, _)| world.step(&node.to_string()).as_secs_f64() * 1e3).collect();
        steps.iter().sum::<f64>() / steps.len() as f64
    };
    let (high, low) = (steps(&world, 2), steps(&world, 0));
    for _ in 0..40 {
        for proposal in world.look(None) {
            world.make(&proposal);
        }
    }
    let (high_after, low_after) = (steps(&world, 2), steps(&world, 0));
    assert!(high_after < 0.75 * high, "from {high:.2} to {high_after:.2} ms");
    assert!(low_after < 1.3 * low, "from {low:.2} to {low_after:.2} ms");
    // Whoever comes of the lower class goes elsewhere, and whoever comes of the higher one there.
    let of = |world: &World, priority| {
        let request = RequestView { class: class(priority), ..request(30, 60, 999_000) };
        placed(ask(&world.view, &request, 1)).path.decode().expect("a decode node").node.clone()
    };
    let (high, low) = (of(&world, 2), of(&world, 0));
    assert!(high != low && world.step(&high.to_string()) < world.step(&low.to_string()));
}

/// 100 blocks each: 60 in use by three on either node, and one waits that needs 50.
#[test]
fn one_who_fits_nowhere_is_made_room_for() {
    let mut world = World::new(&["d1", "d2", "d3"]);
    for node in ["d1", "d2", "d3"] {
        for _ in 0..3 {
            let request = world.request(300, 16);
            world.put(node, request);
        }
    }
    let large = RequestView { max_new_tokens: 16, ..world.request(780, 16) };
    assert!(matches!(ask(&world.view, &large, 1), Decision::Queue(_)));
    let proposals = world.look(Some(&large));
    assert!(!proposals.is_empty() && proposals.iter().all(|p| p.reason == Reason::Room));
    let node = proposals[0].from.clone();
    for proposal in proposals {
        assert_eq!(proposal.from, node);
        world.make(&proposal).expect("there is room");
    }
    let there = placed(ask(&world.view, &large, 1));
    assert_eq!(there.path.decode().expect("a decode node").node, node);
}

/// A sequence that moves is in two pools, and somebody waits for them.
#[test]
fn nobody_moves_for_speed_while_somebody_waits_for_room() {
    let mut world = World::new(&["d1", "d2"]);
    for _ in 0..8 {
        let request = world.request(60, 100);
        world.put("d1", request);
    }
    let large = RequestView { max_new_tokens: 16, ..world.request(1500, 16) };
    let proposals = world.look(Some(&large));
    assert!(proposals.iter().all(|p| p.reason == Reason::Room), "{proposals:?}");
    assert!(world.look(None).iter().any(|p| p.reason == Reason::Balance));
}

#[test]
fn somebody_leaves_before_the_pool_is_full() {
    let mut world = World::new(&["d1", "d2"]);
    for _ in 0..5 {
        // None has to be long; all may.
        let request = world.request(200, 400);
        world.put("d1", request);
    }
    assert!(world.look(None).iter().all(|proposal| proposal.reason != Reason::Memory));
    // They are all still there after 300 steps: 5 × 32 blocks.
    let step = world.step("d1");
    world.now += step * 110;
    let reasons: Vec<Reason> = world.look(None).iter().map(|proposal| proposal.reason).collect();
    assert_eq!(reasons, [Reason::Memory]);
}

#[test]
fn a_draining_node_is_left_by_all_whether_others_move_or_not() {
    let mut world = World::new(&["d1", "d2"]);
    let off = RebalanceConfig { enabled: false, ..RebalanceConfig::default() };
    world.rebalancer = Rebalancer::new(off);
    for _ in 0..10 {
        let request = world.request(30, 16);
        world.put("d1", request);
    }
    assert_eq!(world.look(None), [], "nobody moves otherwise");
    world.view.set_draining(&"d1".into(), Role::Decode, true);
    let proposals = world.look(None);
    assert_eq!(proposals.len(), 8, "so many at once");
    assert!(proposals.iter().all(|p| p.reason == Reason::Drain && p.to.is_none()));
    for _ in 0..3 {
        for proposal in world.look(None) {
            world.make(&proposal).expect("there is room");
        }
    }
    assert_eq!((world.count("d1"), world.count("d2")), (0, 10));
}

#[derive(Clone, Debug)]
struct Load {
    node: usize,
    tokens: u32,
    most: u32,
    tpot_us: Option<u64>,
    priority: u8,
}

fn load() -> impl Strategy<Value = Load> {
    let tpot = proptest::option::of(1000_u64..40_000);
    (0..4_usize, 16..300_u32, 2..300_u32, tpot, 0..3_u8).prop_map(
        |(node, tokens, most, tpot_us, priority)| Load { node, tokens, most, tpot_us, priority },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// `no-flap`: with nothing else happening, moves come to an end, and nobody moves often; and each is to a
    /// node that takes requests.
    #[test]
    fn moves_come_to_an_end(loads in proptest::collection::vec(load(), 1..40)) {
        let names = ["d1", "d2", "d3", "d4"];
        let mut world = World::new(&names);
        for Load { node, tokens, most, tpot_us, priority } in loads {
            let others: Vec<NodeId> =
                names.iter().filter(|name| **name != names[node]).map(|name| (*name).into()).collect();
            let request = RequestView {
                slo: Slo { tpot: tpot_us.map(Duration::from_micros), ..Slo::default() },
                class: class(priority),
                exclude: others,
                ..world.request(tokens, most)
            };
            if let Decision::Place(_) = ask(&world.view, &request, 1) {
                world.put(names[node], request);
            }
        }
        let mut hops: BTreeMap<ReservationId, u32> = BTreeMap::new();
        let mut quiet = 0;
        for _ in 0..400 {
            let proposals = world.look(None);
            quiet = if proposals.is_empty() { quiet + 1 } else { 0 };
            for proposal in proposals {
                let to = proposal.to.clone().expect("nobody drains");
                prop_assert!(to != proposal.from);
                if let Some(id) = world.make(&proposal) {
                    let before = hops.remove(&proposal.reservation).unwrap_or(0);
                    prop_assert!(before < 4, "{:?} moves again", proposal);
                    hops.insert(id, before + 1);
                }
            }
            // No time passes, for who is how far would be something happening; who was told is asked again.
            if quiet == 1 {
                world.rebalancer = Rebalancer::new(*world.rebalancer.config());
            }
        }
        prop_assert!(quiet > 300, "still moving");
        let there: u64 = world.view.nodes(Role::Decode).iter().map(|view| view.batch()).sum();
        prop_assert_eq!(there as usize, world.running.len());
    }
}
