//! Nodes find routers in a Kubernetes cluster, where a service's endpoints come and go.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use baton_fake_kubernetes::{Door, FakeKubernetes};
use baton_tests::{Ask, Generated, Part, Reference, begin, generate_all, get};
use futures::future::try_join_all;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::migration::ask;

const PATIENCE: Duration = Duration::from_secs(30);
const SERVICE: &str = "baton-router";

/// A cluster whose parts know nothing but the service's name.
struct InKubernetes {
    api: FakeKubernetes,
    door: Door,
    config: TempDir,
    nodes: Vec<Part>,
}

struct Router {
    part: Part,
    url: String,
}

impl InKubernetes {
    fn start() -> Self {
        let api = FakeKubernetes::start().unwrap();
        let (door, config) = (api.door().unwrap(), tempfile::tempdir().unwrap());
        let kubeconfig = config.path().join("kubeconfig");
        door.kubeconfig(&kubeconfig).unwrap();
        let registry = format!(
            "[registry]\nlease = \"2s\"\nkubernetes = {{ service = \"other\", kubeconfig = {kubeconfig:?} }}\n"
        );
        fs::write(config.path().join("router.toml"), &registry).unwrap();
        let sim = "[engine]\nkind = \"sim\"\nprofile.decode_us = 3000.0\n";
        fs::write(config.path().join("node.toml"), format!("{registry}{sim}")).unwrap();
        let mut cluster = InKubernetes { api, door, config, nodes: Vec::new() };
        for (role, name) in [
            ("prefill-node", "prefill-1"),
            ("decode-node", "decode-1"),
            ("decode-node", "decode-2"),
        ] {
            let config = cluster.file("node.toml");
            // The flag wins over the file.
            let arguments = [role, "--config", &config, "--name", name, "--kubernetes", SERVICE];
            let node = Part::start(&[&arguments[..], &["--sim", "--kv-size", "64MiB"]].concat());
            cluster.nodes.push(node.unwrap());
        }
        cluster
    }

    fn file(&self, name: &str) -> String {
        Path::new(self.config.path()).join(name).display().to_string()
    }

    fn router(&self) -> Router {
        let (config, batches) = (self.file("router.toml"), tempfile::tempdir_in(&self.config));
        let batches = batches.unwrap().keep().display().to_string();
        let arguments = ["router", "--config", &config, "--kubernetes", SERVICE];
        let ports =
            ["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--batch-dir", &batches];
        let part = Part::start(&[&arguments[..], &ports].concat()).unwrap();
        let url = format!("http://{}", part.address("api").unwrap());
        Router { part, url }
    }

    /// Has a slice with these routers, or with none.
    fn put(&self, slice: &str, routers: &[&Router]) {
        let address = |router: &&Router| router.part.address("control").unwrap();
        self.api.put_slice(slice, SERVICE, &routers.iter().map(address).collect::<Vec<_>>());
    }

    async fn wait_whole(&self) {
        let of = |node: &Part, name: &str| {
            let url = format!("http://{}/metrics", node.address("metrics").unwrap());
            sample(&url, name).unwrap()
        };
        let names = ["baton_kv_blocks{state=\"held\"}", "baton_transfers_held"];
        let all = || self.nodes.iter().all(|node| names.iter().all(|name| of(node, name) == 0.0));
        eventually("nothing is held any more", all).await;
    }
}

fn sample(url: &str, name: &str) -> Option<f64> {
    let metrics = get(url).ok()?.body;
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

impl Router {
    fn sample(&self, name: &str) -> f64 {
        sample(&format!("{}/metrics", self.url), name).unwrap_or(0.0)
    }

    fn nodes(&self) -> f64 {
        let of = |role| self.sample(&format!("baton_router_nodes{{role=\"{role}\"}}"));
        of("prefill") + of("decode")
    }

    fn leads(&self) -> bool {
        self.sample("baton_router_leads") == 1.0
    }

    async fn has_all(&self) {
        eventually("all nodes join", || self.nodes() == 3.0).await;
    }
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

#[tokio::test]
async fn routers_come_and_go_behind_a_service_and_no_request_of_others_fails() {
    let cluster = InKubernetes::start();
    let mut reference = Reference::sim().unwrap();
    let asks: Vec<Ask> = (0..4).map(|i| ask(50, i, 300)).collect();
    let [first, second] = [cluster.router(), cluster.router()];
    assert_eq!((first.nodes(), second.nodes()), (0.0, 0.0), "no slice names them");
    cluster.put("one", &[&first]);
    cluster.put("two", &[&second]);
    first.has_all().await;
    second.has_all().await;
    eventually("one leads", || first.leads() != second.leads()).await;

    // One is killed while both are at work, and its slice stays until the cluster has noticed.
    let lost = try_join_all(asks.iter().map(|ask| begin(&second.url, "sim", ask))).await.unwrap();
    let killing = async { second.part.pid().unwrap().kill().unwrap() };
    let (ours, ()) = tokio::join!(generate_all(&first.url, "sim", &asks), killing);
    check(&asks, &ours.unwrap(), &mut reference);
    for begun in lost {
        assert!(begun.rest().await.is_err(), "its router is dead");
    }
    cluster.put("two", &[]);

    // A new one comes, and is joined by all.
    let third = cluster.router();
    cluster.put("two", &[&third]);
    let (ours, ()) = tokio::join!(generate_all(&first.url, "sim", &asks), third.has_all());
    check(&asks, &ours.unwrap(), &mut reference);
    check(&asks, &generate_all(&third.url, "sim", &asks).await.unwrap(), &mut reference);
    eventually("one leads", || first.leads() != third.leads()).await;
    cluster.wait_whole().await;
}

#[tokio::test]
async fn an_api_server_that_is_away_or_empty_costs_no_request_anything() {
    let mut cluster = InKubernetes::start();
    let mut reference = Reference::sim().unwrap();
    let asks: Vec<Ask> = (0..4).map(|i| ask(50, i, 300)).collect();
    let routers = [cluster.router(), cluster.router()];
    let both = [&routers[0], &routers[1]];
    for is_emptied in [false, true] {
        for (router, slice) in both.into_iter().zip(["one", "two"]) {
            cluster.put(slice, &[router]);
        }
        for router in both {
            router.has_all().await;
        }
        eventually("one leads", || both.iter().any(|router| router.leads())).await;
        cluster.door.stop();
        if is_emptied {
            cluster.api.wipe();
        }
        // Longer than a lease, by what the leader does: nobody leads, and everybody is served.
        eventually("nobody leads", || !both.iter().any(|router| router.leads())).await;
        for router in both {
            let ours = generate_all(&router.url, "sim", &asks).await.unwrap();
            check(&asks, &ours, &mut reference);
            assert_eq!(router.nodes(), 3.0, "everybody goes on with what was known last");
        }
        let (before, begun) =
            (cluster.api.asked().lists, begin(&routers[0].url, "sim", &asks[0]).await);
        cluster.door.restart().unwrap();
        // All three nodes and both routers read anew, and what they read may be that there is no router any more.
        let listed = |asked: &baton_fake_kubernetes::Asked| asked.lists >= before + 5;
        cluster.api.wait("everybody lists again", listed).await.unwrap();
        check(&asks[..1], &[begun.unwrap().rest().await.unwrap()], &mut reference);
        for router in both {
            let ours = generate_all(&router.url, "sim", &asks).await.unwrap();
            check(&asks, &ours, &mut reference);
            assert_eq!(router.nodes(), 3.0, "a router is kept for as long as its stream speaks");
        }
        eventually("one leads again", || both.iter().any(|router| router.leads())).await;
    }
    // Each keeps a lease of its own, and who leaves in order takes it away.
    let [mut one, other] = routers;
    let names = |cluster: &InKubernetes| -> BTreeSet<String> {
        cluster.api.objects("leases").into_iter().map(|(name, _)| name).collect()
    };
    eventually("both have a lease", || names(&cluster).len() == 3).await;
    one.part.leave().unwrap();
    eventually("its lease is gone", || names(&cluster).len() == 2).await;
    eventually("the other leads", || other.leads()).await;
    cluster.wait_whole().await;
}
