//! Nodes that stop, hang or crash without a word: what they had goes on elsewhere, and nobody can tell
//! (`exact-stream`, `same-tokens`); when they come back late, they are in nobody's way (`one-owner`).

use std::time::Duration;

use baton_tests::{Ask, Cluster, Engine, Generated, Options, Reference, generate_all, get, post};
use baton_types::{SamplingSpec, TokenId};
use serde_json::json;
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_secs(20);
/// In no vocabulary that the simulated engine draws from.
const DEADLY: u32 = 200;

pub(crate) fn asks(count: u32) -> Vec<Ask> {
    let prompt = |i: u32| (0..40 + 8 * i).map(|at| TokenId(33 + (at * 11 + i * 17) % 90)).collect();
    let ask = |i| Ask {
        prompt: prompt(i),
        max_tokens: 300,
        sampling: SamplingSpec::seeded(0.8, 500 + u64::from(i)),
    };
    (0..count).map(ask).collect()
}

pub(crate) fn check(asks: &[Ask], generated: &[Generated]) {
    let mut reference = Reference::sim().unwrap();
    for (ask, ours) in asks.iter().zip(generated) {
        assert_eq!(ours.bits(), reference.generate(ask).unwrap().bits(), "{:?}", ask.sampling);
    }
}

fn sample(cluster: &Cluster, name: &str) -> f64 {
    let metrics = get(&cluster.path("/metrics")).unwrap().body;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    line.unwrap_or(0.0)
}

fn lost(cluster: &Cluster, reason: &str) -> f64 {
    sample(cluster, &format!("baton_router_nodes_lost_total{{reason=\"{reason}\"}}"))
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Stops a node at work, reads what it was at work on to the end, and has it go on then.
async fn survives_a_stop(node: &str) {
    let options = Options::new(Engine::Sim)
        .nodes(2, 2)
        .set("engine.profile.prefill_token_us=2000.0")
        .set("engine.profile.decode_us=3000.0")
        .router_set("policy.local_tokens=0");
    let cluster = Cluster::start(&options).unwrap();
    let asks = asks(12);
    let stopped = cluster.child(node).unwrap();
    let has_work = || cluster.samples("baton_requests_running").unwrap()[node] >= 1.0;
    let stopping = async {
        eventually("the node has work", has_work).await;
        stopped.stop().unwrap();
    };
    let (generated, ()) = tokio::join!(generate_all(cluster.url(), "sim", &asks), stopping);
    check(&asks, &generated.unwrap());
    assert_eq!(lost(&cluster, "silent"), 1.0, "{node} was found silent");
    assert!(sample(&cluster, "baton_router_retries_total{reason=\"unreachable\"}") >= 1.0);

    stopped.resume().unwrap();
    let known = || {
        let of = |role| sample(&cluster, &format!("baton_router_nodes{{role=\"{role}\"}}"));
        of("prefill") + of("decode")
    };
    eventually("it is a member again", || known() == 4.0).await;
    cluster.wait_whole(PATIENCE).unwrap();
    check(&asks, &generate_all(cluster.url(), "sim", &asks).await.unwrap());
    cluster.wait_whole(PATIENCE).unwrap();
}

#[tokio::test]
async fn what_a_stopped_decode_node_had_goes_on_elsewhere() {
    survives_a_stop("decode-1").await;
}

#[tokio::test]
async fn what_a_stopped_prefill_node_had_goes_on_elsewhere() {
    survives_a_stop("prefill-1").await;
}

/// Sends something two nodes die of, beside others. Those are exact, and it is refused the third time.
async fn is_refused_the_third_time(cluster: &Cluster) {
    // From these is learned how long steps take.
    let short = asks(100).into_iter().map(|ask| Ask { max_tokens: 4, ..ask });
    generate_all(cluster.url(), "sim", &short.collect::<Vec<_>>()).await.unwrap();
    let asks = asks(8);
    let url = cluster.path("/v1/completions");
    let deadly = tokio::task::spawn_blocking(move || {
        let body = json!({ "model": "sim", "prompt": [40, 41, DEADLY, 43], "max_tokens": 5 });
        post(&url, &body).unwrap()
    });
    let (generated, deadly) = tokio::join!(generate_all(cluster.url(), "sim", &asks), deadly);
    check(&asks, &generated.unwrap());
    let deadly = deadly.unwrap();
    let error = &deadly.json().unwrap()["error"];
    assert_eq!((deadly.status, error["code"].as_str()), (422, Some("nodes_died")), "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("nodes died while they worked on this request"), "{error}");
}

/// Two nodes die of it; and a third one if others that might be the reason were there each time.
fn check_deaths(deaths: usize) {
    assert!((2..=3).contains(&deaths), "{deaths} nodes died");
}

fn dying(key: &str) -> Cluster {
    let options = Options::new(Engine::Sim)
        .nodes(4, 2)
        .set("engine.profile.decode_us=2000.0")
        .set(format!("engine.{key}={DEADLY}"))
        .router_set("policy.local_tokens=0");
    Cluster::start(&options).unwrap()
}

#[tokio::test]
async fn a_request_that_nodes_crash_of_is_refused_the_third_time() {
    let cluster = dying("panics_at");
    is_refused_the_third_time(&cluster).await;
    let deaths = lost(&cluster, "failed") as usize;
    check_deaths(deaths);
    let logs = cluster.logs().unwrap();
    let why = "it failed: the step loop panicked: the simulated engine was told to panic";
    assert_eq!(logs["router"].matches(why).count(), deaths, "each says why it ends");
}

#[tokio::test]
async fn a_node_whose_step_hangs_counts_as_dead_until_it_ends() {
    let cluster = dying("hangs_at");
    is_refused_the_third_time(&cluster).await;
    let deaths = lost(&cluster, "stuck") as usize;
    check_deaths(deaths);
    let router = |what: &str| cluster.logs().unwrap()["router"].matches(what).count();
    eventually("they get requests again", || router("it gets requests again") == deaths).await;
    cluster.wait_whole(PATIENCE).unwrap();
    check(&asks(8), &generate_all(cluster.url(), "sim", &asks(8)).await.unwrap());
}
