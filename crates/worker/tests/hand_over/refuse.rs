//! What a node refuses, and how it says so.

use std::time::Duration;

use baton_proto::node::v1 as proto;
use baton_types::SequenceSpec;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::pair::{
    Pair, config, epoch, eventually, first_token, slow_decode, some_tokens, spec, why,
};

fn refusal<T>(answer: Result<T, Status>) -> Status {
    match answer {
        Ok(_) => panic!("it was taken"),
        Err(status) => status,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_says_when_to_try_again() {
    let mut small = config();
    small.kv.blocks = Some(8);
    let pair = Pair::with(config(), small).await;
    let holder = pair.decode(&spec(1, 100, 20)).await;
    eventually("it pulls", || pair.decode.node().metrics.transfers().held() == 1).await;
    let status = refusal(pair.send_decode(pair.decode_request(&spec(2, 100, 20))).await);
    assert_eq!(why(&status), (Code::ResourceExhausted, "KV_POOL_FULL".to_owned()));
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());

    let status = refusal(pair.send_decode(pair.decode_request(&spec(3, 200, 20))).await);
    assert_eq!(why(&status), (Code::OutOfRange, "POOL_TOO_SMALL".to_owned()));
    // What could never run is refused before a page moves.
    let status = refusal(pair.send_decode(pair.decode_request(&spec(4, 20, 200))).await);
    assert_eq!(why(&status), (Code::OutOfRange, "POOL_TOO_SMALL".to_owned()));
    let status = refusal(pair.send_decode(pair.decode_request(&spec(5, 20, 1 << 30))).await);
    assert_eq!(why(&status), (Code::OutOfRange, "CONTEXT_TOO_LONG".to_owned()));
    drop(holder);
    pair.is_whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_incarnation_and_another_model() {
    let pair = Pair::start().await;
    let spec = spec(1, 40, 20);
    let mut request = pair.prefill_request(&spec);
    request.generation ^= 1;
    let status = refusal(pair.send_prefill(request).await);
    assert_eq!(why(&status), (Code::FailedPrecondition, "WRONG_GENERATION".to_owned()));

    let mut request = pair.decode_request(&spec);
    request.generation ^= 1;
    let status = refusal(pair.send_decode(request).await);
    assert_eq!(why(&status), (Code::FailedPrecondition, "WRONG_GENERATION".to_owned()));

    // Each could do it, and is registered for the other.
    let request = pair.prefill_request(&spec);
    let swapped = proto::DecodeRunRequest {
        model: request.model.clone(),
        generation: request.generation,
        sequence: request.sequence.clone(),
        ..proto::DecodeRunRequest::default()
    };
    let status = refusal(pair.decode_by_prefill_node(swapped).await);
    assert_eq!(why(&status), (Code::FailedPrecondition, "WRONG_ROLE".to_owned()));

    let request =
        proto::PrefillRunRequest { model: "other".to_owned(), ..pair.prefill_request(&spec) };
    let status = refusal(pair.send_prefill(request).await);
    assert_eq!(why(&status), (Code::NotFound, "MODEL_NOT_SERVED".to_owned()));
    pair.is_whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_epoch_and_a_newer_one() {
    let mut slow = config();
    slow_decode(&mut slow, Duration::from_millis(2));
    let pair = Pair::with(config(), slow).await;
    let mut sequence = spec(1, 40, 3000);
    sequence.epoch = epoch(2);
    let here = |sequence: &SequenceSpec| proto::DecodeRunRequest {
        source: None,
        ..pair.decode_request(sequence)
    };
    let mut second = pair.send_decode(here(&sequence)).await.unwrap();
    some_tokens(&mut second).await;

    sequence.epoch = epoch(1);
    let status = refusal(pair.send_decode(here(&sequence)).await);
    assert_eq!(why(&status), (Code::FailedPrecondition, "STALE_EPOCH".to_owned()));

    sequence.epoch = epoch(2);
    let status = refusal(pair.send_decode(here(&sequence)).await);
    assert_eq!(why(&status), (Code::AlreadyExists, "DUPLICATE_SEQUENCE".to_owned()));

    // Neither refusal harmed the one that runs; a newer epoch takes its place.
    some_tokens(&mut second).await;
    sequence.epoch = epoch(3);
    let mut third = pair.send_decode(here(&sequence)).await.unwrap();
    let status = loop {
        match second.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it must not end well"),
            Err(status) => break status,
        }
    };
    assert_eq!(why(&status), (Code::Aborted, "SUPERSEDED".to_owned()));
    drop(second);
    some_tokens(&mut third).await;
    some_tokens(&mut third).await;
    drop(third);
    pair.is_whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_without_the_right_to_it() {
    let pair = Pair::start().await;
    let spec = spec(1, 40, 20);
    let mut prefill = pair.prefill(&spec).await;
    first_token(&mut prefill).await;
    let mut request = pair.decode_request(&spec);
    request.source.as_mut().unwrap().capability = vec![0; 16];
    let mut stream = pair.send_decode(request).await.unwrap();
    let status = stream.message().await.unwrap_err();
    assert_eq!(why(&status), (Code::Aborted, "PULL_FAILED".to_owned()), "{status}");
    drop((prefill, stream));
    pair.is_whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense() {
    type Change<'a> = &'a dyn Fn(&mut proto::PrefillRunRequest);
    let pair = Pair::start().await;
    let good = spec(1, 40, 20);
    let request = |change: Change<'_>| {
        let mut request = pair.prefill_request(&good);
        change(&mut request);
        request
    };
    let table: &[(Code, Change<'_>)] = &[
        (Code::InvalidArgument, &|r| r.sequence = None),
        (Code::InvalidArgument, &|r| r.capability = vec![1, 2, 3]),
        (Code::InvalidArgument, &|r| r.sequence.as_mut().unwrap().prompt_len = 41),
        (Code::InvalidArgument, &|r| r.sequence.as_mut().unwrap().prompt_len = 0),
        (Code::InvalidArgument, &|r| r.sequence.as_mut().unwrap().tokens.clear()),
        (Code::InvalidArgument, &|r| r.sequence.as_mut().unwrap().tokens[3] = 1 << 20),
        (Code::InvalidArgument, &|r| r.sequence.as_mut().unwrap().key = None),
        (Code::InvalidArgument, &|r| r.sequence.as_mut().unwrap().max_tokens = 0),
        (Code::InvalidArgument, &|r| {
            r.sequence.as_mut().unwrap().sampling.as_mut().unwrap().temperature = -1.0;
        }),
        (Code::OutOfRange, &|r| r.sequence.as_mut().unwrap().max_tokens = 1 << 30),
    ];
    for (at, (code, change)) in table.iter().enumerate() {
        let status = refusal(pair.send_prefill(request(change)).await);
        assert_eq!(status.code(), *code, "row {at}: {status}");
    }
    pair.is_whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes() {
    let mut slow = config();
    slow_decode(&mut slow, Duration::from_millis(5));
    let pair = Pair::with(config(), slow).await;
    let mut sequence = spec(1, 40, 3000);
    sequence.deadline = Some(Duration::from_millis(60));
    // While running.
    let request = proto::DecodeRunRequest { source: None, ..pair.decode_request(&sequence) };
    let mut stream = pair.send_decode(request).await.unwrap();
    let status = loop {
        if let Err(status) = stream.message().await {
            break status;
        }
    };
    assert_eq!(why(&status), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".to_owned()));
    // While pulling what nobody offers.
    sequence.key.request.0 = 2;
    let mut stream = pair.decode(&sequence).await;
    let status = stream.message().await.unwrap_err();
    assert_eq!(why(&status), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".to_owned()));
    drop(stream);
    pair.is_whole_again().await;
}
