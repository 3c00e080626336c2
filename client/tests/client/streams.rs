//! Streams that break.

use std::time::Duration;

use baton_client::{Client, Error, Event, Prompt, Request, Retry, Slo};
use baton_proto::v1::{Chunk, Complete, Started, generate_response::Event as Said};
use tonic::Status;

use crate::fake::{Act, Router, SEED, token};

const PATIENCE: Duration = Duration::from_secs(20);

fn quick() -> Retry {
    Retry { first_pause: Duration::from_millis(1), ..Retry::default() }
}

fn client(routers: &[&Router]) -> Client {
    let urls = routers.iter().map(|router| router.url.clone());
    Client::builder(urls).retry(Retry { budget: 10_000, ..quick() }).build().unwrap()
}

fn request() -> Request {
    Request::text("fake", "Once").max_tokens(6).choices(2)
}

fn tokens(choice: u32) -> Vec<u32> {
    (0..6).map(|index| token(choice, index)).collect()
}

#[tokio::test]
async fn a_stream_that_breaks_anywhere_is_whole() {
    let routers = [Router::start().await, Router::start().await];
    let client = client(&[&routers[0], &routers[1]]);
    let ways = [
        None,
        Some(Status::unavailable("going")),
        Some(Status::unknown("h2 protocol error")),
        Some(Status::internal("reset")),
    ];
    // 2 choices of 6 tokens and their ends, behind Started.
    for at in 0..=14 {
        let way = &ways[at % ways.len()];
        let asked = match at % 3 {
            0 => Request { prompt: Prompt::Chat(vec![]), ..request() }.user("Count."),
            _ => request(),
        };
        for router in &routers {
            router.forget_acts();
            router.acts([Act::Break(at, way.clone()), Act::Break(1 + at / 2, way.clone())]);
        }
        let answer = client.answer(asked).await.unwrap();
        let said: Vec<_> = answer.choices.iter().map(|one| one.token_ids.clone()).collect();
        assert_eq!(said, [tokens(0), tokens(1)], "broken at {at} by {way:?}");
        assert_eq!(answer.choices[1].text.split_whitespace().count(), 6);
        assert_eq!(answer.usage().completion_tokens, 12);
        assert!(at < 2 || answer.resumed > 0, "broken at {at} by {way:?}");
    }
}

#[tokio::test]
async fn another_router_is_told_what_came_and_the_seed() {
    let router = Router::start().await;
    let client = client(&[&router]);
    router.acts([Act::Break(6, None)]);
    let asked = request()
        .tenant("acme")
        .name("my-request")
        .trace_parent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .slo(Slo { ttft: Some(Duration::from_millis(250)), tpot: None })
        .deadline(PATIENCE);
    let answer = client.answer(asked).await.unwrap();
    assert_eq!((answer.resumed, answer.started.seed), (1, SEED));
    let [first, second] = &router.asked()[..] else { panic!("asked twice") };
    assert_eq!((&first.resume, first.sampling.seed), (&None, None));
    let resume = second.resume.as_ref().unwrap();
    let received: Vec<usize> = resume.received.iter().map(|one| one.token_ids.len()).collect();
    assert_eq!((received, second.sampling.seed), (vec![3, 2], Some(SEED)));
    for asked in [first, second] {
        let said = |key: &str| asked.metadata.get(key).and_then(|value| value.to_str().ok());
        assert_eq!((said("x-tenant-id"), said("x-request-id")), (Some("acme"), Some("my-request")));
        assert_eq!((said("x-slo-ttft-ms"), said("x-slo-tpot-ms")), (Some("250"), None));
        assert!(said("traceparent").is_some() && said("grpc-timeout").is_some());
    }
}

#[tokio::test]
async fn a_router_that_dies_is_passed_over_until_it_is_back() {
    let mut routers = [Router::start().await, Router::start().await];
    let client = client(&[&routers[0], &routers[1]]);
    for router in &routers {
        router.acts([Act::Hang(4)]);
    }
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = client.stream(request()).await.unwrap();
        for _ in 0..4 {
            stream.next().await.unwrap().unwrap();
        }
        streams.push(stream);
    }
    assert_eq!(routers.each_ref().map(Router::open), [1, 1], "in turn");
    routers[0].die();
    let (mut whole, mut went_on) = (0, 0);
    for stream in streams {
        // One of them goes on where it is, which hangs.
        let Ok(answer) = tokio::time::timeout(Duration::from_millis(500), stream.answer()).await
        else {
            continue;
        };
        let answer = answer.unwrap();
        went_on += answer.resumed;
        // It began after four messages.
        whole += 1;
    }
    assert_eq!((whole, went_on), (1, 1));
    for _ in 0..5 {
        client.answer(request()).await.unwrap();
    }
    routers[0].come_back().await;
    let asked = routers[0].asked().len();
    let back = async {
        while routers[0].asked().len() == asked {
            client.answer(request()).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, back).await.expect("it is asked again");
}

#[tokio::test]
async fn what_a_router_can_not_say_ends_the_stream() {
    let router = Router::start().await;
    let client = client(&[&router]);
    let started = || Said::Started(Started { seed: 1, ..Started::default() });
    let chunk = |index| Said::Chunk(Chunk { index, token_ids: vec![4], ..Chunk::default() });
    for lie in [
        vec![chunk(0)],
        vec![started(), chunk(1)],
        vec![started(), chunk(0), chunk(0)],
        vec![started(), Said::Complete(Complete { choice: 7, ..Complete::default() })],
    ] {
        router.acts([Act::Say(lie.clone())]);
        let error = client.answer(request()).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{lie:?}: {error}");
    }
}

#[tokio::test]
async fn dropping_a_stream_cancels_it() {
    let router = Router::start().await;
    let client = client(&[&router]);
    router.acts([Act::Hang(3)]);
    let mut stream = client.stream(request()).await.unwrap();
    assert!(matches!(stream.next().await, Some(Ok(Event::Started(_)))));
    assert_eq!(router.open(), 1);
    drop(stream);
    let gone = async {
        while router.open() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the router notices");
}

#[tokio::test]
async fn times_are_kept() {
    let router = Router::start().await;
    let client = client(&[&router]);
    let within = Duration::from_millis(100);
    router.acts([Act::Hang(1)]);
    let late = client.answer(request().first_token_within(within)).await.unwrap_err();
    assert!(matches!(late, Error::FirstToken { .. }) && late.request_id().is_some(), "{late}");
    // Once it is there, it may take its time.
    router.acts([Act::Hang(3)]);
    let late = request().first_token_within(within).deadline(5 * within);
    let late = client.answer(late).await.unwrap_err();
    assert!(matches!(late, Error::Deadline { .. }), "{late}");
    // Failures don't outlive it either.
    router.acts((0..5_000).map(|_| Act::Refuse(Status::unavailable("no"))));
    let client = Client::builder([&router.url])
        .retry(Retry { attempts: u32::MAX, budget: 10_000, ..Retry::default() })
        .build()
        .unwrap();
    let began = tokio::time::Instant::now();
    client.answer(request().deadline(2 * within)).await.unwrap_err();
    assert!(began.elapsed() < PATIENCE);
}
