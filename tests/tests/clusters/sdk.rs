//! The client in Rust, with routers and nodes that die.

use std::{process::Command, time::Duration};

use baton_client::{Answer, Client, Event, Request};
use baton_tests::{Cluster, Engine, Options, baton};
use futures::future::join_all;

const PATIENCE: Duration = Duration::from_secs(30);
const STREAMS: u64 = 50;

fn cluster() -> Cluster {
    let options = Options { routers: 2, ..Options::new(Engine::Sim).nodes(2, 2) };
    Cluster::start(&options.set("engine.profile.decode_us=2500.0")).unwrap()
}

fn request(seed: u64) -> Request {
    let mut request = Request::text("sim", format!("Story {seed}")).max_tokens(150).seed(seed);
    request.sampling.ignore_eos = true;
    request.choices(1 + u32::from(seed.is_multiple_of(3)))
}

/// What it said, whoever it came from.
fn said(answer: &Answer) -> Vec<(&str, &[u32], &[u64])> {
    let choices = answer.choices.iter();
    choices.map(|one| (&*one.text, &one.token_ids[..], &one.logits_digests[..])).collect()
}

/// So many streams are in the middle when `happens`; all of them are what they would have been. Says how often they went on.
async fn interrupted(cluster: &Cluster, happens: impl FnOnce()) -> u32 {
    let client =
        Client::builder(cluster.urls()).keep_alive(Duration::from_secs(1)).build().unwrap();
    let begun = join_all((0..STREAMS).map(|seed| client.stream(request(seed)))).await;
    let mut streams = Vec::new();
    for stream in begun {
        let (mut stream, mut heard) = (stream.unwrap(), Vec::new());
        for _ in 0..4 {
            heard.push(stream.next().await.unwrap().unwrap());
        }
        streams.push((heard, stream));
    }
    happens();
    let (mut resumed, mut answers) = (0, Vec::new());
    let alone = async |seed| client.answer(request(seed)).await.unwrap();
    for (heard, stream) in streams {
        let rest = stream.answer().await.unwrap();
        resumed += rest.resumed;
        let mut answer = rest.clone();
        for event in heard.into_iter().rev() {
            let Event::Chunk(chunk) = event else { continue };
            let choice = &mut answer.choices[chunk.choice as usize];
            choice.text.insert_str(0, &chunk.text);
            choice.token_ids.splice(0..0, chunk.token_ids);
            choice.logits_digests.splice(0..0, chunk.logits_digests);
        }
        answers.push(answer);
    }
    let whole = join_all((0..STREAMS).map(alone)).await;
    for (ours, whole) in answers.iter().zip(&whole) {
        assert_eq!(said(ours), said(whole));
        assert_eq!(ours.usage().completion_tokens, whole.usage().completion_tokens);
    }
    resumed
}

#[tokio::test]
async fn streams_go_on_when_a_router_is_killed() {
    let cluster = cluster();
    let resumed = interrupted(&cluster, || {
        cluster.router_at(&cluster.urls()[0]).unwrap().kill().unwrap();
    });
    assert!(resumed.await >= STREAMS as u32 / 2, "half of them were there");
    cluster.wait_whole(PATIENCE).unwrap();
}

#[tokio::test]
async fn streams_go_on_when_a_router_stops() {
    let cluster = cluster();
    let stopped = cluster.router_at(&cluster.urls()[0]).unwrap();
    let resumed = interrupted(&cluster, || stopped.stop().unwrap()).await;
    stopped.resume().unwrap();
    assert!(resumed >= STREAMS as u32 / 2, "half of them were there");
    cluster.wait_whole(PATIENCE).unwrap();
}

/// Routers see to that: the client doesn't notice.
#[tokio::test]
async fn streams_go_on_when_a_decode_node_is_killed() {
    let cluster = cluster();
    let resumed = interrupted(&cluster, || cluster.child("decode-1").unwrap().kill().unwrap());
    assert_eq!(resumed.await, 0);
    cluster.wait_whole_without("decode-1", PATIENCE).unwrap();
}

#[tokio::test]
async fn streams_go_on_when_a_router_and_a_decode_node_are_killed() {
    let cluster = cluster();
    let resumed = interrupted(&cluster, || {
        cluster.router_at(&cluster.urls()[1]).unwrap().kill().unwrap();
        cluster.child("decode-2").unwrap().kill().unwrap();
    });
    assert!(resumed.await >= STREAMS as u32 / 2, "half of them were there");
    cluster.wait_whole_without("decode-2", PATIENCE).unwrap();
}

/// The examples do what they say.
#[test]
fn examples() {
    let cluster = Cluster::start(&Options::new(Engine::Llama)).unwrap();
    let run = |example: &str, words: &[&str]| {
        let path = baton().with_file_name("examples").join(example);
        let output = Command::new(&path).arg(cluster.url()).args(words).output();
        let output = output.unwrap_or_else(|error| {
            panic!("{}: {error}; `cargo xtask test` builds it", path.display())
        });
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{example}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = run("stream", &["What", "is", "the", "capital", "of", "France?"]);
    assert!(said.starts_with("request ") && said.contains("Usage"), "{said}");
    assert!(run("generate", &[]).split_whitespace().count() > 10);
    let said = run("structured", &[]);
    assert!(said.contains("\"age\"") && said.contains("look_up({"), "{said}");
}
