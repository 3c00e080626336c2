//! Tenants at the desk, over whole nodes.

use std::time::Duration;

use baton_policy::{PolicyConfig, Refusal, RequestView, Tenant, TenantId, Ticket, Verdict};

use crate::{
    cluster::request,
    placer::{at, placer, said},
};

fn of(tenant: &str, ticket: u64) -> RequestView {
    let tenant = Tenant { id: TenantId(tenant.into()), share: 1.0 };
    RequestView { tenant, ..request(300, 9, u128::from(ticket) * 1000) }
}

#[test]
fn a_flood_neither_fills_the_queue_for_others_nor_keeps_them_waiting() {
    let config = PolicyConfig { max_queued: 8, ..PolicyConfig::default() };
    let mut placer = placer(config, &["p", "d"]);
    for ticket in 1..=40 {
        placer.submit(Ticket(ticket), of("flood", ticket));
    }
    let first = said(&mut placer, at(0));
    let inside: Vec<_> = first.iter().filter(|(_, v)| matches!(v, Verdict::Placed(..))).collect();
    assert!(inside.len() <= 3, "the rest waits: {inside:?}");
    placer.submit(Ticket(50), of("other", 50));
    placer.submit(Ticket(51), of("other", 51));
    let (mut order, mut refused, mut now) = (Vec::new(), Vec::new(), at(0));
    while order.len() < 4 {
        now = placer.poll_timeout().expect("some wait").max(now) + Duration::from_millis(1);
        for (ticket, verdict) in said(&mut placer, now) {
            match verdict {
                Verdict::Placed(id, _) => {
                    order.push(ticket);
                    placer.view_mut().first_token(id, now);
                    placer.view_mut().finished(id, 9, now);
                }
                Verdict::Refused(Refusal::Full { .. }) => refused.push(ticket),
                Verdict::Refused(refusal) => panic!("{ticket}: {refusal}"),
            }
        }
    }
    assert!(refused.iter().all(|ticket| *ticket < 50), "{refused:?}");
    let others = order.iter().filter(|ticket| **ticket >= 50).count();
    assert_eq!(others, 2, "by turns: {order:?}");
}
