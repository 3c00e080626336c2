//! The hand-over between a prefill and a decode node, without a router.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod cancel;
mod pair;
mod refuse;

use std::time::Duration;

use baton_proto::node::v1 as proto;
use baton_types::{StopTokens, TokenId};
use pair::{Pair, alone, config, first_token, slow_decode, spec};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn same_tokens_disaggregated_as_alone() {
    let pair = Pair::start().await;
    // One token short of a block, a block, one token more, several chunks.
    for (request, prompt) in [(1, 15), (2, 16), (3, 17), (4, 700)] {
        let spec = spec(request, prompt, 40);
        let transcript = pair.run(&spec).await;
        assert_eq!(transcript.tokens, alone(&spec), "prompt of {prompt}");
        assert_eq!(transcript.reason, proto::FinishReason::Length as i32);
        let pages = transcript.joined.pages;
        assert_eq!(pages, 4 * (prompt as u64).div_ceil(16), "4 layers, 16 tokens a block");
        assert_eq!(transcript.handed_over.pages, pages);
        assert_eq!(transcript.handed_over.bytes, transcript.joined.bytes);
    }
    pair.is_whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn same_tokens_in_a_crowd() {
    let mut small = config();
    small.scheduler.max_batch_tokens = 64;
    small.scheduler.chunk_tokens = 48;
    let pair = Pair::with(small.clone(), small).await;
    let specs: Vec<_> = (0..24).map(|at| spec(at, 20 + 11 * at as usize, 30)).collect();
    let transcripts = futures::future::join_all(specs.iter().map(|spec| pair.run(spec))).await;
    for (spec, transcript) in specs.iter().zip(transcripts) {
        assert_eq!(transcript.tokens, alone(spec), "{}", spec.key);
    }
    pair.is_whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_prefixes_are_neither_computed_nor_moved_again() {
    let pair = Pair::start().await;
    let first = spec(1, 100, 8);
    let mut second = spec(1, 100, 8);
    second.key.request.0 = 2;
    pair.run(&first).await;
    let transcript = pair.run(&second).await;
    assert_eq!(transcript.tokens, alone(&second));
    // Six full blocks are shared; only the seventh travels, in four layers.
    assert_eq!((transcript.joined.cached_tokens, transcript.joined.pages), (96, 4));
    pair.is_whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decode_node_prefills_itself_when_there_is_no_source() {
    let pair = Pair::start().await;
    let spec = spec(1, 50, 12);
    let request = proto::DecodeRunRequest { source: None, ..pair.decode_request(&spec) };
    let mut stream = pair.send_decode(request).await.unwrap();
    let mut transcript = pair::Transcript::default();
    transcript.drain(&mut stream).await;
    assert_eq!(transcript.tokens, alone(&spec));
    pair.is_whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_continuation_goes_on_at_the_next_index() {
    let pair = Pair::start().await;
    let whole = spec(1, 40, 20);
    let expect = alone(&whole);
    let mut rest = whole.clone();
    rest.key.request.0 = 2;
    rest.tokens.extend(expect[..7].iter().map(|&(_, token, _)| TokenId(token)));
    let transcript = pair.run(&rest).await;
    assert_eq!(transcript.tokens, expect[7..]);
    pair.is_whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_held_when_the_first_token_is_the_last() {
    let pair = Pair::start().await;
    let (one, mut stops) = (spec(1, 40, 1), spec(2, 40, 20));
    stops.stop_tokens = StopTokens(vec![TokenId(alone(&stops)[0].1)]);
    for (spec, reason) in [(one, proto::FinishReason::Length), (stops, proto::FinishReason::Stop)] {
        let mut stream = pair.prefill(&spec).await;
        let first = first_token(&mut stream).await;
        assert_eq!(first.finish, Some(reason as i32));
        assert!(stream.message().await.unwrap().is_none());
    }
    pair.is_whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefill_nobody_will_pull_ends_with_its_token() {
    let pair = Pair::start().await;
    let request = proto::PrefillRunRequest {
        capability: Vec::new(),
        ..pair.prefill_request(&spec(1, 40, 20))
    };
    let mut stream = pair.send_prefill(request).await.unwrap();
    assert_eq!(first_token(&mut stream).await.finish, None);
    assert!(stream.message().await.unwrap().is_none());
    pair.is_whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_finishes_what_runs_and_refuses_the_rest() {
    let mut decode = config();
    slow_decode(&mut decode, Duration::from_millis(5));
    let pair = Pair::with(config(), decode).await;
    let spec = spec(1, 40, 30);
    let (mut prefill, mut stream) = tokio::join!(pair.prefill(&spec), pair.decode(&spec));
    first_token(&mut prefill).await;
    pair::some_tokens(&mut stream).await;

    let node = pair.decode.node().clone();
    let late = pair.decode_request(&pair::spec(2, 40, 30));
    let mut client = pair.decode_client();
    let shutdown = CancellationToken::new();
    let leaving = baton_node::task::owned(pair.decode.until(shutdown.clone()));
    shutdown.cancel();
    pair::eventually("it drains", || node.gate.is_draining()).await;
    let refused = client.run(late).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");

    let mut transcript = pair::Transcript::default();
    transcript.drain(&mut stream).await;
    assert_eq!(transcript.reason, proto::FinishReason::Length as i32);
    leaving.await.unwrap().unwrap();
    assert_eq!(node.cache.usage().held, 0);
}
