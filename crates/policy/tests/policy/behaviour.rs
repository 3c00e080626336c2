use std::time::Duration;

use baton_policy::{
    ClusterView, Decision, LatencyFit, Link, Policy, PolicyConfig, Refusal, RequestView, Shortage,
    Way, decide,
};
use baton_types::{Generation, KvEvents, NodeHello, NodeLoad, NumericsId, Role, Time};

use crate::cluster::{Draws, ask, cluster, hello, idle, placed, request, store};

const GENERATION: Generation = Generation(1);

fn decode_node(view: &ClusterView, seed: u64) -> String {
    let placement = placed(ask(view, &request(100, 50, 0), seed));
    placement.path.decode().expect("a decode node").node.to_string()
}

#[test]
fn near_equals_share_the_load() {
    let view = cluster(&["p", "x", "y"]);
    let x = (0..400).filter(|&seed| decode_node(&view, seed) == "x").count();
    assert!((140..260).contains(&x), "{x} of 400");
    assert_eq!(placed(ask(&view, &request(100, 50, 0), 0)).reasons.near_equal, 2);
}

#[test]
fn promises_count_at_once() {
    let mut view = cluster(&["p", "x", "y"]);
    let placement = placed(ask(&view, &request(100, 50, 0), 0));
    let busy = placement.path.decode().expect("a decode node").node.to_string();
    for _ in 0..6 {
        let id = view.reserve(&request(100, 50, 0), &placement, Time::ZERO);
        view.first_token(id, Time::ZERO);
    }
    assert!((0..50).all(|seed| decode_node(&view, seed) != busy));
}

#[test]
fn a_prompt_goes_where_its_beginning_is() {
    let mut view = cluster(&["p0", "p1", "p2", "d"]);
    let long = request(480, 50, 0);
    let first = placed(ask(&view, &long, 3));
    store(&mut view, &first, &long);
    for seed in 0..30 {
        let again = placed(ask(&view, &request(500, 50, 0), seed));
        assert_eq!(again.path.prefill(), first.path.prefill());
        assert_eq!((again.reasons.prefill_cached_tokens, again.demand.new_tokens), (480, 20));
    }
    let others = (0..30).map(|seed| placed(ask(&view, &request(480, 50, 1000), seed)).path);
    assert!(
        others.into_iter().any(|path| path.prefill() != first.path.prefill()),
        "another prompt goes anywhere"
    );
}

#[test]
fn the_last_token_is_always_computed() {
    let mut view = cluster(&["p", "d"]);
    let whole = request(96, 50, 0);
    let first = placed(ask(&view, &whole, 0));
    store(&mut view, &first, &whole);
    assert_eq!(placed(ask(&view, &whole, 0)).demand.new_tokens, 16);
}

#[test]
fn a_beginning_counts_from_the_decision_and_for_as_long_as_the_node_has_it() {
    let mut view = cluster(&["p", "d"]);
    let prompt = request(160, 50, 0);
    let cached = |view: &ClusterView| placed(ask(view, &prompt, 0)).reasons.prefill_cached_tokens;
    let first = placed(ask(&view, &prompt, 0));
    let id = view.reserve(&prompt, &first, Time::ZERO);
    assert_eq!(cached(&view), 144, "others with the same beginning follow at once");
    view.release(id);
    for _ in 0..2 {
        assert_eq!(cached(&view), 144, "its word may be on its way");
        view.observe_events(&"p".into(), GENERATION, None).unwrap();
    }
    assert_eq!(cached(&view), 0, "it never said that it computed them");
    store(&mut view, &first, &prompt);
    assert_eq!(cached(&view), 144);
    let hashes = prompt.hashes[0].hashes[4..].to_vec();
    let evicted = KvEvents { since: Some(1), upto: 7, stored: Vec::new(), removed: hashes };
    view.observe_events(&"p".into(), GENERATION, Some(&evicted)).unwrap();
    assert_eq!(cached(&view), 64);
    view.join(&hello("p", Role::Prefill), LatencyFit::default());
    assert_eq!(cached(&view), 64, "it was only away");
    let restarted = NodeHello { generation: Generation(2), ..hello("p", Role::Prefill) };
    view.join(&restarted, LatencyFit::default());
    assert_eq!(cached(&view), 0, "what it had is gone with it");
}

#[test]
fn a_crowded_prefix_is_left() {
    let mut view = cluster(&["p0", "p1", "d"]);
    let prompt = request(160, 50, 0);
    let first = placed(ask(&view, &prompt, 0));
    store(&mut view, &first, &prompt);
    let load = NodeLoad { queued_tokens: 5000, waiting: 9, ..idle() };
    let crowded = first.path.prefill().expect("a prefill node");
    view.observe(&crowded.node, GENERATION, load);
    assert_ne!(placed(ask(&view, &prompt, 0)).path.prefill(), Some(crowded));
}

#[test]
fn a_single_token_needs_no_decode_node() {
    let view = cluster(&["p"]);
    assert_eq!(placed(ask(&view, &request(100, 1, 0), 0)).path.decode(), None);
    let shortage = Shortage::Nodes { role: Role::Decode };
    assert_eq!(ask(&view, &request(100, 2, 0), 0), Decision::Queue(shortage));
}

#[test]
fn slow_links_are_avoided() {
    let mut view = cluster(&["p", "x", "y"]);
    let slow = Link { bytes_per_second: 1e5, ..Link::default() };
    let x = view.decode.iter_mut().find(|view| view.node == "x".into()).unwrap();
    x.link = slow;
    assert!((0..20).all(|seed| decode_node(&view, seed) == "y"));
}

#[test]
fn strangers_are_not_paired() {
    let mut view = cluster(&["p"]);
    let other = NodeHello { numerics: NumericsId(2), ..hello("d", Role::Decode) };
    view.join(&other, LatencyFit::default());
    let shortage = Shortage::Nodes { role: Role::Decode };
    assert_eq!(ask(&view, &request(100, 50, 0), 0), Decision::Queue(shortage));
}

#[test]
fn nodes_that_failed_the_request_are_passed_over() {
    let view = cluster(&["p", "x", "y"]);
    let mut again = request(100, 50, 0);
    again.exclude.push("x".into());
    for seed in 0..20 {
        let placement = placed(ask(&view, &again, seed));
        assert_eq!(placement.path.decode().expect("one").node, "y".into());
    }
}

#[test]
fn what_no_node_can_ever_do_is_refused_for_good() {
    let view = cluster(&["p", "d"]);
    let mut unknown = request(10, 10, 0);
    unknown.model = "other".into();
    let mut pool = cluster(&["d"]);
    let small = NodeHello { total_blocks: 2, ..hello("p", Role::Prefill) };
    pool.join(&small, LatencyFit::default());
    let cases = [
        (&view, unknown, "MODEL_NOT_FOUND"),
        (&view, request(0, 10, 0), "EMPTY_PROMPT"),
        (&view, request(10, 0, 0), "NOTHING_TO_GENERATE"),
        (&view, request(600, 401, 0), "CONTEXT_TOO_LONG"),
        (&pool, request(33, 10, 0), "CONTEXT_TOO_LONG"),
    ];
    for (view, request, reason) in cases {
        match ask(view, &request, 0) {
            Decision::Refuse(refusal) => {
                assert_eq!((refusal.reason(), refusal.retry_after()), (reason, None));
            }
            other => panic!("{reason}: {other:?}"),
        }
    }
    assert!(matches!(ask(&view, &request(600, 400, 0), 0), Decision::Place(_)));
    assert!(matches!(ask(&pool, &request(32, 900, 0), 0), Decision::Place(_)));
}

#[test]
fn a_full_cluster_queues_and_then_refuses_with_a_hint() {
    let mut view = cluster(&["p", "d"]);
    view.observe(&"d".into(), GENERATION, NodeLoad { free_blocks: 3, running: 8, ..idle() });
    let mut asked = request(100, 50, 0);
    let shortage = Shortage::DecodeBlocks { needed: 10, free: 3 };
    assert_eq!(ask(&view, &asked, 0), Decision::Queue(shortage));

    let config = PolicyConfig { max_queued: 5, ..PolicyConfig::default() };
    let late = Time::ZERO + config.max_queue_time;
    let mut refused = |now: Time, queued_before: usize| {
        asked.queued_before = queued_before;
        match decide(&config, &view, &asked, now, &mut Draws(0)) {
            Decision::Refuse(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    };
    let full = refused(Time::ZERO, 5);
    assert!(matches!(full, Refusal::Full { queued: 5, .. }));
    assert!(matches!(refused(late, 0), Refusal::WaitedTooLong { .. }));
    let hint = full.retry_after().expect("a hint");
    assert!(hint >= Duration::from_millis(100) && hint <= Duration::from_secs(30), "{hint:?}");
    assert!(refused(late, 0).retry_after().expect("a hint") <= hint, "a longer queue waits longer");

    // What goes before it of the same request would have worked in vain.
    asked.follows = true;
    asked.queued_before = 5;
    assert_eq!(decide(&config, &view, &asked, late, &mut Draws(0)), Decision::Queue(shortage));
}

#[test]
fn a_prefill_pool_that_is_full_lets_some_wait() {
    let mut view = cluster(&["p", "d"]);
    let full = NodeLoad { waiting: 63, ..NodeLoad::default() };
    view.observe(&"p".into(), GENERATION, full);
    placed(ask(&view, &request(100, 50, 0), 0));
    view.observe(&"p".into(), GENERATION, NodeLoad { waiting: 64, ..full });
    assert_eq!(ask(&view, &request(100, 50, 0), 0), Decision::Queue(Shortage::PrefillRoom));
}

#[test]
fn the_fewest_requests_win_when_asked_for() {
    let mut view = cluster(&["p", "x", "y"]);
    view.observe(&"x".into(), GENERATION, NodeLoad { running: 1, ..idle() });
    let config = PolicyConfig { policy: Policy::LeastOutstanding, ..PolicyConfig::default() };
    let choose = |config: &PolicyConfig, seed| {
        let asked = request(100, 50, 0);
        let placement = placed(decide(config, &view, &asked, Time::ZERO, &mut Draws(seed)));
        placement.path.decode().expect("a decode node").node.to_string()
    };
    assert!((0..20).all(|seed| choose(&config, seed) == "y"));
    let random = PolicyConfig { policy: Policy::Random, ..config };
    assert!((0..20).any(|seed| choose(&random, seed) == "x"));
}

/// Both ends of a link that fails are as good as any for others, and better than nothing for each other.
#[test]
fn a_link_that_fails_is_passed_over_where_there_is_another_way() {
    let mut view = cluster(&["p", "x", "y"]);
    view.join(&hello("p2", Role::Prefill), LatencyFit::default());
    let link = |from: &str, to: &str| Way::Link(from.into(), to.into());
    view.troubles.failed(link("p", "x"), Time::ZERO);
    let mut used = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let path = placed(ask(&view, &request(900, 50, 1000 * u128::from(seed)), seed)).path;
        let (prefill, decode) = (path.prefill().unwrap(), path.decode().unwrap());
        used.insert((prefill.node.to_string(), decode.node.to_string()));
    }
    let used_by = |name: &str| used.iter().any(|(from, to)| from == name || to == name);
    assert!(!used.contains(&("p".to_owned(), "x".to_owned())));
    assert!(used_by("p") && used_by("x"), "{used:?}");

    let mut pair = cluster(&["p", "x"]);
    pair.troubles.failed(link("p", "x"), Time::ZERO);
    placed(ask(&pair, &request(900, 50, 0), 0));
}

#[test]
fn policies_to_compare_with_use_every_group() {
    let mut view = ClusterView::default();
    for number in 0..3_u8 {
        for (letter, role) in [('p', Role::Prefill), ('d', Role::Decode)] {
            let name = format!("{letter}{number}");
            let numerics = NumericsId(number.into());
            view.join(&NodeHello { numerics, ..hello(&name, role) }, LatencyFit::default());
        }
    }
    for policy in Policy::ALL {
        let config = PolicyConfig { policy, ..PolicyConfig::default() };
        let mut used = std::collections::BTreeSet::new();
        for seed in 0..60 {
            let asked = request(100, 50, 1000 * u128::from(seed));
            let decision = decide(&config, &view, &asked, Time::ZERO, &mut Draws(seed));
            let placement = placed(decision);
            let (prefill, decode) = (placement.path.prefill(), placement.path.decode());
            let (Some(prefill), Some(decode)) = (prefill, decode) else { panic!("{policy:?}") };
            assert_eq!(prefill.node.to_string()[1..], decode.node.to_string()[1..], "{policy:?}");
            used.insert(prefill.node.clone());
            let id = view.reserve(&asked, &placement, Time::ZERO);
            view.first_token(id, Time::ZERO);
            view.release(id);
        }
        assert_eq!(used.len(), 3, "{policy:?}");
    }
}

/// Its client waits for the next token: it is due by its objective, but in a quarter of a second at the latest.
#[test]
fn what_has_begun_is_due_when_its_next_token_is() {
    let view = cluster(&["p", "d"]);
    let ms = |ms: u64| Duration::from_millis(ms);
    let now = Time::ZERO + ms(5_000);
    let due_in = |next_due: Option<Time>| {
        let request = RequestView { has_begun: true, next_due, ..request(100, 50, 0) };
        let config = PolicyConfig { policy: Policy::Joint, ..PolicyConfig::default() };
        placed(decide(&config, &view, &request, now, &mut Draws(1))).demand.due.since(now)
    };
    assert_eq!(due_in(Some(now + ms(100))), ms(100));
    assert_eq!(due_in(Some(now + ms(9_000))), ms(250), "a pause is seen");
    assert_eq!(due_in(Some(Time::ZERO)), ms(1), "late already");
    assert_eq!(due_in(None), ms(1));
}
