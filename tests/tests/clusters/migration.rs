//! Requests change nodes while they are answered, and nobody can tell: `exact-stream`, `same-tokens` and
//! `no-leak`, whatever was asked for, however often they move, and whoever dies meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use baton_proto::v1::{
    DrainRequest, MigrateRequest, Migration, operations_client::OperationsClient,
};
use baton_tests::{
    Ask, Cluster, Engine, Generated, Options, Pid, Reference, baton, begin, events, generate_known,
    get, model,
};
use baton_types::{Grammar, SamplingSpec, TokenId};
use futures::future::{join_all, try_join_all};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(15);

fn prompt(length: u32, variety: u32) -> Vec<TokenId> {
    (0..length).map(|i| TokenId(33 + (i * 7 + i / 11 + variety * 13) % 90)).collect()
}

/// Greedy, seeded, penalised, cut and held to grammars by turns; some tell log-probabilities.
pub(crate) fn ask(length: u32, variety: u32, max_tokens: u32) -> Ask {
    let seeded = SamplingSpec::seeded(0.9, 500 + u64::from(variety));
    let list = r#"{"type": "array", "items": {"type": "object"}, "minItems": 60}"#;
    let sampling = match variety % 5 {
        0 => SamplingSpec { min_tokens: max_tokens, ..SamplingSpec::GREEDY },
        1 => SamplingSpec { grammar: Some(Grammar::JsonSchema(list.into())), ..seeded },
        2 => SamplingSpec {
            repetition_penalty: 1.3,
            frequency_penalty: 0.5,
            logprobs: Some(2),
            min_tokens: max_tokens,
            ..seeded
        },
        3 => SamplingSpec {
            grammar: Some(Grammar::Regex("([a-z]+ ){200}".into())),
            top_p: 0.8,
            ..seeded
        },
        _ => SamplingSpec { min_tokens: max_tokens, logprobs: Some(0), ..seeded },
    };
    Ask { prompt: prompt(length, variety), max_tokens, sampling }
}

/// Requests that run, by their ids.
pub(crate) type Running = Arc<Mutex<BTreeSet<String>>>;

/// Asks everything at the same time, and keeps the ids of what runs.
pub(crate) async fn ask_all(
    cluster: &Cluster,
    model: &str,
    asks: &[Ask],
    running: &Running,
) -> Vec<Generated> {
    let all = asks.iter().map(|ask| {
        let running = Arc::clone(running);
        async move {
            let mut own = None;
            let known = |id: String| {
                running.lock().unwrap().insert(id.clone());
                own = Some(id);
            };
            let generated = generate_known(cluster.url(), model, ask, known).await;
            running.lock().unwrap().remove(&own.unwrap_or_default());
            generated
        }
    });
    try_join_all(all).await.unwrap()
}

pub(crate) async fn operations(cluster: &Cluster) -> OperationsClient<Channel> {
    OperationsClient::connect(cluster.url().to_owned()).await.unwrap()
}

/// Moves a request to a node, or to the best. Nothing if it has ended.
async fn migrate(
    operations: &mut OperationsClient<Channel>,
    request_id: &str,
    node: &str,
) -> Vec<Migration> {
    let request = MigrateRequest { request_id: request_id.to_owned(), node: node.to_owned() };
    let moved = operations.migrate(request).await;
    moved.map_or_else(|_ended| Vec::new(), |moved| moved.into_inner().migrations)
}

/// Moves random requests to random nodes, until it is dropped; counts those that moved.
async fn keep_moving(
    cluster: &Cluster,
    nodes: u32,
    seed: u64,
    running: &Running,
    moved: &Mutex<u32>,
) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut operations = operations(cluster).await;
    loop {
        let ids: Vec<String> = running.lock().unwrap().iter().cloned().collect();
        if ids.is_empty() {
            tokio::task::yield_now().await;
            continue;
        }
        let id = &ids[rng.random_range(0..ids.len())];
        let node = match rng.random_range(0..=nodes) {
            0 => String::new(),
            number => format!("decode-{number}"),
        };
        let migrations = migrate(&mut operations, id, &node).await;
        let have_moved = migrations.iter().filter(|migration| migration.stays.is_empty()).count();
        *moved.lock().unwrap() += have_moved as u32;
    }
}

/// Answers `asks` while everything moves all the time, and compares each with the engine alone. Says how
/// many sequences moved.
async fn check(
    cluster: &Cluster,
    reference: &mut Reference,
    (model, nodes): (&str, u32),
    asks: &[Ask],
) -> u32 {
    let (running, moved) = (Running::default(), Mutex::new(0));
    let movers = (0..4).map(|seed| keep_moving(cluster, nodes, seed, &running, &moved));
    let generated = tokio::select! {
        generated = ask_all(cluster, model, asks, &running) => generated,
        _ = join_all(movers) => unreachable!("they never end"),
    };
    for (ask, ours) in asks.iter().zip(&generated) {
        let alone = reference.generate(ask).unwrap();
        assert_eq!(ours.bits(), alone.bits(), "{} tokens, {:?}", ask.prompt.len(), ask.sampling);
    }
    let timings = generated.iter().filter_map(|one| one.complete.as_ref()?.timings.as_ref());
    let told: u32 = timings.map(|timings| timings.migrations).sum();
    let moved = moved.into_inner().unwrap();
    assert!(told >= moved, "{told} migrations are told of, and {moved} were seen");
    cluster.wait_whole(PATIENCE).unwrap();
    moved
}

/// Sequences that decode nodes have in their batches.
fn decoding(cluster: &Cluster) -> f64 {
    let running = cluster.samples("baton_requests_running").unwrap();
    running.iter().filter(|(node, _)| node.starts_with("decode")).map(|(_, count)| count).sum()
}

pub(crate) fn router_metrics(cluster: &Cluster) -> String {
    get(&cluster.path("/metrics")).unwrap().body
}

#[tokio::test]
async fn every_way_to_draw_survives_any_number_of_moves() {
    let options = Options::new(Engine::Sim).nodes(1, 3).set("engine.profile.decode_us=2000.0");
    let cluster = Cluster::start(&options).unwrap();
    let mut reference = Reference::sim().unwrap();
    let wanted = std::env::var("BATON_MOVES").map_or(1_000, |moves| moves.parse().unwrap());
    let (mut moved, mut rounds) = (0, 0);
    while moved < wanted {
        // Some share their prompts, and with them their blocks.
        let asks = (0..15).map(|i| ask(20 + 40 * (i % 4), i % 10 + 10 * (rounds % 9), 300));
        let asks: Vec<Ask> = asks.collect();
        moved += check(&cluster, &mut reference, ("sim", 3), &asks).await;
        rounds += 1;
        assert!(moved > 60 * rounds, "{moved} moves in {rounds} rounds are hardly a test");
    }
    let metrics = router_metrics(&cluster);
    assert!(metrics.contains("baton_router_migrations_total{reason=\"asked\",outcome=\"moved\"}"));
    assert!(!metrics.contains("baton_router_retries_total{"), "somebody was replayed:\n{metrics}");
}

#[tokio::test]
async fn the_real_engine_gives_the_same_bits_wherever_it_goes_on() {
    let cluster = Cluster::start(&Options::new(Engine::Llama)).unwrap();
    let mut reference = Reference::llama(&model()).unwrap();
    let name = model().file_stem().unwrap().to_string_lossy().into_owned();
    let asks: Vec<Ask> = (0..6).map(|i| ask([30, 150, 700][i as usize % 3], i, 120)).collect();
    let moved = check(&cluster, &mut reference, (&name, 2), &asks).await;
    assert!(moved > 12, "{moved} moves are hardly a test");
}

/// A node that has no room for it says so, and the sequence goes on where it is.
#[tokio::test]
async fn a_full_destination_changes_nothing() {
    // 48 blocks, of which each of them comes to need 20.
    let options = Options { kv_size: "48KiB", ..Options::new(Engine::Sim) };
    let cluster = Cluster::start(&options.set("engine.profile.decode_us=2000.0")).unwrap();
    let mut reference = Reference::sim().unwrap();
    let asks: Vec<Ask> = (0..6).map(|i| ask(160, i, 150)).collect();
    check(&cluster, &mut reference, ("sim", 2), &asks).await;
}

/// Nodes die while sequences come and go: each goes on somewhere, exactly once.
#[tokio::test]
async fn whoever_dies_in_the_middle_takes_nothing_along() {
    let options = Options::new(Engine::Sim).nodes(1, 4).set("engine.profile.decode_us=3000.0");
    let cluster = Arc::new(Cluster::start(&options).unwrap());
    let mut reference = Reference::sim().unwrap();
    let asks: Vec<Ask> = (0..12).map(|i| ask(60 + 30 * (i % 3), i, 300)).collect();
    let (running, moved) = (Running::default(), Mutex::new(0));
    let movers = (0..6).map(|seed| keep_moving(&cluster, 4, seed, &running, &moved));
    let victims = Arc::clone(&cluster);
    let killing = async {
        for (node, after) in [("decode-2", 20), ("decode-4", 60)] {
            while *moved.lock().unwrap() < after {
                tokio::task::yield_now().await;
            }
            victims.child(node).unwrap().kill().unwrap();
        }
        std::future::pending().await
    };
    let generated = tokio::select! {
        generated = ask_all(&cluster, "sim", &asks, &running) => generated,
        _ = join_all(movers) => unreachable!("they never end"),
        () = killing => unreachable!("it waits for ever"),
    };
    for (ask, ours) in asks.iter().zip(&generated) {
        let alone = reference.generate(ask).unwrap();
        assert_eq!(ours.bits(), alone.bits(), "{:?}", ask.sampling);
    }
    let moved = moved.into_inner().unwrap();
    assert!(moved > 60, "{moved} moves, too few for both nodes to have died");
}

/// `baton drain` leaves a node without anything to do, and nobody notices.
#[tokio::test]
async fn a_drained_node_is_empty_and_no_stream_breaks() {
    let options = Options::new(Engine::Sim).nodes(1, 2).set("engine.profile.decode_us=3000.0");
    let cluster = Cluster::start(&options).unwrap();
    let mut reference = Reference::sim().unwrap();
    let asks: Vec<Ask> = (0..10).map(|i| ask(50, i, 400)).collect();
    let running = Running::default();
    let draining = async {
        let mut operations = operations(&cluster).await;
        while running.lock().unwrap().len() < asks.len() {
            tokio::task::yield_now().await;
        }
        let node = || "decode-1".to_owned();
        let request = DrainRequest { node: node(), wait_us: 10_000_000, cancel: false };
        let left = operations.drain(request).await.unwrap().into_inner().left;
        assert!(running.lock().unwrap().len() > 5, "they ended before the node was empty");
        assert_eq!(
            (left, cluster.samples("baton_requests_running").unwrap()["decode-1"]),
            (0, 0.0)
        );
        let unknown = DrainRequest { node: "nobody".to_owned(), ..DrainRequest::default() };
        let refused = operations.drain(unknown).await.unwrap_err();
        assert!(refused.message().contains("decode-1, decode-2, prefill-1"), "{refused}");
        let again = DrainRequest { node: node(), wait_us: 0, cancel: true };
        operations.drain(again).await.unwrap();
    };
    let (generated, ()) = tokio::join!(ask_all(&cluster, "sim", &asks, &running), draining);
    for (ask, ours) in asks.iter().zip(&generated) {
        assert_eq!(ours.bits(), reference.generate(ask).unwrap().bits(), "{:?}", ask.sampling);
    }
    let metrics = router_metrics(&cluster);
    assert!(metrics.contains("{reason=\"drain\",outcome=\"moved\"}"), "{metrics}");
    cluster.wait_whole(PATIENCE).unwrap();
    // It takes requests again; and when the other doesn't, all of them.
    let mut operations = operations(&cluster).await;
    let other = DrainRequest { node: "decode-2".to_owned(), wait_us: 10_000_000, cancel: false };
    assert_eq!(operations.drain(other).await.unwrap().into_inner().left, 0);
    let asks: Vec<Ask> = (0..4).map(|i| ask(40, i, 60)).collect();
    for one in ask_all(&cluster, "sim", &asks, &running).await {
        let timings = one.complete.unwrap().timings.unwrap();
        assert_eq!((&timings.decode_node[..], timings.migrations), ("decode-1", 0));
    }
}

/// A node that is told to end hands everything over, long before its requests would have ended.
#[tokio::test]
async fn a_terminated_node_leaves_at_once_and_no_stream_breaks() {
    let options = Options::new(Engine::Sim).nodes(1, 2).set("engine.profile.decode_us=20000.0");
    let cluster = Cluster::start(&options).unwrap();
    let mut reference = Reference::sim().unwrap();
    let asks: Vec<Ask> = (0..6).map(|i| ask(50, 5 * i, 300)).collect();
    let running = Running::default();
    let terminating = async {
        while decoding(&cluster) < asks.len() as f64 {
            tokio::task::yield_now().await;
        }
        let child = cluster.child("decode-2").unwrap();
        child.terminate().unwrap();
        let id = child.id();
        let ended = tokio::task::spawn_blocking(move || Pid::new(id).unwrap().wait_end(PATIENCE));
        assert!(ended.await.unwrap(), "it doesn't end");
        assert_eq!(running.lock().unwrap().len(), asks.len(), "they had ended before");
    };
    let (generated, ()) = tokio::join!(ask_all(&cluster, "sim", &asks, &running), terminating);
    for (ask, ours) in asks.iter().zip(&generated) {
        assert_eq!(ours.bits(), reference.generate(ask).unwrap().bits(), "{:?}", ask.sampling);
    }
    let metrics = router_metrics(&cluster);
    assert!(!metrics.contains("baton_router_retries_total{"), "somebody was replayed:\n{metrics}");
}

/// All run on one node, for the other takes nothing: when it does again, some of them go there by themselves.
#[tokio::test]
async fn a_node_that_has_all_there_is_shares_it_when_another_takes_requests_again() {
    let options = Options::new(Engine::Sim)
        .nodes(1, 2)
        .set("engine.profile.decode_us=2000.0")
        .set("engine.profile.decode_sequence_us=1500.0")
        .router_set("rebalance.enabled=true");
    let cluster = Cluster::start(&options).unwrap();
    let mut reference = Reference::sim().unwrap();
    let mut operations = operations(&cluster).await;
    let drain = |cancel| {
        let (node, wait_us) = ("decode-2".to_owned(), 10_000_000);
        DrainRequest { node, wait_us, cancel }
    };
    assert_eq!(operations.drain(drain(false)).await.unwrap().into_inner().left, 0);
    let asks: Vec<Ask> = (0..8).map(|i| ask(50, i, 400)).collect();
    let running = Running::default();
    let sharing = async {
        while decoding(&cluster) < asks.len() as f64 {
            tokio::task::yield_now().await;
        }
        operations.drain(drain(true)).await.unwrap();
        while cluster.samples("baton_requests_running").unwrap()["decode-2"] < 3.0 {
            tokio::task::yield_now().await;
        }
        assert!(running.lock().unwrap().len() > 5, "they ended before");
    };
    let (generated, ()) = tokio::join!(ask_all(&cluster, "sim", &asks, &running), sharing);
    for (ask, ours) in asks.iter().zip(&generated) {
        assert_eq!(ours.bits(), reference.generate(ask).unwrap().bits(), "{:?}", ask.sampling);
    }
    let metrics = router_metrics(&cluster);
    assert!(metrics.contains("{reason=\"balance\",outcome=\"moved\"}"), "{metrics}");
    let hops = generated.iter().filter_map(|one| one.complete.as_ref()?.timings.as_ref());
    let most = hops.map(|timings| timings.migrations).max();
    assert!(most <= Some(2), "nobody goes to and fro: {most:?}");
    cluster.wait_whole(PATIENCE).unwrap();
}

/// The commands say what happened, and what to do where nothing can.
#[tokio::test(flavor = "multi_thread")]
async fn by_hand() {
    let options = Options::new(Engine::Sim).nodes(1, 2).set("engine.profile.decode_us=20000.0");
    let cluster = Cluster::start(&options).unwrap();
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(baton());
        command.args(args).args(["--url", cluster.url()]);
        let output = tokio::task::block_in_place(|| command.output().unwrap());
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.success(), said.concat())
    };
    let running = Running::default();
    let asks = [ask(50, 0, 200)];
    let by_hand = async {
        while running.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let id = running.lock().unwrap().first().unwrap().clone();
        let (moved, said) = run(&["migrate", &id]);
        assert!(moved && said.contains("sequence 0: from decode-"), "{said}");
        let there = if said.contains("to decode-1") { "decode-1" } else { "decode-2" };
        let (moved, said) = run(&["migrate", &id, there]);
        assert!(!moved && said.contains(&format!("it is on {there} already")), "{said}");
        let (explained, said) = run(&["explain", &id]);
        assert!(explained && said.contains("moved from decode-"), "{said}");
        let (moved, said) = run(&["migrate", &id, "decode-9"]);
        assert!(!moved && said.contains("no node can take it"), "{said}");
        let (drained, said) = run(&["drain", there]);
        assert!(drained && said.contains(&format!("{there} is empty")), "{said}");
        let (drained, said) = run(&["drain", there, "--cancel"]);
        assert!(drained && said.contains("takes requests again"), "{said}");
    };
    tokio::join!(ask_all(&cluster, "sim", &asks, &running), by_hand);
    let (moved, said) = run(&["migrate", "req-00000000000000000000000000000000"]);
    assert!(!moved && said.contains("doesn't run here"), "{said}");
}

/// Choices, stop strings, tools' calls and text over HTTP are the router's: they are the same after any move,
/// and a client that leaves in the middle of one takes everything with it.
#[tokio::test(flavor = "multi_thread")]
async fn several_choices_and_stop_strings_move_too() {
    let options = Options::new(Engine::Sim).set("engine.profile.decode_us=3000.0");
    let cluster = Arc::new(Cluster::start(&options).unwrap());
    let bodies = [
        json!({ "n": 3, "max_tokens": 250, "seed": 3 }),
        json!({ "max_tokens": 400, "seed": 8, "stop": ["qzj", "no such text"], "logprobs": 2 }),
    ];
    for mut body in bodies {
        body["model"] = "sim".into();
        body["prompt"] = "It was a dark and stormy night; the rain fell in torrents".into();
        body["stream"] = true.into();
        let (url, still) = (cluster.path("/v1/completions"), body.clone());
        let expected = tokio::task::spawn_blocking(move || said(&url, &still, |_id| {}));
        let expected = expected.await.unwrap();

        let (url, asked) = (cluster.path("/v1/completions"), body.clone());
        let (known, id) = tokio::sync::oneshot::channel();
        let asking = tokio::task::spawn_blocking(move || {
            said(&url, &asked, |id| drop(known.send(id.to_owned())))
        });
        let (id, mut operations, mut moved) = (id.await.unwrap(), operations(&cluster).await, 0);
        while !asking.is_finished() {
            let migrations = migrate(&mut operations, &id, "").await;
            moved += migrations.iter().filter(|migration| migration.stays.is_empty()).count();
        }
        assert_eq!(asking.await.unwrap(), expected, "{body}");
        assert!(moved > 3, "{moved} moves are hardly a test");
    }
    cluster.wait_whole(PATIENCE).unwrap();
}

/// Each choice's text and how it ended; `known` hears the request's id.
fn said(url: &str, body: &Value, known: impl FnOnce(&str)) -> BTreeMap<u64, (String, String)> {
    let (mut choices, mut known) = (BTreeMap::<u64, (String, String)>::new(), Some(known));
    for data in events(url, body).unwrap().map(Result::unwrap) {
        let Ok(chunk) = serde_json::from_str::<Value>(&data) else { continue };
        if let Some(known) = known.take() {
            known(chunk["id"].as_str().unwrap());
        }
        let choice = &chunk["choices"][0];
        let Some(index) = choice["index"].as_u64() else { continue };
        let (text, reason) = choices.entry(index).or_default();
        *text += choice["text"].as_str().unwrap_or_default();
        *reason += choice["finish_reason"].as_str().unwrap_or_default();
    }
    choices
}

/// Clients leave while their sequences move: both nodes give everything back.
#[tokio::test]
async fn a_cancel_in_the_middle_of_a_move_leaves_nothing() {
    let options = Options::new(Engine::Sim).nodes(1, 3).set("engine.profile.decode_us=2000.0");
    let cluster = Cluster::start(&options).unwrap();
    let (running, moved) = (Running::default(), Mutex::new(0));
    let movers = (0..4).map(|seed| keep_moving(&cluster, 3, seed, &running, &moved));
    let leaving = async {
        for i in 0..60 {
            let asked = [ask(100, i, 400)];
            let patience = Duration::from_millis(150 + 7 * u64::from(i));
            // Dropping the stream is the cancel.
            let _ =
                tokio::time::timeout(patience, ask_all(&cluster, "sim", &asked, &running)).await;
            running.lock().unwrap().clear();
        }
    };
    tokio::select! {
        () = leaving => {}
        _ = join_all(movers) => unreachable!("they never end"),
    }
    assert!(*moved.lock().unwrap() > 30);
    cluster.wait_whole(PATIENCE).unwrap();
}

/// A client that doesn't read holds nothing up for long: its sequence stays where it is, and all of it comes
/// when the client reads on.
#[tokio::test]
async fn a_client_that_does_not_read_keeps_its_sequence_where_it_is() {
    let cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    let mut reference = Reference::sim().unwrap();
    let sampling =
        SamplingSpec { logprobs: Some(20), min_tokens: 1500, ..SamplingSpec::seeded(0.9, 4) };
    // More than all buffers on the way hold.
    let asked = Ask { prompt: prompt(30, 1), max_tokens: 1500, sampling };
    let (known, id) = tokio::sync::oneshot::channel();
    let read_on = tokio::sync::Notify::new();
    let reading = async {
        let begun = begin(cluster.url(), "sim", &asked).await.unwrap();
        known.send(begun.request_id.clone()).unwrap();
        read_on.notified().await;
        begun.rest().await.unwrap()
    };
    let moving = async {
        let (id, mut operations) = (id.await.unwrap(), operations(&cluster).await);
        loop {
            let migrations = migrate(&mut operations, &id, "").await;
            let stays = &migrations.first().expect("it runs").stays;
            if stays.contains("doesn't read") {
                return read_on.notify_one();
            }
            assert!(stays.is_empty(), "{stays}");
        }
    };
    let (generated, ()) = tokio::join!(reading, moving);
    assert_eq!(generated.bits(), reference.generate(&asked).unwrap().bits());
    let metrics = router_metrics(&cluster);
    assert!(!metrics.contains("baton_router_retries_total{"), "somebody was replayed:\n{metrics}");
    cluster.wait_whole(PATIENCE).unwrap();
}
