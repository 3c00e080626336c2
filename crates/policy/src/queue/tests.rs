use std::collections::BTreeMap;

use baton_types::Slo;
use proptest::prelude::*;

use super::*;
use crate::{Tenant, TenantId};

const MS: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(30);

fn at(ms: u32) -> Time {
    Time::ZERO + ms * MS
}

fn request(arrived: u32, ttft: Option<u32>) -> RequestView {
    RequestView {
        slo: Slo { ttft: ttft.map(|ttft| ttft * MS), tpot: None },
        arrived: at(arrived),
        ..RequestView::new("m".into())
    }
}

fn of(tenant: &str, share: f64, request: RequestView) -> RequestView {
    RequestView { tenant: Tenant { id: TenantId(tenant.into()), share }, ..request }
}

fn enter(queue: &mut Queue, ticket: u64, request: RequestView, compute: u32) {
    queue.enter(Ticket(ticket), request, compute * MS, compute * MS, LONGEST);
}

fn order(queue: &Queue) -> Vec<u64> {
    queue.order().map(|(ticket, _)| ticket.0).collect()
}

fn class(priority: u8, service: Service, request: RequestView) -> RequestView {
    RequestView { class: Class { priority, service, ..Class::default() }, ..request }
}

#[test]
fn least_slack_goes_first_and_late_and_batch_last() {
    let mut queue = Queue::default();
    let begun = RequestView { has_begun: true, ..request(9, Some(1)) };
    for (ticket, request, compute) in [
        (1, class(0, Service::Batch, request(0, None)), 1),
        (2, request(0, None), 1),
        (3, request(0, Some(500)), 100),
        (4, request(5, Some(450)), 10),
        (5, request(1, Some(900)), 600),
        (6, begun, 1),
        (7, request(1, None), 1),
    ] {
        enter(&mut queue, ticket, request, compute);
    }
    assert_eq!(order(&queue), [6, 5, 3, 4, 2, 7, 1]);
    queue.is_late(Ticket(5));
    queue.is_late(Ticket(1));
    assert_eq!(order(&queue), [6, 3, 4, 2, 7, 5, 1]);
    assert_eq!(queue.before(&request(9, None)), 6);
    assert!(queue.leave(Ticket(3)).is_some() && queue.leave(Ticket(3)).is_none());
    assert_eq!(order(&queue), [6, 4, 2, 7, 5, 1]);
}

#[test]
fn of_those_that_have_begun_who_is_furthest_behind_goes_first() {
    let mut queue = Queue::default();
    for (ticket, arrived, due, compute) in [
        (1, 0, Some(900), 100),
        (2, 500, Some(300), 100),
        (3, 200, Some(850), 100),
        // Nobody has had a token of it.
        (4, 100, None, 100),
        (5, 400, Some(700), 600),
    ] {
        let request = RequestView {
            has_begun: true,
            next_due: due.map(at),
            tenant: Tenant { id: TenantId(ticket.to_string().into()), share: 1.0 },
            ..request(arrived, due.is_none().then_some(500))
        };
        enter(&mut queue, ticket, request, compute);
    }
    assert_eq!(order(&queue), [5, 2, 4, 3, 1]);
}

#[test]
fn the_longest_gives_way_when_not_all_can_be_in_time() {
    let mut queue = Queue::default();
    for (ticket, ttft, compute) in [(1, 300, 250), (2, 310, 100), (3, 320, 100), (4, 330, 100)] {
        enter(&mut queue, ticket, request(0, Some(ttft)), compute);
    }
    assert_eq!(order(&queue)[0], 1, "it has the least slack");
    queue.sacrifice(Time::ZERO, &[], 1);
    assert_eq!(order(&queue), [2, 3, 4, 1]);
    queue.sacrifice(Time::ZERO, &[], 4);
    assert_eq!(order(&queue)[0], 1, "with four nodes all are in time");
    queue.sacrifice(Time::ZERO, &[(Time::ZERO, 150 * MS)], 1);
    let in_time = order(&queue).len() - queue.given_way.len();
    assert_eq!(in_time, 1, "after a backlog only one is: {:?}", queue.given_way);
}

#[test]
fn a_higher_class_goes_first_and_gives_nothing_up_for_a_lower() {
    let mut queue = Queue::default();
    for (ticket, priority, ttft, compute) in
        [(1, 1, Some(200), 100), (2, 1, None, 10), (3, 9, Some(900), 400), (4, 9, None, 10)]
    {
        let request = class(priority, Service::Interactive, request(0, ttft));
        enter(&mut queue, ticket, request, compute);
    }
    enter(&mut queue, 5, class(255, Service::Batch, request(0, None)), 1);
    assert_eq!(order(&queue), [3, 4, 1, 2, 5]);
    queue.sacrifice(Time::ZERO, &[], 1);
    assert_eq!(order(&queue), [3, 4, 2, 1, 5], "the lower's objective is out of reach");
    queue.is_late(Ticket(3));
    assert_eq!(order(&queue), [4, 3, 2, 1, 5], "late as it is it goes before a lower class");
    let newcomer = |priority| class(priority, Service::Interactive, request(9, None));
    let before = [1, 9, 10].map(|priority| queue.before(&newcomer(priority)));
    assert_eq!(before, [4, 2, 0]);
}

#[test]
fn who_has_had_most_gives_way_first_not_who_is_longest() {
    let mut queue = Queue::default();
    enter(&mut queue, 1, of("a", 1.0, request(0, Some(500))), 200);
    for ticket in 2..=9 {
        enter(&mut queue, ticket, of("b", 1.0, request(0, Some(500))), 90);
    }
    queue.sacrifice(Time::ZERO, &[], 1);
    let given_way: Vec<u64> = queue.given_way.iter().map(|rank| rank.ticket.0).collect();
    assert!(!given_way.contains(&1), "{given_way:?}");
    assert!(given_way.len() >= 5, "{given_way:?}");
}

#[test]
fn a_flood_without_objectives_does_not_keep_another_tenant_waiting() {
    let mut queue = Queue::default();
    for ticket in 1..=100 {
        enter(&mut queue, ticket, of("flood", 1.0, request(0, None)), 10);
    }
    for ticket in 101..=103 {
        enter(&mut queue, ticket, of("other", 2.0, request(50, None)), 10);
    }
    assert_eq!(order(&queue)[..6], [1, 101, 102, 2, 103, 3], "two for one");
    let newcomer = |tenant, share| queue.before(&of(tenant, share, request(60, None)));
    assert_eq!(newcomer("flood", 1.0), 300, "a hundred for each of three shares");
    assert_eq!(newcomer("other", 2.0), 5);
    assert_eq!(newcomer("third", 1.0), 0);
}

#[derive(Clone, Debug)]
struct Asks {
    arrived: u32,
    ttft: Option<u32>,
    compute: u32,
    kind: u8,
    late: bool,
}

fn asks() -> impl Strategy<Value = Asks> {
    (0..900_u32, prop::option::of(1..3000_u32), 0..400_u32, 0..8_u8, any::<bool>()).prop_map(
        |(arrived, ttft, compute, kind, late)| Asks { arrived, ttft, compute, kind, late },
    )
}

/// Where a request stands among those of one tenant and one priority: what kind it is of, when it
/// must begin, and its number.
type Place = (u8, Time, u64);

/// Moore and Hodgson's, plainly: those that give way.
fn given_way(
    now: Time,
    waiting: &BTreeMap<Place, (Duration, bool)>,
    backlog: &[(Time, Duration)],
    machines: u32,
) -> Vec<u64> {
    let (mut end, mut kept, mut out, mut done) = (now, Vec::new(), Vec::new(), 0);
    for (&(kind, latest, ticket), &(compute, aims)) in waiting {
        if kind != 1 || !aims {
            continue;
        }
        while let Some((_, left)) = backlog.get(done).filter(|(due, _)| *due <= latest) {
            end += *left / machines;
            done += 1;
        }
        kept.push((compute / machines, latest, ticket));
        end += compute / machines;
        if now + (end - (now + compute / machines)) > latest {
            kept.sort_unstable();
            let (longest, _, ticket) = kept.pop().expect("one was just put there");
            end = now + (end - now).saturating_sub(longest);
            out.push(ticket);
        }
    }
    out
}

proptest! {
    /// With one tenant and one priority, tenants and priorities change nothing: the order is by
    /// deadlines, without those that Moore and Hodgson's rule takes out.
    #[test]
    fn one_tenant_alone_is_served_as_if_there_were_none(
        asked in prop::collection::vec(asks(), 0..60),
        backlog in prop::collection::vec((0..2000_u32, 0..300_u32), 0..6),
        machines in 1..5_u32,
        now in 0..1500_u32,
    ) {
        let (mut queue, mut waiting) = (Queue::default(), BTreeMap::new());
        for (ticket, asks) in (0..).zip(&asked) {
            let kind = match asks.kind { 0 => 0, 7 => 3, _ => 1 };
            let view = request(asks.arrived, asks.ttft);
            let view = match kind {
                0 => RequestView { has_begun: true, ..view },
                3 => class(4, Service::Batch, view),
                _ => class(4, Service::Interactive, view),
            };
            enter(&mut queue, ticket, of("one", 3.0, view), asks.compute);
            let is_late = kind == 1 && asks.late && asks.kind > 4;
            if is_late {
                queue.is_late(Ticket(ticket));
            }
            let compute = asks.compute * MS;
            let within = asks.ttft.map_or(LONGEST, |ttft| (ttft * MS).saturating_sub(compute));
            let place = (if is_late { 2 } else { kind }, at(asks.arrived) + within, ticket);
            waiting.insert(place, (compute, asks.ttft.is_some()));
        }
        let mut backlog: Vec<_> = backlog.iter().map(|&(due, ms)| (at(due), ms * MS)).collect();
        backlog.sort_unstable();
        queue.sacrifice(at(now), &backlog, machines);
        let out = given_way(at(now), &waiting, &backlog, machines);
        let (firsts, rest): (Vec<Place>, _) =
            waiting.keys().partition(|(kind, _, ticket)| *kind < 2 && !out.contains(ticket));
        let expected: Vec<u64> = firsts.iter().chain(&rest).map(|(_, _, ticket)| *ticket).collect();
        prop_assert_eq!(order(&queue), expected);
    }

    /// `fair-share`, over every interval in which two tenants wait; and `no-starving`: whoever waits
    /// is served. Both whatever the shares, the lengths, and whoever else comes and goes.
    #[test]
    fn what_tenants_get_while_they_wait_differs_by_little(
        shares in prop::collection::vec(1..6_u32, 2..5),
        comes in prop::collection::vec((0..5_usize, 1..200_u32, any::<bool>()), 1..200),
    ) {
        let names: Vec<String> = (0..shares.len()).map(|at| at.to_string()).collect();
        let mut queue = Queue::default();
        let mut waits = vec![0_usize; shares.len()];
        let mut had = vec![0.0_f64; shares.len()];
        // Since when both of two wait, their difference then at the least and at the most.
        let mut seen: BTreeMap<(usize, usize), (f64, f64)> = BTreeMap::new();
        let bound = 2.0 * 200.0;
        for (ticket, (tenant, cost, serve)) in (0..).zip(comes) {
            let tenant = tenant % shares.len();
            let view = of(&names[tenant], shares[tenant].into(), request(0, None));
            enter(&mut queue, ticket, view, cost);
            waits[tenant] += 1;
            if serve {
                let first = queue.order().next().map(|(ticket, _)| ticket);
                let first = first.expect("one waits");
                let served = queue.serve(first).expect("it waits");
                let tenant: usize = served.request.tenant.id.0.parse().expect("a number");
                waits[tenant] -= 1;
                had[tenant] += served.compute.as_secs_f64() * 1e3 / f64::from(shares[tenant]);
            }
            for a in 0..shares.len() {
                for b in a + 1..shares.len() {
                    if waits[a] == 0 || waits[b] == 0 {
                        seen.remove(&(a, b));
                        continue;
                    }
                    let now = had[a] - had[b];
                    let (least, most) = seen.entry((a, b)).or_insert((now, now));
                    (*least, *most) = (least.min(now), most.max(now));
                    prop_assert!(*most - *least <= bound, "{a} and {b}: {least} to {most}");
                }
            }
        }
        for _ in 0..queue.len() {
            let first = queue.order().next().map(|(ticket, _)| ticket);
            prop_assert!(first.and_then(|first| queue.serve(first)).is_some());
        }
        prop_assert!(queue.is_empty() && queue.lanes.is_empty());
    }

    /// Work-conserving: whoever waits is in the order, once, whatever tenants, classes and lateness.
    #[test]
    fn everybody_who_waits_has_a_turn(
        asked in prop::collection::vec((asks(), 0..4_u8, 0..3_u8), 0..60),
        now in 0..1500_u32,
    ) {
        let mut queue = Queue::default();
        for (ticket, (asks, tenant, priority)) in (0..).zip(&asked) {
            let service = if asks.kind == 7 { Service::Batch } else { Service::Interactive };
            let view = class(*priority, service, request(asks.arrived, asks.ttft));
            enter(&mut queue, ticket, of(&tenant.to_string(), 1.0, view), asks.compute);
            if asks.late {
                queue.is_late(Ticket(ticket));
            }
        }
        queue.sacrifice(at(now), &[], 1);
        let mut order = order(&queue);
        order.sort_unstable();
        prop_assert_eq!(order, (0..asked.len() as u64).collect::<Vec<_>>());
    }

    /// `isolation`: a tenant that floods makes none of another's late, as long as the other asks for
    /// less than its share; but for the one that is being served, which nobody interrupts.
    #[test]
    fn a_flood_makes_nobody_late_who_stays_within_its_share(
        flood in (10..40_u32, 20..80_u32, 200..900_u32),
        other in (20..80_u32, 300..900_u32),
        jitter in prop::collection::vec(0..=20_u32, 20),
    ) {
        let ((gap, long, patience), (short, target)) = (flood, other);
        let mut comes: Vec<(u32, &str, u32, u32)> =
            (0..2000 / gap).map(|nth| (nth * gap, "flood", long, patience)).collect();
        // At most 45 % of the time, and half a period apart: two that come together ask for more than that until
        // they are due.
        let period = short * 20 / 9 + 1;
        comes.extend((0..).zip(&jitter).map(|(nth, late)| {
            (500 + nth * period + late * period / 40, "other", short, target)
        }));
        comes.sort_unstable();
        let late = late_of("other", &comes, long);
        prop_assert!(late.is_empty(), "late: {late:?}");
    }
}

/// Serves all of one queue, one after the other, and says how late those of `tenant` began that were
/// more than `grace` milliseconds late; the flood's late ones are dropped.
fn late_of(tenant: &str, comes: &[(u32, &str, u32, u32)], grace: u32) -> Vec<Duration> {
    let (mut queue, mut now, mut next, mut late) = (Queue::default(), Time::ZERO, 0, Vec::new());
    loop {
        while let Some(&(arrives, name, compute, ttft)) = comes.get(next)
            && (at(arrives) <= now || queue.is_empty())
        {
            now = now.max(at(arrives));
            let view = of(name, 1.0, request(arrives, Some(ttft)));
            enter(&mut queue, next as u64, view, compute);
            next += 1;
        }
        queue.sacrifice(now, &[], 1);
        let Some((ticket, first)) = queue.order().next() else { return late };
        let is_own = &*first.request.tenant.id.0 == tenant;
        let ttft = first.request.slo.ttft.unwrap_or_default();
        let latest = first.request.arrived + ttft.saturating_sub(first.compute);
        if is_own && now > latest + grace * MS {
            late.push(now - latest);
        }
        if !is_own && now > latest {
            queue.leave(ticket);
            continue;
        }
        now += first.compute;
        queue.serve(ticket);
    }
}

#[test]
fn without_tenants_the_flood_does_make_others_late() {
    let flood = |name| (0..300).map(move |nth| (nth * 10, name, 40, 600));
    let other = |name| (0..20).map(move |nth| (500 + nth * 150, name, 60, 500));
    let late = |flooder, victim| {
        let mut comes: Vec<_> = flood(flooder).chain(other(victim)).collect();
        comes.sort_unstable();
        // Of one tenant the longer ones are the victim's.
        late_of("victim", &comes, 40).len()
    };
    assert_eq!(late("flooder", "victim"), 0);
    assert!(late("victim", "victim") > 0);
}
