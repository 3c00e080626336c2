//! Random clusters: what must hold of every decision, and `no-leak` of every promise.

use baton_policy::{
    ClusterView, Decision, LatencyFit, NodeView, Placement, PolicyConfig, RequestView,
    ReservationId, Reserved, destination,
};
use baton_types::{Generation, KvLayout, NodeHello, NodeId, NodeLoad, NumericsId, Role, Time};
use proptest::prelude::*;

use crate::cluster::{BATCH, LAYOUT, ask, cluster, hello, request};

#[derive(Clone, Debug)]
enum Op {
    Join {
        node: u8,
        generation: u64,
        numerics: u128,
        wide: bool,
        blocks: u32,
    },
    Leave {
        node: u8,
    },
    Observe {
        node: u8,
        load: NodeLoad,
    },
    Available {
        node: u8,
        available: bool,
    },
    Ask {
        tokens: u32,
        max_new: u32,
        first: u128,
        seed: u64,
    },
    FirstToken {
        nth: usize,
    },
    HandedOver {
        nth: usize,
    },
    Release {
        nth: usize,
    },
    /// A sequence that decodes begins to move; it does, or it doesn't.
    Move {
        nth: usize,
        tokens: u32,
        moves: bool,
    },
}

/// Even nodes prefill, odd ones decode.
fn name(node: u8) -> NodeId {
    NodeId(format!("n{node}").into())
}

fn op() -> impl Strategy<Value = Op> {
    let node = || 0..6_u8;
    let nth = || 0..8_usize;
    let load = (0..100_u32, 0..70_u32, 0..8_u32, 0..4000_u64, any::<bool>()).prop_map(
        |(free_blocks, waiting, running, queued_tokens, draining)| NodeLoad {
            free_blocks,
            waiting,
            running,
            queued_tokens,
            context_tokens: queued_tokens,
            draining: draining && waiting % 4 == 0,
            ..NodeLoad::default()
        },
    );
    prop_oneof![
        4 => (node(), 1..3_u64, 1..3_u128, prop::bool::weighted(0.2), 1..100_u32).prop_map(
            |(node, generation, numerics, wide, blocks)| {
                Op::Join { node, generation, numerics, wide, blocks }
            }
        ),
        1 => node().prop_map(|node| Op::Leave { node }),
        2 => (node(), load).prop_map(|(node, load)| Op::Observe { node, load }),
        1 => (node(), prop::bool::weighted(0.7))
            .prop_map(|(node, available)| Op::Available { node, available }),
        8 => (0..300_u32, 0..100_u32, 0..3_u128, any::<u64>())
            .prop_map(|(tokens, max_new, first, seed)| Op::Ask { tokens, max_new, first, seed }),
        2 => nth().prop_map(|nth| Op::FirstToken { nth }),
        2 => nth().prop_map(|nth| Op::HandedOver { nth }),
        3 => nth().prop_map(|nth| Op::Release { nth }),
        3 => (nth(), 1..200_u32, any::<bool>())
            .prop_map(|(nth, tokens, moves)| Op::Move { nth, tokens, moves }),
    ]
}

/// The view, and what was promised by it.
#[derive(Default)]
struct Run {
    view: ClusterView,
    promised: Vec<(ReservationId, Placement)>,
}

impl Run {
    fn apply(&mut self, op: Op) -> Result<(), TestCaseError> {
        let generation_of = |view: &ClusterView, node: &NodeId| {
            let mut nodes = view.prefill.iter().chain(&view.decode);
            nodes.find(|view| view.node == *node).map(|view| view.generation)
        };
        match op {
            Op::Join { node, generation, numerics, wide, blocks } => {
                let role = if node % 2 == 0 { Role::Prefill } else { Role::Decode };
                let layout = KvLayout { kv_heads: if wide { 2 } else { 1 }, ..LAYOUT };
                let hello = NodeHello {
                    node: name(node),
                    generation: Generation(generation),
                    numerics: NumericsId(numerics),
                    layout,
                    total_blocks: blocks,
                    ..hello("", role)
                };
                self.view.join(&hello, LatencyFit::default());
            }
            Op::Leave { node } => self.view.leave(&name(node)),
            Op::Observe { node, load } => {
                if let Some(generation) = generation_of(&self.view, &name(node)) {
                    self.view.observe(&name(node), generation, load);
                    self.view.observe(&name(node), Generation(9), NodeLoad::default());
                }
            }
            Op::Available { node, available } => {
                if let Some(generation) = generation_of(&self.view, &name(node)) {
                    self.view.set_available(&name(node), generation, available);
                }
            }
            Op::Ask { tokens, max_new, first, seed } => self.ask(tokens, max_new, first, seed)?,
            Op::FirstToken { nth } => {
                if let Some((id, _)) = self.promised.get(nth) {
                    self.view.first_token(*id, Time::ZERO);
                }
            }
            Op::HandedOver { nth } => {
                if let Some((id, _)) = self.promised.get(nth) {
                    self.view.handed_over(*id);
                }
            }
            Op::Move { nth, tokens, moves } => self.begin_to_move(nth, tokens, moves)?,
            Op::Release { nth } => {
                if nth < self.promised.len() {
                    let (id, _) = self.promised.remove(nth);
                    self.view.release(id);
                    self.view.release(id);
                }
            }
        }
        Ok(())
    }

    fn begin_to_move(&mut self, nth: usize, tokens: u32, moves: bool) -> Result<(), TestCaseError> {
        let Some((from, placement)) = self.promised.get(nth).cloned() else { return Ok(()) };
        let Some(source) = placement.path.decode() else { return Ok(()) };
        let nodes = self.view.nodes(Role::Decode).iter();
        let Some(node) = nodes.clone().find(|view| view.node == source.node) else { return Ok(()) };
        let (group, exclude) = (node.group.clone(), vec![source.node.clone()]);
        let request = RequestView { exclude, ..request(tokens, 20, 7000) };
        let config = PolicyConfig::default();
        let to = destination(&config, &self.view, &request, &group, None, Time::ZERO);
        let Ok(to) = to else { return Ok(()) };
        let view = find(&self.view, Role::Decode, &to);
        prop_assert!(view.accepts() && view.node != source.node && view.group == group);
        let id = self.view.reserve_move(from, &request, &to, Time::ZERO);
        if moves {
            self.view.moved(from, id);
            self.view.release(from);
            self.promised[nth] = (id, to);
        } else {
            self.view.release(id);
        }
        Ok(())
    }

    fn ask(
        &mut self,
        tokens: u32,
        max_new: u32,
        first: u128,
        seed: u64,
    ) -> Result<(), TestCaseError> {
        let request = request(tokens, max_new, first * 1000);
        let decision = ask(&self.view, &request, seed);
        prop_assert_eq!(&decision, &ask(&self.view, &request, seed), "the same draws, the same");
        let batch = ask(&self.view, &in_batch(request.clone()), seed);
        match (&decision, &batch) {
            (Decision::Place(_), Decision::Place(_) | Decision::Queue(_)) => {}
            (_, Decision::Place(_)) => prop_assert!(false, "{batch:?}, but alone {decision:?}"),
            _ => {}
        }
        let Decision::Place(placement) = decision else { return Ok(()) };
        let prefill = find(&self.view, Role::Prefill, &placement);
        prop_assert!(prefill.accepts());
        prop_assert_eq!(placement.path.decode().is_some(), max_new > 1);
        if placement.path.decode().is_some() {
            let decode = find(&self.view, Role::Decode, &placement);
            prop_assert!(decode.accepts());
            prop_assert_eq!(&decode.group, &prefill.group);
            // What is there already; how it grows is reckoned together.
            let there = decode.reserved.context_tokens + u64::from(tokens);
            let blocks = u64::from(decode.total_blocks) - decode.beyond.blocks;
            prop_assert!(there <= blocks * u64::from(decode.group.layout.block_tokens));
        }
        let before = reserved(&self.view);
        let id = self.view.reserve(&request, &placement, Time::ZERO);
        self.view.release(id);
        prop_assert_eq!(before, reserved(&self.view), "what is released leaves no trace");
        let id = self.view.reserve(&request, &placement, Time::ZERO);
        self.promised.push((id, placement));
        Ok(())
    }
}

fn in_batch(request: RequestView) -> RequestView {
    RequestView { class: BATCH, ..request }
}

fn find<'a>(view: &'a ClusterView, role: Role, placement: &Placement) -> &'a NodeView {
    let (_, placed) = placement.placed().find(|(of, _)| *of == role).expect("a node of the role");
    let is = |view: &&NodeView| view.node == placed.node && view.generation == placed.generation;
    view.nodes(role).iter().find(is).expect("a node of the view")
}

fn reserved(view: &ClusterView) -> Vec<Reserved> {
    view.prefill.iter().chain(&view.decode).map(|view| view.reserved).collect()
}

proptest! {
    /// Never on a draining, absent, foreign or full node; the same draws decide the same; and when
    /// every promise is given up, nothing is counted any more.
    #[test]
    fn decisions_are_sound_and_promises_end(ops in prop::collection::vec(op(), 1..60)) {
        let mut run = Run::default();
        for op in ops {
            run.apply(op)?;
        }
        for (id, _) in run.promised {
            run.view.release(id);
        }
        prop_assert!(reserved(&run.view).iter().all(|reserved| *reserved == Reserved::default()));
    }

    /// However many requests of batches come, whoever somebody waits for is placed at once beside
    /// them, if it needs no more than the spare room; and an idle cluster works on batches.
    #[test]
    fn batches_leave_room(
        sizes in prop::collection::vec((1..400_u32, 1..200_u32), 1..80),
        tokens in 1..200_u32,
        seed in any::<u64>(),
    ) {
        let mut view = cluster(&["p1", "p2", "d1"]);
        let first = in_batch(request(sizes[0].0, sizes[0].1, 0));
        prop_assert!(matches!(ask(&view, &first, seed), Decision::Place(_)), "nobody else is here");
        for (nth, (tokens, max_new)) in (0_u128..).zip(sizes) {
            let request = in_batch(request(tokens, max_new, nth * 1000));
            if let Decision::Place(placement) = ask(&view, &request, seed) {
                let alone = view.reservations() == 0;
                let id = view.reserve(&request, &placement, Time::ZERO);
                view.first_token(id, Time::ZERO);
                let spare = view.decode.iter().all(|node| node.free_blocks() >= 25);
                prop_assert!(spare || alone, "{:?}", view.decode);
            }
        }
        let somebody = request(tokens, 2, 1_000_000);
        let decision = ask(&view, &somebody, seed);
        prop_assert!(matches!(decision, Decision::Place(_)), "{decision:?}");
    }
}
