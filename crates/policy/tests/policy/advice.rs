//! Advice on replicas and roles.

use std::time::Duration;

use baton_policy::{
    LatencyFit, Placer, PolicyConfig, RequestView, Ticket, Verdict,
    advice::{Advice, AdviceConfig, Advisor, Formula, Hysteresis},
};
use baton_types::{NodeLoad, Role, Slo, Time};
use proptest::prelude::*;

use crate::cluster::{Draws, hello};

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: f64) -> Time {
    Time::ZERO + Duration::from_secs_f64(seconds)
}

/// A desk with so many nodes of each role.
fn desk(prefill: u32, decode: u32) -> Placer {
    let mut placer = Placer::new(PolicyConfig::default());
    for (role, nodes, letter) in [(Role::Prefill, prefill, 'p'), (Role::Decode, decode, 'd')] {
        for node in 0..nodes {
            let mut hello = hello(&format!("{letter}{node}"), role);
            (hello.total_blocks, hello.max_context) = (100_000, 8192);
            placer.view_mut().join(&hello, LatencyFit::default());
        }
    }
    placer
}

/// `rate` requests a second from `from` to `to`, each served at once: prompts of 512 tokens, outputs
/// of 64. The advice then.
fn serve(placer: &mut Placer, advisor: &mut Advisor, rate: f64, from: f64, to: f64) -> Advice {
    let slo = Slo { ttft: Some(SECOND / 5), tpot: Some(SECOND / 50) };
    let mut draws = Draws(1);
    for number in 0..((to - from) * rate) as u64 {
        let now = at(from + number as f64 / rate);
        let request = RequestView {
            tokens: 512,
            max_new_tokens: 64,
            slo,
            arrived: now,
            ..RequestView::new("m".into())
        };
        placer.submit(Ticket(number), request);
        while let Some((_, verdict)) = placer.poll(now, &mut draws) {
            if let Verdict::Placed(id, _) = verdict {
                let view = placer.view_mut();
                view.first_token(id, now + SECOND / 20);
                view.handed_over(id);
                view.finished(id, 64, now + SECOND / 2);
            }
        }
        advisor.handle_timeout(now, placer.view());
    }
    advisor.advice().next().expect("a model with nodes").clone()
}

fn advised(formula: Formula, nodes: (u32, u32), rate: f64) -> Advice {
    let mut advisor = Advisor::new(AdviceConfig { formula, ..AdviceConfig::default() });
    serve(&mut desk(nodes.0, nodes.1), &mut advisor, rate, 0.0, 60.0)
}

#[test]
fn more_load_takes_more_nodes_by_every_formula_and_the_reason_says_of_what() {
    for (formula, words) in [
        (Formula::Predicted, "meet TTFT"),
        (Formula::Distserve, "a node takes"),
        (Formula::Dynamo, "a second, of which a node does"),
    ] {
        let needs: Vec<[u32; 2]> = [5.0, 40.0, 160.0]
            .map(|rate| {
                let Advice { prefill, decode, .. } = advised(formula, (1, 1), rate);
                assert!(prefill.recommended >= prefill.need.nodes, "covers");
                let why = prefill.why(&AdviceConfig::default());
                assert!(why.contains(words), "{why}");
                [prefill.need.nodes, decode.need.nodes]
            })
            .into();
        // A prompt takes 15 to 23 ms.
        assert_eq!(needs[0], [1, 1], "{formula:?}");
        assert!(needs[1][0] >= 1 && needs[2][0] >= 3 && needs[2][0] <= 8, "{formula:?} {needs:?}");
        assert!(needs[2][1] >= needs[1][1] && needs[2][1] >= 2, "{formula:?} {needs:?}");
    }
}

#[test]
fn a_pool_shares_its_queue_so_it_needs_no_more_than_as_many_nodes_alone() {
    for rate in [20.0, 80.0, 200.0] {
        let of = |formula| advised(formula, (4, 4), rate).prefill.need.nodes;
        assert!(of(Formula::Predicted) <= of(Formula::Distserve) + 1, "{rate}");
    }
}

#[test]
fn nodes_of_the_other_role_are_switched_before_any_is_added() {
    let config = AdviceConfig {
        up_after: SECOND,
        down_after: 20 * SECOND,
        window: 10 * SECOND,
        ..AdviceConfig::default()
    };
    let mut advisor = Advisor::new(config);
    let Advice { prefill, decode, switch, .. } =
        serve(&mut desk(1, 9), &mut advisor, 100.0, 0.0, 60.0);
    assert!(prefill.recommended > prefill.nodes && decode.recommended < decode.nodes);
    let switch = switch.expect("decode nodes to spare");
    let spare = decode.nodes - decode.recommended;
    let lacking = prefill.recommended - prefill.nodes;
    assert_eq!((switch.from, switch.nodes), (Role::Decode, spare.min(lacking)));
    assert!(switch.to_string().contains("would serve better as prefill"), "{switch}");
}

#[test]
fn who_misses_objectives_with_all_that_is_recommended_gets_more() {
    let config = AdviceConfig::default();
    let needed = |first: Duration| {
        let (mut placer, mut advisor) = (desk(1, 1), Advisor::new(config));
        let slo = Slo { ttft: Some(SECOND / 5), tpot: Some(SECOND / 10) };
        for number in 0..10_800_u64 {
            let now = at(number as f64 / 45.0);
            let request = RequestView {
                tokens: 512,
                max_new_tokens: 8,
                slo,
                arrived: now,
                ..RequestView::new("m".into())
            };
            placer.submit(Ticket(number), request);
            if let Some((_, Verdict::Placed(id, _))) = placer.poll(now, &mut Draws(number)) {
                let view = placer.view_mut();
                view.first_token(id, now + first);
                view.finished(id, 8, now + first + SECOND / 10);
            }
            advisor.handle_timeout(now, placer.view());
        }
        advisor.advice().next().map(|advice| advice.prefill.need.nodes)
    };
    assert!(
        needed(SECOND) > needed(SECOND / 20),
        "late first tokens tell of a load beyond what is seen"
    );
}

#[test]
fn nothing_is_recommended_of_what_has_no_nodes_and_one_node_while_nothing_comes() {
    let (mut advisor, placer) = (Advisor::new(AdviceConfig::default()), desk(0, 0));
    advisor.handle_timeout(at(1.0), placer.view());
    assert_eq!(advisor.advice().count(), 0);
    let mut placer = desk(1, 1);
    for second in 0..300 {
        advisor.handle_timeout(at(f64::from(second)), placer.view());
    }
    let advice = advisor.advice().next().expect("a model with nodes").clone();
    assert_eq!([advice.prefill.recommended, advice.decode.recommended], [1, 1]);
    assert_eq!(advice.prefill.why(&AdviceConfig::default()), "nothing came lately");
    let drained = NodeLoad { draining: true, ..NodeLoad::default() };
    placer.view_mut().observe(&"p0".into(), baton_types::Generation(1), drained);
    advisor.handle_timeout(at(400.0), placer.view());
    let advice = advisor.advice().next().expect("a model with nodes");
    assert_eq!(advice.prefill.nodes, 0, "what drains takes no requests");
}

/// What is needed and needed with the threshold, every second.
fn looks() -> impl Strategy<Value = Vec<(u32, u32)>> {
    prop::collection::vec((1..20_u32, 0..3_u32), 1..600)
        .prop_map(|looks| looks.into_iter().map(|(least, more)| (least, least + more)).collect())
}

proptest! {
    /// `covers` and `no-flap`, of whatever load.
    #[test]
    fn recommendations_cover_what_is_needed_and_never_flap(
        looks in looks(),
        first in 0..20_u32,
        down in 2..60_u32,
        up in 0..60_u32,
    ) {
        let config = AdviceConfig {
            up_after: up.min(down) * SECOND,
            down_after: down * SECOND,
            ..AdviceConfig::default()
        };
        let mut hysteresis = Hysteresis::new(first, at(0.0));
        let (mut before, mut changed) = (first.max(1), None);
        for (second, &(needed, with_threshold)) in looks.iter().enumerate() {
            let now = at(second as f64);
            let recommended = hysteresis.look(&config, now, needed, with_threshold);
            let since = changed.map_or(Duration::MAX, |changed| now.since(changed));
            prop_assert!(recommended >= needed || since < config.up_after, "covers");
            if recommended > before {
                prop_assert!(since >= config.up_after && recommended == needed, "no-flap: cool-down");
            }
            if recommended < before {
                prop_assert!(since >= config.down_after && second >= down as usize, "no-flap");
                let lately = &looks[second - down as usize..=second];
                let most = lately.iter().map(|look| look.1).max();
                prop_assert_eq!(Some(recommended), most, "no-flap: as much as was needed lately");
            }
            if recommended != before {
                (before, changed) = (recommended, Some(now));
            }
        }
    }

    /// `no-flap`, of a load that varies by less than the threshold: at most the first fall.
    #[test]
    fn a_load_within_the_threshold_changes_nothing(
        noise in prop::collection::vec(-0.04..0.04_f64, 600),
        load in 1.0..20.0_f64,
        first in 1..20_u32,
    ) {
        let config = AdviceConfig { down_after: 30 * SECOND, ..AdviceConfig::default() };
        let mut hysteresis = Hysteresis::new(first, at(0.0));
        let nodes = |load: f64| load.ceil() as u32;
        let mut changes = Vec::new();
        for (second, noise) in noise.iter().enumerate() {
            let now = load * (1.0 + noise);
            let before = hysteresis.recommended();
            let after = hysteresis.look(
                &config,
                at(second as f64),
                nodes(now),
                nodes(now * (1.0 + config.threshold)),
            );
            if after != before {
                changes.push(after > before);
            }
        }
        // Rises while it finds the most, or falls: never both ways and back.
        let turns = changes.windows(2).filter(|pair| pair[0] != pair[1]).count();
        prop_assert!(turns == 0, "{changes:?}");
    }
}
