//! Whose prompt goes first on a busy node, and who leaves room for whom.

use std::time::Duration;

use baton_policy::{
    LatencyFit, Path, Placer, PolicyConfig, RequestView, ReservationId, Ticket, Verdict,
};
use baton_types::{Generation, NodeHello, NodeLoad, Role, Slo, Time};

use crate::{
    cluster::{BLOCK, hello, idle, request},
    placer::{at, placed, said, within},
};

/// The default model computes 2,000 tokens in eight steps of about 10 ms, and 20 in one of 4.4 ms.
const LONG: u32 = 2000;
const SHORT: u32 = 20;

const BLOCKS: u32 = 1000;

/// A prefill and a decode node that hold long prompts.
fn roomy(config: PolicyConfig) -> Placer {
    let mut placer = Placer::new(config);
    for (name, role) in [("p", Role::Prefill), ("d", Role::Decode)] {
        let hello = NodeHello { max_context: 20_000, total_blocks: BLOCKS, ..hello(name, role) };
        placer.view_mut().join(&hello, LatencyFit::default());
    }
    placer
}

fn tpot(us: u64, request: RequestView) -> RequestView {
    let tpot = Some(Duration::from_micros(us));
    RequestView { slo: Slo { tpot, ..request.slo }, ..request }
}

#[test]
fn who_would_lose_by_waiting_overtakes_and_who_would_not_waits() {
    let mut placer = roomy(PolicyConfig::default());
    placer.submit(Ticket(1), within(900, request(LONG, 9, 0)));
    let long = placed(&said(&mut placer, at(0)));
    assert_eq!(long.len(), 1);
    // The node takes two prompts a step; with this one it has its two.
    placer.submit(Ticket(2), within(900, request(LONG, 9, 10_000)));
    assert_eq!(placed(&said(&mut placer, at(0))).len(), 1);
    placer.submit(Ticket(3), within(800, request(SHORT, 9, 20_000)));
    assert_eq!(said(&mut placer, at(1)), [], "it has time enough for its turn");
    placer.submit(Ticket(4), within(60, request(SHORT, 9, 30_000)));
    let overtaking = said(&mut placer, at(2));
    assert_eq!(placed(&overtaking)[0].0, 4);
    assert_eq!(placer.waiting(), 1);
}

#[test]
fn nobody_overtakes_those_who_would_be_late_for_it() {
    let mut placer = roomy(PolicyConfig::default());
    // Both are done in time, with little to spare.
    for ticket in [1, 2] {
        let first = 10_000 * u128::from(ticket);
        placer.submit(Ticket(ticket), within(200, request(LONG, 9, first)));
    }
    assert_eq!(placed(&said(&mut placer, at(0))).len(), 2);
    placer.submit(Ticket(3), within(95, request(LONG, 9, 90_000)));
    assert_eq!(said(&mut placer, at(1)), []);
}

#[test]
fn who_can_begin_elsewhere_and_loses_nothing_leaves_its_turn_to_others() {
    let config = PolicyConfig { local_tokens: 512, ..PolicyConfig::default() };
    let mut placer = roomy(config);
    for ticket in [1, 2] {
        let first = 10_000 * u128::from(ticket);
        placer.submit(Ticket(ticket), within(900, request(LONG, 9, first)));
    }
    assert_eq!(placed(&said(&mut placer, at(0))).len(), 2);
    placer.submit(Ticket(3), within(800, request(SHORT, 9, 90_000)));
    let said = said(&mut placer, at(1));
    let [(3, Verdict::Placed(_, placement))] = &said[..] else { panic!("{said:?}") };
    assert!(matches!(placement.path, Path::Local { .. }), "{placement:?}");
}

/// A cluster whose prefill node has others' prompts for some seconds, and a decode node with one that
/// decodes `tpot` us a token.
fn busy_prefill(config: PolicyConfig, objective: Option<u64>) -> Placer {
    let mut placer = roomy(config);
    let decoding = request(SHORT, 200, 70_000);
    let decoding = objective.map_or(decoding.clone(), |us| tpot(us, decoding));
    placer.submit(Ticket(100), decoding);
    let (_, id) = placed(&said(&mut placer, at(0)))[0];
    placer.view_mut().first_token(id, at(0));
    placer.view_mut().handed_over(id);
    let others = NodeLoad { queued_tokens: 20_000, waiting: 20, ..idle() };
    let load = NodeLoad { free_blocks: BLOCKS, ..others };
    placer.view_mut().observe(&"p".into(), Generation(1), load);
    placer
}

fn path(said: &[(u64, Verdict)]) -> Option<&Path> {
    said.iter().find_map(|(_, verdict)| match verdict {
        Verdict::Placed(_, placement) => Some(&placement.path),
        Verdict::Refused(_) => None,
    })
}

#[test]
fn decode_nodes_lend_themselves_when_prefill_nodes_cannot_be_in_time() {
    let ask = |config: PolicyConfig, objective, prompt: RequestView| {
        let mut placer = busy_prefill(config, objective);
        placer.submit(Ticket(1), prompt);
        path(&said(&mut placer, at(1))).cloned()
    };
    let lends = PolicyConfig { lend: true, ..PolicyConfig::default() };
    let urgent = || within(90, request(LONG / 4, 200, 0));
    let path = ask(lends, Some(50_000), urgent());
    assert!(matches!(path, Some(Path::Local { .. })), "{path:?}");
    let path = ask(PolicyConfig::default(), Some(50_000), urgent());
    assert!(!matches!(path, Some(Path::Local { .. })), "{path:?}");
    let path = ask(lends, Some(50_000), request(LONG / 4, 200, 0));
    assert!(!matches!(path, Some(Path::Local { .. })), "it has time: {path:?}");
    // The one that decodes has hardly any to spare.
    let path = ask(lends, Some(4_500), urgent());
    assert!(!matches!(path, Some(Path::Local { .. })), "{path:?}");
}

#[test]
fn many_small_loans_are_not_more_than_a_large_one() {
    let lends = PolicyConfig { lend: true, ..PolicyConfig::default() };
    let mut placer = busy_prefill(lends, Some(8_000));
    let mut lent = 0;
    for ticket in 1..=40 {
        let urgent = within(90, request(LONG / 4, 200, 1000 * u128::from(ticket)));
        placer.submit(Ticket(ticket), urgent);
        let said = said(&mut placer, at(1));
        lent += usize::from(matches!(path(&said), Some(Path::Local { .. })));
        for (_, id) in placed(&said) {
            placer.view_mut().first_token(id, at(1));
        }
    }
    assert!((1..20).contains(&lent), "{lent} of 40");
}

#[test]
fn a_request_that_is_larger_than_most_leaves_room_for_small_ones() {
    let mut placer = roomy(PolicyConfig::default());
    placer.submit(Ticket(1), request(SHORT, 9, 0));
    assert_eq!(placed(&said(&mut placer, at(0))).len(), 1);
    // All but what the first has, and a little.
    let large = (BLOCKS - 6) * BLOCK;
    placer.submit(Ticket(2), request(large, 9, 50_000));
    assert_eq!(said(&mut placer, at(1)), []);
    placer.submit(Ticket(3), within(500, request(SHORT, 9, 90_000)));
    assert_eq!(placed(&said(&mut placer, at(2)))[0].0, 3);
}

#[test]
fn a_growing_batch_is_no_error_of_the_predictions() {
    let mut placer = roomy(PolicyConfig::default());
    let mut now = Time::ZERO;
    let mut running: Vec<(ReservationId, Time)> = Vec::new();
    for ticket in 1..=40_u64 {
        let asked = tpot(50_000, request(SHORT, 99, 100 * u128::from(ticket)));
        placer.submit(Ticket(ticket), asked);
        for (_, id) in placed(&said(&mut placer, now)) {
            placer.view_mut().first_token(id, now);
            placer.view_mut().handed_over(id);
            running.push((id, now));
        }
        // Ten steps of as many as there are.
        let decode = &placer.view().decode[0];
        now += decode.latency.decode(decode.batch(), decode.context_tokens()) * 10;
    }
    // Tokens came as fast as steps went, which became twice as long meanwhile.
    for (ticket, (id, _)) in running.into_iter().enumerate() {
        let tokens = 10 * (40 - ticket as u32) + 1;
        placer.view_mut().finished(id, tokens, now);
    }
    let decode = &placer.view().decode[0];
    let one = decode.latency.decode(1, 20);
    let many = decode.latency.decode(40, 800);
    assert!(many > one.mul_f64(1.3), "the batch makes a difference: {one:?}, {many:?}");
    let (bias, spread) = (decode.tpot.corrected(1.0), decode.tpot.spread());
    assert!((bias - 1.0).abs() < 0.02 && spread < 0.16, "it began with 0.2: {:?}", decode.tpot);
}

#[test]
fn a_link_is_learned_from_what_joins() {
    let mut placer = roomy(PolicyConfig::default());
    let before = placer.view().decode[0].link.bytes_per_second;
    placer.submit(Ticket(1), request(SHORT, 9, 0));
    let (_, id) = placed(&said(&mut placer, at(0)))[0];
    placer.view_mut().first_token(id, at(5));
    placer.view_mut().joined(id, 100_000_000, Duration::from_millis(1), at(6));
    let after = placer.view().decode[0].link.bytes_per_second;
    assert!(after > 10.0 * before, "100 MB came in 6 ms: {before} to {after}");
}
