//! Several routers share the nodes: each answers for its own requests, and none needs another.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use baton_proto::v1::{
    DrainRequest, MigrateRequest, Phase, SetRoleRequest, operations_client::OperationsClient,
};
use baton_tests::{
    Ask, Cluster, Engine, Etcd, Generated, Options, Reference, baton, begin, generate_all, get,
    post,
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::migration::ask;

const PATIENCE: Duration = Duration::from_secs(15);

fn sample(url: &str, name: &str) -> Option<f64> {
    let metrics = get(&format!("{url}/metrics")).ok()?.body;
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Nodes that a router knows.
fn nodes(url: &str) -> f64 {
    let of = |role| sample(url, &format!("baton_router_nodes{{role=\"{role}\"}}"));
    of("prefill").unwrap_or(0.0) + of("decode").unwrap_or(0.0)
}

/// The routers that lead, of those that answer.
fn leaders(urls: &[String]) -> Vec<&str> {
    let leads = |url: &&String| sample(url, "baton_router_leads") == Some(1.0);
    urls.iter().filter(leads).map(String::as_str).collect()
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn check(asks: &[Ask], generated: &[Generated], reference: &mut Reference) {
    for (ask, ours) in asks.iter().zip(generated) {
        assert_eq!(ours.bits(), reference.generate(ask).unwrap().bits(), "{:?}", ask.sampling);
    }
}

fn options() -> Options {
    let options = Options::new(Engine::Sim).nodes(1, 2).set("engine.profile.decode_us=3000.0");
    Options { routers: 2, ..options }
}

#[tokio::test]
async fn routers_share_nodes_and_the_death_of_one_costs_the_others_nothing() {
    let cluster = Cluster::start(&options()).unwrap();
    let mut reference = Reference::sim().unwrap();
    let [first, second] = cluster.urls() else { panic!("two routers") };
    assert_eq!((nodes(first), nodes(second)), (3.0, 3.0));

    let asks: Vec<Ask> = (0..8).map(|i| ask(50, i, 300)).collect();
    let (ours, others) =
        tokio::join!(generate_all(first, "sim", &asks), generate_all(second, "sim", &asks));
    check(&asks, &ours.unwrap(), &mut reference);
    check(&asks, &others.unwrap(), &mut reference);

    // Each moves its own.
    let begun = begin(second, "sim", &asks[0]).await.unwrap();
    let request_id = begun.request_id.clone();
    let request = MigrateRequest { request_id, node: String::new() };
    let mut strangers = OperationsClient::connect(first.clone()).await.unwrap();
    assert!(strangers.migrate(request.clone()).await.is_err(), "it is the other's");
    let mut owners = OperationsClient::connect(second.clone()).await.unwrap();
    let moved = owners.migrate(request).await.unwrap().into_inner();
    assert_eq!(moved.migrations.len(), 1, "{moved:?}");
    check(&asks[..1], &[begun.rest().await.unwrap()], &mut reference);

    let lost: Vec<_> = {
        let begun = asks.iter().map(|ask| begin(second, "sim", ask));
        futures::future::try_join_all(begun).await.unwrap()
    };
    let (ours, ()) = tokio::join!(generate_all(first, "sim", &asks), async {
        cluster.router_at(second).unwrap().kill().unwrap();
    });
    check(&asks, &ours.unwrap(), &mut reference);
    for begun in lost {
        assert!(begun.rest().await.is_err(), "its router is dead");
    }
    // What it had asked for is given back.
    cluster.wait_whole(PATIENCE).unwrap();
}

/// Every router hears that a node drains to take another role, and each moves its own requests.
#[tokio::test]
async fn a_node_that_changes_roles_is_left_by_the_requests_of_all_routers() {
    let cluster = Cluster::start(&options()).unwrap();
    let mut reference = Reference::sim().unwrap();
    let [first, second] = cluster.urls() else { panic!("two routers") };
    let asks: Vec<Ask> = (0..6).map(|i| ask(50, i, 400)).collect();
    let changing = async {
        let decoding = || sample(first, "baton_router_in_flight") == Some(6.0);
        eventually("all run", decoding).await;
        let mut operations = OperationsClient::connect(first.clone()).await.unwrap();
        let (node, role) = ("decode-1".to_owned(), Phase::Prefill.into());
        let request = SetRoleRequest { node, role, wait_us: 10_000_000 };
        let changed = operations.set_role(request).await.unwrap().into_inner();
        assert!(changed.done, "{changed:?}");
    };
    let (ours, others, ()) = tokio::join!(
        generate_all(first, "sim", &asks),
        generate_all(second, "sim", &asks),
        changing
    );
    check(&asks, &ours.unwrap(), &mut reference);
    check(&asks, &others.unwrap(), &mut reference);
    for url in [first, second] {
        let prefill = || sample(url, "baton_router_nodes{role=\"prefill\"}") == Some(2.0);
        eventually("each knows its new role", prefill).await;
    }
    cluster.wait_whole(PATIENCE).unwrap();
}

/// Whoever is asked, all routers send nothing more there, until one of them is asked to do again.
#[tokio::test]
async fn a_node_is_drained_by_all_routers() {
    let cluster = Cluster::start(&options()).unwrap();
    let mut reference = Reference::sim().unwrap();
    let [first, second] = cluster.urls() else { panic!("two routers") };
    let asks: Vec<Ask> = (0..6).map(|i| ask(50, i, 400)).collect();
    let drain = DrainRequest { node: "decode-1".to_owned(), wait_us: 10_000_000, cancel: false };
    let draining = async {
        let running = |url| move || sample(url, "baton_router_in_flight") == Some(6.0);
        eventually("all run", running(first)).await;
        eventually("all run", running(second)).await;
        let mut operations = OperationsClient::connect(first.clone()).await.unwrap();
        let drained = operations.drain(drain.clone()).await.unwrap().into_inner();
        assert_eq!(drained.left, 0, "those of the other router counted");
        let left = cluster.samples("baton_requests_running").unwrap()["decode-1"];
        assert_eq!(left, 0.0);
    };
    let (ours, others, ()) = tokio::join!(
        generate_all(first, "sim", &asks),
        generate_all(second, "sim", &asks),
        draining
    );
    check(&asks, &ours.unwrap(), &mut reference);
    check(&asks, &others.unwrap(), &mut reference);

    let decoded_by = async |url: &str| {
        let generated = generate_all(url, "sim", &asks).await.unwrap();
        let nodes = generated.into_iter().map(|one| one.complete.unwrap().timings.unwrap());
        nodes.map(|timings| timings.decode_node).collect::<BTreeSet<_>>()
    };
    for url in [first, second] {
        assert_eq!(decoded_by(url).await, ["decode-2".to_owned()].into());
    }
    let mut operations = OperationsClient::connect(second.clone()).await.unwrap();
    operations.drain(DrainRequest { cancel: true, ..drain }).await.unwrap();
    for url in [first, second] {
        let begun = Instant::now();
        while decoded_by(url).await.len() < 2 {
            assert!(begun.elapsed() < PATIENCE, "decode-1 gets nothing from {url}");
        }
    }
    cluster.wait_whole(PATIENCE).unwrap();
}

#[tokio::test]
async fn routers_and_nodes_find_each_other_in_etcd_and_outlive_it() {
    let mut etcd = Etcd::start().unwrap();
    let options = Options { etcd: Some(etcd.url()), ..options() }
        .set("registry.lease=\"2s\"")
        .router_set("registry.lease=\"2s\"");
    let cluster = Cluster::start(&options).unwrap();
    let mut reference = Reference::sim().unwrap();
    let urls = cluster.urls();
    eventually("one leads", || leaders(urls).len() == 1).await;

    let asks: Vec<Ask> = (0..4).map(|i| ask(50, i, 300)).collect();
    let generations = || cluster.samples("baton_steps_total").unwrap();
    let before = generations();
    for empty in [false, true] {
        etcd.kill().unwrap();
        if empty {
            etcd.wipe().unwrap();
        }
        // Longer than a lease: nobody leads, and everybody is served.
        eventually("nobody leads", || leaders(urls).is_empty()).await;
        for url in urls {
            check(&asks, &generate_all(url, "sim", &asks).await.unwrap(), &mut reference);
            assert_eq!(nodes(url), 3.0, "everybody goes on with what was known last");
        }
        etcd.restart().unwrap();
        eventually("one leads again", || leaders(urls).len() == 1).await;
        for url in urls {
            check(&asks, &generate_all(url, "sim", &asks).await.unwrap(), &mut reference);
            assert_eq!(nodes(url), 3.0);
        }
    }
    let after = generations();
    assert!(before.iter().all(|(node, steps)| after[node] > *steps), "nobody was restarted");

    let leader = leaders(urls)[0].to_owned();
    let other = urls.iter().find(|url| **url != leader).unwrap();
    cluster.router_at(&leader).unwrap().kill().unwrap();
    eventually("the other leads", || leaders(urls) == [other]).await;
    check(&asks, &generate_all(other, "sim", &asks).await.unwrap(), &mut reference);
    cluster.wait_whole(PATIENCE).unwrap();
}

/// What comes to one router is news to the other, which is the one that leads.
#[tokio::test]
async fn the_leader_gives_roles_for_what_comes_to_all_routers() {
    let etcd = Etcd::start().unwrap();
    let options = Options::new(Engine::Sim)
        .nodes(1, 3)
        .set("engine.profile.prefill_token_us=10000")
        .router_set("latency.default.prefill_token_us=10000")
        .router_set("registry.lease=\"2s\"")
        .router_set("advice.every=\"200ms\"")
        .router_set("roles.enabled=true")
        .router_set("roles.after=\"400ms\"");
    let options = Options { routers: 2, etcd: Some(etcd.url()), ..options };
    let cluster = Cluster::start(&options).unwrap();
    let urls = cluster.urls();
    eventually("one leads", || leaders(urls).len() == 1).await;
    let leader = leaders(urls)[0].to_owned();
    let other = urls.iter().find(|url| **url != leader).unwrap();
    std::thread::scope(|scope| {
        for number in 0..40 {
            let prompt = format!("{number} words that nobody has cached");
            let body = json!({ "model": "sim", "prompt": prompt, "max_tokens": 2 });
            let url = if number == 0 { &leader } else { other };
            let url = format!("{url}/v1/completions");
            scope.spawn(move || assert_eq!(post(&url, &body).unwrap().status, 200));
        }
    });
    for url in urls {
        let prefill = sample(url, "baton_router_nodes{role=\"prefill\"}").unwrap();
        assert!((2.0..4.0).contains(&prefill), "{prefill} prefill nodes");
    }
    let orders = |name: &str| {
        let log = &cluster.logs().unwrap()[name];
        log.matches("the load wants it in another role").count()
    };
    let logs = ["router", "router-2"];
    let at = urls.iter().position(|url| *url == leader).unwrap();
    assert!(orders(logs[at]) > 0 && orders(logs[1 - at]) == 0, "only the leader gives roles");
    cluster.wait_whole(PATIENCE).unwrap();
}

#[tokio::test]
async fn etcd_may_want_certificates_and_a_password() {
    let etcd = Etcd::start_secured().unwrap();
    let mut options = Options { etcd: Some(etcd.url()), ..options() };
    for setting in etcd.settings() {
        options = options.set(setting.clone()).router_set(setting);
    }
    let cluster = Cluster::start(&options).unwrap();
    let urls = cluster.urls();
    eventually("one leads", || leaders(urls).len() == 1).await;
    let generated = generate_all(&urls[1], "sim", &[ask(50, 0, 30)]).await.unwrap();
    assert_eq!(generated[0].tokens.len(), 30);
}

/// Whoever follows is thrown off where history is gone, and reads anew.
#[tokio::test]
async fn a_router_that_comes_after_etcd_was_compacted_is_found() {
    let mut etcd = Etcd::start().unwrap();
    let options = Options { etcd: Some(etcd.url()), routers: 1, ..options() };
    let cluster = Cluster::start(&options).unwrap();
    etcd.kill().unwrap();
    etcd.restart().unwrap();
    for value in 0..20 {
        etcd.control(&["put", "something", &value.to_string()]).unwrap();
    }
    let status = etcd.control(&["endpoint", "status", "--write-out=json"]).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let revision = status[0]["Status"]["header"]["revision"].as_u64().unwrap();
    etcd.control(&["compact", &revision.to_string()]).unwrap();

    let mut late = Command::new(baton());
    late.args(["router", "--exit-with-stdin", "--listen", "127.0.0.1:0", "--control"]);
    late.args(["127.0.0.1:0", "--etcd", &etcd.url(), "--log-format", "json"]);
    let mut late = late.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(late.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut lines = lines.map(|line| serde_json::from_str::<serde_json::Value>(&line).unwrap());
    let serving = lines.find(|line| line["message"] == "serving").unwrap();
    let url = format!("http://{}", serving["api"].as_str().unwrap());
    eventually("all nodes join it", || nodes(&url) == 3.0).await;
    let generated = generate_all(&url, "sim", &[ask(50, 0, 30)]).await.unwrap();
    assert_eq!(generated[0].tokens.len(), 30);
    // One that leaves in order is gone at once.
    drop(late.stdin.take());
    tokio::task::spawn_blocking(move || late.wait()).await.unwrap().unwrap();
    let found = etcd.control(&["get", "--prefix", "--keys-only", "/baton/routers/"]).unwrap();
    assert_eq!(found.split_whitespace().count(), 1, "{found}");
    cluster.wait_whole(PATIENCE).unwrap();
}
