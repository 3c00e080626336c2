//! The network is cut between processes that all live: what needs the way that is gone goes another, and nobody can
//! tell (`exact-stream`, `same-tokens`, `one-owner`).

use std::time::Duration;

use baton_tests::{Apart, Engine, Options, generate_all};
use tokio::time::{Instant, sleep};

use crate::detection::{asks, check};

const PATIENCE: Duration = Duration::from_secs(30);

fn options(prefill: u32, decode: u32) -> Options {
    Options::new(Engine::Sim)
        .nodes(prefill, decode)
        .set("engine.profile.prefill_token_us=1000.0")
        .set("engine.profile.decode_us=3000.0")
        .router_set("policy.local_tokens=0")
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Parts `one` from `other` while the node `at_work` has work, and heals that once everybody has what was asked for.
async fn survives(one: &str, other: &str, at_work: &str) -> Apart {
    let cluster = Apart::start(&options(2, 2)).unwrap();
    let (url, asks) = (cluster.url(), asks(12));
    let has_work = || cluster.samples("baton_requests_running").unwrap()[at_work] >= 1.0;
    let parting = async {
        eventually("the node has work", has_work).await;
        cluster.part(one, other).unwrap();
    };
    let (generated, ()) = tokio::join!(generate_all(&url, "sim", &asks), parting);
    check(&asks, &generated.unwrap());
    cluster.heal(one, other).unwrap();
    eventually("all are members", || cluster.members().unwrap() == 4).await;
    cluster.wait_whole(PATIENCE).unwrap();
    check(&asks, &generate_all(&cluster.url(), "sim", &asks).await.unwrap());
    cluster.wait_whole(PATIENCE).unwrap();
    cluster
}

fn lost(cluster: &Apart) -> f64 {
    cluster.sample("baton_router_nodes_lost_total{reason=\"silent\"}").unwrap()
}

#[tokio::test]
async fn a_decode_node_that_is_cut_off_from_the_router_loses_nothing() {
    let cluster = survives("router", "decode-1", "decode-1").await;
    assert_eq!(lost(&cluster), 1.0);
}

#[tokio::test]
async fn a_prefill_node_that_is_cut_off_from_the_router_loses_nothing() {
    let cluster = survives("router", "prefill-1", "prefill-1").await;
    assert_eq!(lost(&cluster), 1.0);
}

/// The control plane works, and the pages don't come.
#[tokio::test]
async fn nodes_that_are_cut_off_from_each_other_serve_with_others() {
    let cluster = survives("prefill-1", "decode-1", "prefill-1").await;
    assert_eq!(lost(&cluster), 0.0, "the router hears both");
}

/// Those that find it out wait for pages that don't come; those that come later go another way.
#[tokio::test]
async fn a_link_that_fails_is_tried_by_one_in_a_while() {
    let cluster = Apart::start(&options(2, 2)).unwrap();
    cluster.part("prefill-1", "decode-1").unwrap();
    let failed = || cluster.sample("baton_router_retries_total{reason=\"hand_over\"}").unwrap();
    let asks = asks(12);
    check(&asks, &generate_all(&cluster.url(), "sim", &asks).await.unwrap());
    let found = failed();
    assert!(found >= 1.0, "somebody found it out");
    for _ in 0..3 {
        check(&asks, &generate_all(&cluster.url(), "sim", &asks).await.unwrap());
    }
    // Without it a quarter of 36 would have met it.
    let later = failed() - found;
    assert!(later <= 3.0, "{later} of 36 met it again");
    cluster.heal("prefill-1", "decode-1").unwrap();
    cluster.wait_whole(PATIENCE).unwrap();
}
