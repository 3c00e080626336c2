//! Cancels at every point leave all pools whole (`no-leak`), and harm nobody else.

use std::time::Duration;

use baton_proto::v1::{
    CancelRequest, GenerateRequest, Sampling, generate_request::Prompt, generate_response::Event,
    inference_client::InferenceClient,
};
use baton_tests::{Ask, Cluster, Engine, Options, Reference, events, generate};
use baton_types::{SamplingSpec, TokenId};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(10);

/// Steps that take long enough to be interrupted.
fn slow_cluster() -> Cluster {
    let options = Options::new(Engine::Sim)
        .set("scheduler.chunk_tokens=32")
        .set("engine.profile.prefill_us=2000.0")
        .set("engine.profile.decode_us=2000.0");
    Cluster::start(&options).unwrap()
}

fn long_request() -> GenerateRequest {
    GenerateRequest {
        model: "sim".into(),
        prompt: Some(Prompt::Text("The baton changes hands. ".repeat(20))),
        sampling: Some(Sampling { max_tokens: Some(2000), seed: Some(1), ..Sampling::default() }),
        ..GenerateRequest::default()
    }
}

#[tokio::test]
async fn dropping_the_stream_at_any_point_leaves_every_pool_whole() {
    let cluster = slow_cluster();
    // Before the answer, during prefill, at the hand-over, during decode.
    for stop_after in [0, 5, 20, 40, 60, 80, 120, 200, 400] {
        let mut client = InferenceClient::connect(cluster.url().to_owned()).await.unwrap();
        let running = async {
            let mut stream = client.generate(long_request()).await.unwrap().into_inner();
            while stream.message().await.unwrap().is_some() {}
        };
        let ended = tokio::time::timeout(Duration::from_millis(stop_after), running).await;
        assert!(ended.is_err(), "the request was too short to be cancelled");
    }
    cluster.wait_whole(PATIENCE).unwrap();
    check_still_right(&cluster).await;
}

#[tokio::test]
async fn the_cancel_call_ends_the_stream_with_its_status() {
    let cluster = slow_cluster();
    let mut client = InferenceClient::connect(cluster.url().to_owned()).await.unwrap();
    let mut stream = client.generate(long_request()).await.unwrap().into_inner();
    let Some(Event::Started(started)) = stream.message().await.unwrap().unwrap().event else {
        panic!("the first message is Started");
    };
    stream.message().await.unwrap();
    let request = CancelRequest { request_id: started.request_id.clone() };
    assert!(client.cancel(request.clone()).await.unwrap().into_inner().cancelled);
    let status = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended well"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), tonic::Code::Cancelled);
    assert!(!client.cancel(request).await.unwrap().into_inner().cancelled);
    cluster.wait_whole(PATIENCE).unwrap();
}

#[test]
fn disconnecting_an_http_stream_cancels_it() {
    let cluster = slow_cluster();
    let body = json!({
        "model": "sim", "prompt": "run ".repeat(100), "max_tokens": 2000, "stream": true, "seed": 3,
    });
    for _ in 0..4 {
        let mut stream = events(&cluster.path("/v1/completions"), &body).unwrap();
        stream.next().unwrap().unwrap();
        drop(stream);
    }
    cluster.wait_whole(PATIENCE).unwrap();
}

#[tokio::test]
async fn others_get_their_tokens_while_their_neighbours_are_cancelled() {
    let cluster = slow_cluster();
    let mut reference = Reference::sim().unwrap();
    let ask = Ask {
        prompt: (0..100).map(|i| TokenId(40 + i % 50)).collect(),
        max_tokens: 60,
        sampling: SamplingSpec::seeded(1.0, 9),
    };
    let cancelled = async {
        for stop_after in [10, 30, 50, 70, 90] {
            let mut client = InferenceClient::connect(cluster.url().to_owned()).await.unwrap();
            let running = async {
                let mut stream = client.generate(long_request()).await.unwrap().into_inner();
                while stream.message().await.unwrap().is_some() {}
            };
            let _ = tokio::time::timeout(Duration::from_millis(stop_after), running).await;
        }
    };
    let (kept, ()) = tokio::join!(generate(cluster.url(), "sim", &ask), cancelled);
    assert_eq!(kept.unwrap().bits(), reference.generate(&ask).unwrap().bits());
    cluster.wait_whole(PATIENCE).unwrap();
}

async fn check_still_right(cluster: &Cluster) {
    let ask = Ask {
        prompt: (0..50).map(|i| TokenId(40 + i)).collect(),
        max_tokens: 20,
        sampling: SamplingSpec::seeded(0.0, 0),
    };
    let generated = generate(cluster.url(), "sim", &ask).await.unwrap();
    let alone = Reference::sim().unwrap().generate(&ask).unwrap();
    assert_eq!(generated.bits(), alone.bits());
}
