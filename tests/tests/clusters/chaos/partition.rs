//! What one process sends to another is lost, though it hears that one; and nobody hears etcd, or it says nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use baton_tests::{Answer, Apart, Ask, Engine, Options, Progress, Reference};

use super::{PATIENCE, ask, check, kills, reader, until};

/// How long etcd is away, in seconds; longer than the routers' leases there.
fn away() -> Duration {
    Duration::from_secs(std::env::var("BATON_ETCD_AWAY").map_or(3, |away| away.parse().unwrap()))
}

fn options() -> Options {
    let options = Options::new(Engine::Sim)
        .nodes(2, 2)
        .set("engine.profile.prefill_token_us=500.0")
        .set("engine.profile.decode_us=3000.0")
        .set("registry.lease=\"2s\"")
        .router_set("registry.lease=\"2s\"")
        .router_set("policy.local_tokens=0")
        .router_set("timeouts.resume=500ms");
    Options { routers: 2, ..options }
}

/// Asks at both routers, has something happen when the node `at_work` has work, or when somebody has a token if none is
/// named, and checks every token.
fn meanwhile(
    cluster: &Apart,
    reference: &mut Reference,
    at_work: Option<&str>,
    from: u32,
    happens: impl FnOnce(),
) -> Vec<Answer> {
    let asks: Vec<(Ask, Arc<Progress>)> =
        (from..from + 12).map(|variety| (ask(variety, 100, 150), Arc::default())).collect();
    let reader = reader(cluster);
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let reading = asks.iter().enumerate().map(|(at, (ask, progress))| {
            let reader = &reader;
            scope.spawn(move || reader.read(ask, at, progress).unwrap())
        });
        let reading: Vec<_> = reading.collect();
        until("there is work", || match at_work {
            Some(node) => cluster.sample_of(node, "baton_requests_running") > 0.0,
            None => asks.iter().any(|(_, progress)| progress.tokens() > 0),
        });
        happens();
        assert!(reading.iter().any(|answer| !answer.is_finished()), "they had ended before");
        reading.into_iter().map(|answer| answer.join().unwrap()).collect()
    });
    for ((ask, _), answer) in asks.iter().zip(&answers) {
        check(reference, ask, answer);
    }
    answers
}

/// What its packets say is lost, and what says that the other's came.
#[test]
fn a_way_that_is_cut_in_one_direction_costs_nobody_a_token() {
    let cluster = Apart::start(&options()).unwrap();
    let mut reference = Reference::sim().unwrap();
    let mut from = 0;
    let ways = [
        ("router", "decode-1", "decode-1"),
        ("router", "prefill-1", "prefill-1"),
        ("prefill-1", "decode-1", "prefill-1"),
    ];
    for (one, other, at_work) in ways {
        for (speaks, hears) in [(one, other), (other, one)] {
            let cut = || cluster.cut(speaks, hears).unwrap();
            meanwhile(&cluster, &mut reference, Some(at_work), from, cut);
            cluster.heal(one, other).unwrap();
            let idle = cluster.wait_idle(PATIENCE);
            idle.unwrap_or_else(|error| panic!("{speaks} to {hears}: {error:#}"));
            from += 12;
        }
    }
}

/// Whoever doesn't reach etcd goes on with what was known last: no request waits, and no node is lost.
#[test]
fn etcd_may_be_out_of_reach_of_anybody_or_say_nothing() {
    let cluster = Apart::start_with_etcd(&options()).unwrap();
    let mut reference = Reference::sim().unwrap();
    let everybody = ["router", "router-2", "prefill-1", "prefill-2", "decode-1", "decode-2"];
    let all = |to: fn(&Apart, &str) -> anyhow::Result<()>, who: &[&str]| {
        who.iter().for_each(|name| to(&cluster, name).unwrap());
    };
    let part: fn(&Apart, &str) -> _ = |cluster, name| cluster.part(name, "etcd");
    let mute: fn(&Apart, &str) -> _ = |cluster, name| cluster.cut("etcd", name);
    let stop: fn(&Apart, &str) -> _ = |cluster, _name| Ok(cluster.process("etcd")?.stop()?);
    let mut from = 0;
    for (happens, who) in [
        (part, &everybody[..1]),
        (part, &everybody[2..]),
        (mute, &everybody[..]),
        (stop, &everybody[..]),
    ] {
        let begun = Instant::now();
        let mut disturbed = meanwhile(&cluster, &mut reference, None, from, || all(happens, who));
        from += 12;
        while begun.elapsed() < away() {
            disturbed.extend(meanwhile(&cluster, &mut reference, None, from, || ()));
            from += 12;
        }
        let is_disturbed = |answer: &Answer| (answer.resumed, answer.put_off) != (0, 0);
        assert!(!disturbed.iter().any(is_disturbed), "{disturbed:?}");
        cluster.process("etcd").unwrap().resume().unwrap();
        everybody.iter().for_each(|name| drop(cluster.heal(name, "etcd")));
        cluster.wait_idle(PATIENCE).unwrap();
        for router in cluster.routers() {
            for reason in ["silent", "broken", "left", "failed"] {
                let name = format!("baton_router_nodes_lost_total{{reason=\"{reason}\"}}");
                assert_eq!(
                    cluster.sample_of(&router, &name),
                    0.0,
                    "{router} lost a node: {reason}"
                );
            }
        }
        let leads = |router: &String| cluster.sample_of(router, "baton_router_leads") == 1.0;
        until("one leads", || cluster.routers().iter().filter(|router| leads(router)).count() == 1);
    }
}

#[test]
fn whoever_ends_stops_or_is_cut_off_at_random_costs_nobody_a_token() {
    kills::endure(kills::apart(), true);
}
