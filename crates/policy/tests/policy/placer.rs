//! The desk: who is placed first, who waits, who is refused; and that everybody is told.

use std::{collections::BTreeMap, time::Duration};

use baton_policy::{
    Class, LatencyFit, Placer, PolicyConfig, Refusal, RequestView, ReservationId, Ticket, Verdict,
};
use baton_types::{Role, Slo, Time};
use proptest::prelude::*;

use crate::cluster::{BATCH, Draws, hello, request};

const MS: Duration = Duration::from_millis(1);

pub(crate) fn placer(config: PolicyConfig, names: &[&str]) -> Placer {
    let mut placer = Placer::new(config);
    for name in names {
        let role = if name.starts_with('p') { Role::Prefill } else { Role::Decode };
        placer.view_mut().join(&hello(name, role), LatencyFit::default());
    }
    placer
}

pub(crate) fn at(ms: u32) -> Time {
    Time::ZERO + ms * MS
}

pub(crate) fn within(ttft_ms: u32, request: RequestView) -> RequestView {
    RequestView { slo: Slo { ttft: Some(ttft_ms * MS), tpot: None }, ..request }
}

/// All that can be said at a time.
pub(crate) fn said(placer: &mut Placer, now: Time) -> Vec<(u64, Verdict)> {
    let mut draws = Draws(now.as_nanos());
    std::iter::from_fn(|| placer.poll(now, &mut draws)).map(|(t, said)| (t.0, said)).collect()
}

#[track_caller]
pub(crate) fn placed(said: &[(u64, Verdict)]) -> Vec<(u64, ReservationId)> {
    let id = |(ticket, verdict): &(u64, Verdict)| match verdict {
        Verdict::Placed(id, _) => (*ticket, *id),
        Verdict::Refused(refusal) => panic!("{ticket}: {refusal}"),
    };
    said.iter().map(id).collect()
}

#[test]
fn what_would_only_wait_on_a_node_waits_here_and_least_slack_goes_first() {
    let mut placer = placer(PolicyConfig::default(), &["p", "d"]);
    // The default model computes 300 tokens in about 10.2 ms.
    for (ticket, ttft) in [(1, 1000), (2, 1000), (3, 1000), (4, 900), (5, 100)] {
        placer.submit(Ticket(ticket), within(ttft, request(300, 9, u128::from(ticket) * 1000)));
    }
    let first = placed(&said(&mut placer, at(0)));
    let tickets: Vec<u64> = first.iter().map(|(ticket, _)| *ticket).collect();
    assert_eq!(tickets, [5, 4], "what a node has beyond 20 ms waits");
    assert_eq!(placer.waiting(), 3);
    let again = placer.poll_timeout().expect("a time to look again");
    assert!(again > at(0) && again < at(11), "{again}");
    let next = placed(&said(&mut placer, again + MS));
    assert_eq!(next.len(), 1, "the node is about to be done with the first");
    for (_, id) in first {
        placer.view_mut().first_token(id, at(13));
    }
    assert_eq!(placed(&said(&mut placer, at(13))).len(), 1, "room for one more");
}

#[test]
fn who_can_not_be_in_time_is_refused_if_it_asked_for_that_and_served_late_if_not() {
    let config = PolicyConfig { queue_ahead: Duration::ZERO, ..PolicyConfig::default() };
    let mut placer = placer(config, &["p", "d"]);
    for ticket in 1..=2 {
        placer.submit(Ticket(ticket), request(700, 9, u128::from(ticket) * 1000));
    }
    let busy = placed(&said(&mut placer, at(0)));
    assert_eq!(busy.len(), 2, "a step computes two prompts together");
    let strict = RequestView { refuse_late: true, ..within(30, request(400, 9, 7000)) };
    placer.submit(Ticket(8), strict);
    placer.submit(Ticket(9), within(30, request(400, 9, 8000)));
    assert_eq!(said(&mut placer, at(1)), []);
    let due = placer.poll_timeout().expect("a time");
    let refused = said(&mut placer, due.max(at(20)));
    let [(8, Verdict::Refused(refusal @ Refusal::TooLate { objective, .. }))] = &refused[..] else {
        panic!("{refused:?}");
    };
    assert_eq!(*objective, 30 * MS);
    assert!(refusal.retry_after().is_some());
    for (_, id) in busy {
        placer.view_mut().first_token(id, at(40));
        placer.view_mut().release(id);
    }
    assert_eq!(placed(&said(&mut placer, at(40)))[0].0, 9);
}

#[test]
fn an_objective_that_nobody_can_meet_is_no_reason_to_leave_a_node_idle() {
    let mut placer = placer(PolicyConfig::default(), &["p", "d"]);
    let hopeless = RequestView { refuse_late: true, ..within(1, request(900, 9, 0)) };
    placer.submit(Ticket(1), hopeless);
    assert_eq!(placed(&said(&mut placer, at(0))).len(), 1);
}

#[test]
fn a_newcomer_does_not_spoil_those_who_decode() {
    let mut placer = placer(PolicyConfig::default(), &["p", "x"]);
    // A step with one sequence takes 5.06 ms and some, with two 5.12 and some, with three 5.18.
    let tpot = Duration::from_micros(5150);
    let strict = |first| {
        let slo = Slo { ttft: None, tpot: Some(tpot) };
        RequestView { slo, ..request(10, 50, first) }
    };
    let mut inside = Vec::new();
    for ticket in 1..=200 {
        placer.submit(Ticket(ticket), strict(u128::from(ticket) * 1000));
        for (_, id) in placed(&said(&mut placer, at(0))) {
            placer.view_mut().first_token(id, at(0));
            placer.view_mut().handed_over(id);
            inside.push(id);
        }
    }
    assert!(placer.waiting() > 0, "all {} were placed", inside.len());
    let decode = &placer.view().decode[0];
    assert!(decode.free_blocks() > 20, "there is room: {}", decode.free_blocks());
    for id in inside {
        placer.view_mut().release(id);
    }
    assert!(!said(&mut placer, at(1)).is_empty(), "and when others leave they go on");
}

#[test]
fn a_short_prompt_is_computed_where_it_is_decoded_if_that_is_allowed() {
    let config = PolicyConfig { local_tokens: 64, ..PolicyConfig::default() };
    let mut placer = placer(config, &["p", "d"]);
    let long = request(400, 9, 0);
    let not_local = RequestView { may_be_local: false, ..request(40, 9, 2000) };
    for (ticket, request) in [(1, request(40, 9, 1000)), (2, long), (3, not_local)] {
        placer.submit(Ticket(ticket), request);
        let said = said(&mut placer, at(100 * ticket as u32));
        let [(_, Verdict::Placed(id, placement))] = &said[..] else { panic!("{said:?}") };
        assert_eq!(placement.path.prefill().is_none(), ticket == 1, "{placement:?}");
        let (id, now) = (*id, at(100 * ticket as u32 + 50));
        placer.view_mut().first_token(id, now);
        placer.view_mut().finished(id, 9, now + 100 * MS);
    }
    assert_eq!(placer.view().reservations(), 0);
}

#[derive(Clone, Debug)]
enum Op {
    Submit { tokens: u32, max_new: u32, ttft: Option<u32>, strict: bool, batch: bool, begun: bool },
    Cancel { nth: usize },
    Progress { nth: usize },
    Leave { node: u8 },
    Join { node: u8 },
    Wait { ms: u32 },
}

fn op() -> impl Strategy<Value = Op> {
    let ttft = prop::option::of(1..3000_u32);
    prop_oneof![
        6 => (1..900_u32, 1..99_u32, ttft, any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.1))
            .prop_map(|(tokens, max_new, ttft, strict, batch, begun)| {
                Op::Submit { tokens, max_new, ttft, strict, batch, begun }
            }),
        1 => (0..9_usize).prop_map(|nth| Op::Cancel { nth }),
        6 => (0..9_usize).prop_map(|nth| Op::Progress { nth }),
        1 => (0..4_u8).prop_map(|node| Op::Leave { node }),
        2 => (0..4_u8).prop_map(|node| Op::Join { node }),
        4 => (1..400_u32).prop_map(|ms| Op::Wait { ms }),
    ]
}

/// Even nodes prefill, odd ones decode.
fn node(node: u8) -> baton_types::NodeHello {
    let role = if node.is_multiple_of(2) { Role::Prefill } else { Role::Decode };
    hello(&format!("n{node}"), role)
}

#[derive(Default)]
struct Desk {
    placer: Placer,
    now: Time,
    waiting: BTreeMap<u64, bool>,
    inside: Vec<(ReservationId, bool)>,
    last: u64,
}

impl Desk {
    fn listen(&mut self) -> Result<(), TestCaseError> {
        for (ticket, verdict) in said(&mut self.placer, self.now) {
            let known = self.waiting.remove(&ticket);
            prop_assert!(known.is_some(), "{ticket} was told twice, or had left");
            match verdict {
                Verdict::Placed(id, _) => self.inside.push((id, false)),
                Verdict::Refused(refusal) => {
                    let patient = known == Some(true);
                    prop_assert!(!patient || refusal.retry_after().is_none(), "{refusal}");
                }
            }
        }
        prop_assert_eq!(self.placer.waiting(), self.waiting.len());
        prop_assert_eq!(self.placer.view().reservations(), self.inside.len());
        Ok(())
    }

    /// A request's next step: its first token, then its end.
    fn progress(&mut self, nth: usize) {
        let Some((id, prefilled)) = self.inside.get_mut(nth) else { return };
        let (id, view) = (*id, self.placer.view_mut());
        if std::mem::replace(prefilled, true) {
            view.finished(id, 5, self.now);
            self.inside.remove(nth);
        } else {
            view.first_token(id, self.now);
            view.handed_over(id);
        }
    }

    fn apply(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Submit { tokens, max_new, ttft, strict, batch, begun } => {
                self.last += 1;
                let asked = RequestView {
                    slo: Slo { ttft: ttft.map(|ttft| ttft * MS), tpot: ttft.map(|_| 9 * MS) },
                    refuse_late: strict,
                    has_begun: begun,
                    class: if batch { BATCH } else { Class::default() },
                    arrived: self.now,
                    ..request(tokens, max_new, u128::from(self.last % 3) * 1000)
                };
                self.waiting.insert(self.last, batch);
                self.placer.submit(Ticket(self.last), asked);
            }
            Op::Cancel { nth } => {
                if let Some(ticket) = self.waiting.keys().nth(nth).copied() {
                    self.waiting.remove(&ticket);
                    self.placer.cancel(Ticket(ticket));
                }
            }
            Op::Progress { nth } => self.progress(nth),
            Op::Leave { node: number } => self.placer.view_mut().leave(&node(number).node),
            Op::Join { node: number } => {
                self.placer.view_mut().join(&node(number), LatencyFit::default());
            }
            Op::Wait { ms } => self.now += ms * MS,
        }
        self.listen()
    }
}

proptest! {
    /// `no-lost-request` at the desk: whatever comes, everybody is told once; when nodes are there
    /// and work, nobody waits for ever, and at the end nothing is promised any more (`no-leak`).
    #[test]
    fn everybody_is_told_once_and_nothing_is_left(ops in prop::collection::vec(op(), 1..80)) {
        let mut desk = Desk::default();
        for op in ops {
            desk.apply(op)?;
        }
        for number in 0..4 {
            desk.apply(Op::Join { node: number })?;
        }
        for _ in 0..2000 {
            if desk.waiting.is_empty() && desk.inside.is_empty() {
                break;
            }
            while !desk.inside.is_empty() {
                desk.progress(0);
            }
            desk.listen()?;
            let next = desk.placer.poll_timeout();
            desk.now = next.map_or(desk.now, |next| next.max(desk.now));
            desk.listen()?;
        }
        prop_assert!(desk.waiting.is_empty(), "still waiting: {:?}", desk.waiting);
        prop_assert_eq!(desk.placer.view().reservations(), 0);
        prop_assert_eq!(desk.placer.poll_timeout(), None);
        let nodes = desk.placer.view().prefill.iter().chain(&desk.placer.view().decode);
        for node in nodes {
            prop_assert_eq!(node.reserved, Default::default());
        }
    }
}

#[test]
fn who_comes_after_others_anyway_waits_here_however_uncertain_times_are() {
    let config = PolicyConfig { queue_ahead: 2 * MS, ..PolicyConfig::default() };
    let mut placer = placer(config, &["p", "d"]);
    let mut now = 0;
    for ticket in 0..40 {
        placer.submit(Ticket(ticket), request(300, 9, u128::from(ticket) * 1000));
        let [(_, id)] = placed(&said(&mut placer, at(now)))[..] else { panic!("it is idle") };
        // 10.2 ms are predicted.
        now += if ticket % 2 == 0 { 5 } else { 20 };
        placer.view_mut().first_token(id, at(now));
        placer.view_mut().release(id);
    }
    let long = |ticket: u64| request(260, 9, u128::from(ticket) * 1000);
    placer.submit(Ticket(40), RequestView { arrived: at(now), ..long(40) });
    assert_eq!(placed(&said(&mut placer, at(now))).len(), 1, "it is in no hurry and begins");
    for ticket in 41..44 {
        let strict =
            RequestView { arrived: at(now), refuse_late: true, ..within(50, long(ticket)) };
        placer.submit(Ticket(ticket), strict);
    }
    // One overtakes whoever is in no hurry; the others come after it, there as here.
    let first = placed(&said(&mut placer, at(now)));
    assert_eq!((first.len(), placer.waiting()), (1, 2));
}
