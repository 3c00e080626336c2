//! Nodes take the other role while they serve, and nobody can tell: `exact-stream`, `same-tokens`, `no-leak`.

use std::{process::Command, thread, time::Duration};

use baton_proto::v1::{
    DrainRequest, Phase, SetRoleRequest, SetRoleResponse, Timings,
    operations_client::OperationsClient,
};
use baton_tests::{Ask, Cluster, Engine, Generated, Options, Reference, baton, get, post};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::json;
use tonic::{Status, transport::Channel};

use crate::migration::{Running, ask, ask_all, operations, router_metrics};

const PATIENCE: Duration = Duration::from_secs(15);

async fn set_role(
    operations: &mut OperationsClient<Channel>,
    node: &str,
    role: Phase,
) -> Result<SetRoleResponse, Status> {
    let role = role.into();
    let request = SetRoleRequest { node: node.to_owned(), role, wait_us: 10_000_000 };
    Ok(operations.set_role(request).await?.into_inner())
}

const DONE: SetRoleResponse = SetRoleResponse { done: true, left: 0 };

fn timings(generated: &Generated) -> &Timings {
    generated.complete.as_ref().unwrap().timings.as_ref().unwrap()
}

/// What it decodes goes on elsewhere; then it computes prompts; then it decodes again.
#[tokio::test]
async fn a_decode_node_becomes_a_prefill_node_and_back_and_no_stream_breaks() {
    let options = Options::new(Engine::Sim).nodes(1, 2).set("engine.profile.decode_us=3000.0");
    let cluster = Cluster::start(&options).unwrap();
    let mut reference = Reference::sim().unwrap();
    let asks: Vec<Ask> = (0..10).map(|i| ask(50, i, 500)).collect();
    let running = Running::default();
    let changing = async {
        let mut operations = operations(&cluster).await;
        while running.lock().unwrap().len() < asks.len() {
            tokio::task::yield_now().await;
        }
        // What isn't decoded yet is placed anew, not moved.
        while cluster.samples("baton_requests_running").unwrap()["decode-1"] < 1.0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(set_role(&mut operations, "decode-1", Phase::Prefill).await.unwrap(), DONE);
        assert!(running.lock().unwrap().len() > 5, "they ended before it changed");
        for (node, role) in [("decode-2", Phase::Prefill), ("prefill-1", Phase::Prefill)] {
            let refused = set_role(&mut operations, node, role).await;
            assert_eq!(refused.is_err(), node == "decode-2", "{node}: {refused:?}");
        }
        // The other prefill node takes nothing: prompts go where tokens were made before.
        let drain =
            DrainRequest { node: "prefill-1".to_owned(), wait_us: 10_000_000, cancel: false };
        assert_eq!(operations.drain(drain.clone()).await.unwrap().into_inner().left, 0);
        let fresh: Vec<Ask> = (0..4).map(|i| ask(70, 20 + i, 20)).collect();
        for one in ask_all(&cluster, "sim", &fresh, &Running::default()).await {
            let timings = timings(&one);
            assert_eq!(
                (&timings.prefill_node[..], &timings.decode_node[..]),
                ("decode-1", "decode-2")
            );
        }
        operations.drain(DrainRequest { cancel: true, ..drain }).await.unwrap();
        assert_eq!(set_role(&mut operations, "decode-1", Phase::Decode).await.unwrap(), DONE);
        fresh
    };
    let (generated, fresh) = tokio::join!(ask_all(&cluster, "sim", &asks, &running), changing);
    for (ask, ours) in asks.iter().zip(&generated) {
        assert_eq!(ours.bits(), reference.generate(ask).unwrap().bits(), "{:?}", ask.sampling);
    }
    assert!(router_metrics(&cluster).contains("{reason=\"drain\",outcome=\"moved\"}"));
    let again = ask_all(&cluster, "sim", &fresh, &running).await;
    for (ask, ours) in fresh.iter().zip(&again) {
        assert_eq!(ours.bits(), reference.generate(ask).unwrap().bits(), "{:?}", ask.sampling);
    }
    cluster.wait_whole(PATIENCE).unwrap();
}

/// Nodes change as often as they can while requests come and go.
#[tokio::test]
async fn roles_change_all_the_time_and_every_answer_is_as_it_would_be_alone() {
    let options = Options::new(Engine::Sim).nodes(2, 3).set("engine.profile.decode_us=1000.0");
    let cluster = Cluster::start(&options).unwrap();
    let mut reference = Reference::sim().unwrap();
    let wave = |wave: u32| (0..12).map(|i| ask(30 + 40 * (i % 3), 12 * wave + i, 120)).collect();
    let waves: Vec<Vec<Ask>> = (0..8).map(wave).collect();
    let running = Running::default();
    let mut changes = 0;
    let changing = async {
        let mut operations = operations(&cluster).await;
        let mut rng = SmallRng::seed_from_u64(7);
        let nodes = ["prefill-1", "prefill-2", "decode-1", "decode-2", "decode-3"];
        loop {
            let node = nodes[rng.random_range(0..nodes.len())];
            let role = if rng.random() { Phase::Prefill } else { Phase::Decode };
            // The last of its role stays.
            if let Ok(response) = set_role(&mut operations, node, role).await {
                assert!(response.done, "{node} has {} requests", response.left);
                changes += 1;
            }
        }
    };
    let asking = async {
        let mut generated = Vec::new();
        for asks in &waves {
            generated.extend(ask_all(&cluster, "sim", asks, &running).await);
        }
        generated
    };
    let generated = tokio::select! {
        generated = asking => generated,
        () = changing => unreachable!("it never ends"),
    };
    for (ask, ours) in waves.iter().flatten().zip(&generated) {
        assert_eq!(ours.bits(), reference.generate(ask).unwrap().bits(), "{:?}", ask.sampling);
    }
    assert!(changes > 10, "only {changes} changes");
    cluster.wait_whole(PATIENCE).unwrap();
}

/// More prompts than one prefill node can do, and decode nodes that have nothing to do.
#[test]
fn the_controller_gives_a_role_the_nodes_that_it_lacks() {
    let options = Options::new(Engine::Sim)
        .nodes(1, 3)
        .set("engine.profile.prefill_token_us=10000")
        .router_set("latency.default.prefill_token_us=10000")
        .router_set("advice.every=\"200ms\"")
        .router_set("roles.enabled=true")
        .router_set("roles.after=\"400ms\"");
    let cluster = Cluster::start(&options).unwrap();
    let url = cluster.path("/v1/completions");
    let nodes = |role: &str| {
        let metrics = get(&cluster.path("/metrics")).unwrap().body;
        let sample = format!("baton_router_nodes{{role=\"{role}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&sample));
        line.unwrap_or_else(|| panic!("{sample} isn't in {metrics}")).parse::<u32>().unwrap()
    };
    assert_eq!((nodes("prefill"), nodes("decode")), (1, 3));
    thread::scope(|scope| {
        for number in 0..40 {
            let prompt = format!("{number} words that nobody has cached");
            let body = json!({ "model": "sim", "prompt": prompt, "max_tokens": 2 });
            let url = &url;
            scope.spawn(move || assert_eq!(post(url, &body).unwrap().status, 200));
        }
    });
    let (prefill, decode) = (nodes("prefill"), nodes("decode"));
    assert!(prefill >= 2 && decode >= 1, "{prefill} and {decode}");
    let said = router_metrics(&cluster);
    assert!(!said.contains("baton_router_retries_total{"), "somebody was replayed:\n{said}");
    cluster.wait_whole(PATIENCE).unwrap();
}

#[test]
fn by_hand() {
    let cluster = Cluster::start(&Options::new(Engine::Sim).nodes(1, 2)).unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(baton()).args(args).args(["--url", cluster.url()]).output();
        let output = output.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout) + &text(output.stderr))
    };
    let (is_fine, said) = run(&["role", "decode-2", "prefill"]);
    assert!(is_fine && said == "decode-2 is a prefill node\n", "{said}");
    let (is_fine, said) = run(&["role", "decode-1", "prefill"]);
    assert!(!is_fine && said.contains("the last decode node of sim"), "{said}");
    let (is_fine, said) = run(&["role", "decode-7", "prefill"]);
    assert!(!is_fine && said.contains("decode-1, decode-2, prefill-1"), "{said}");
    let (is_fine, said) = run(&["role", "decode-2", "both"]);
    assert!(!is_fine && said.contains("prefill, decode"), "{said}");
}
