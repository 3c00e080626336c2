//! Whatever state a request is in, dropping its stream gives everything back (`no-leak`).

use std::time::Duration;

use tonic::Code;

use crate::pair::{
    Pair, alone, config, eventually, first_token, slow_decode, slow_prefill, some_tokens, spec, why,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_prefill() {
    let mut small = config();
    small.kv.blocks = Some(8);
    let pair = Pair::with(small, config()).await;
    // Takes the whole pool and holds it, for nobody pulls.
    let mut holder = pair.prefill(&spec(1, 128, 20)).await;
    first_token(&mut holder).await;
    let queued = pair.prefill(&spec(2, 128, 20)).await;
    let steps = &pair.prefill.node().steps;
    eventually("the second waits", || steps.load().waiting == 1).await;
    drop(queued);
    eventually("the queue is empty", || steps.load().waiting == 0).await;
    assert_eq!(pair.prefill.node().cache.usage().held, 8);
    drop(holder);
    pair.is_whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_prefill_and_its_waiting_puller() {
    let mut slow = config();
    slow_prefill(&mut slow, Duration::from_millis(40));
    slow.scheduler.chunk_tokens = 32;
    let pair = Pair::with(slow, config()).await;
    let spec = spec(1, 640, 20);
    let (prefill, decode) = tokio::join!(pair.prefill(&spec), pair.decode(&spec));
    let (from, to) = (pair.prefill.node(), pair.decode.node());
    eventually("it runs", || from.steps.count() > 1).await;
    eventually("it pulls", || to.metrics.transfers().held() == 1).await;
    drop((prefill, decode));
    pair.is_whole_again().await;
    assert!(from.steps.count() < 20, "it stopped early");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefill_that_holds_its_pages() {
    let pair = Pair::start().await;
    let mut stream = pair.prefill(&spec(1, 100, 20)).await;
    first_token(&mut stream).await;
    eventually("it holds", || pair.prefill.node().metrics.transfers().held() == 1).await;
    assert_eq!(pair.prefill.node().cache.usage().held, 7);
    drop(stream);
    pair.is_whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn held_pages_nobody_pulls_expire_with_their_lease() {
    let mut brief = config();
    brief.transfer.lease = baton_node::config::Span::from_millis(50);
    let pair = Pair::with(brief, config()).await;
    let mut stream = pair.prefill(&spec(1, 100, 20)).await;
    first_token(&mut stream).await;
    let status = stream.message().await.unwrap_err();
    assert_eq!(why(&status), (Code::Aborted, "LEASE_EXPIRED".to_owned()), "{status}");
    pair.is_whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_whose_source_has_nothing_yet() {
    let pair = Pair::start().await;
    let stream = pair.decode(&spec(1, 100, 20)).await;
    let decode = pair.decode.node();
    eventually("it pulls", || decode.metrics.transfers().held() == 1).await;
    assert_eq!(decode.cache.usage().held, 7);
    drop(stream);
    pair.is_whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_decode() {
    let mut slow = config();
    slow_decode(&mut slow, Duration::from_millis(2));
    let pair = Pair::with(config(), slow).await;
    let endless = spec(1, 100, 3000);
    let (mut prefill, mut decode) = tokio::join!(pair.prefill(&endless), pair.decode(&endless));
    first_token(&mut prefill).await;
    some_tokens(&mut decode).await;
    drop((prefill, decode));
    pair.is_whole_again().await;
    // The nodes are as good as new.
    let next = spec(2, 60, 10);
    assert_eq!(pair.run(&next).await.tokens, alone(&next));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_stalls_nobody() {
    let pair = Pair::start().await;
    let (lazy, quick) = (spec(1, 40, 3000), spec(2, 40, 50));
    let (_prefill, unread) = tokio::join!(pair.prefill(&lazy), pair.decode(&lazy));
    assert_eq!(pair.run(&quick).await.tokens, alone(&quick));
    let mut unread = unread;
    let mut transcript = crate::pair::Transcript::default();
    transcript.drain(&mut unread).await;
    assert_eq!(transcript.tokens, alone(&lazy)[1..], "and it loses nothing itself");
    drop(_prefill);
    pair.is_whole_again().await;
}
