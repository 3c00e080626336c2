//! Calls with one answer.

use std::time::Duration;

use baton_client::{Client, Prompt};
use tonic::{Code, Status};

use crate::fake::{Act, Router};

#[tokio::test]
async fn calls_are_tried_again_elsewhere() {
    let routers = [Router::start().await, Router::start().await];
    let client = Client::builder(routers.each_ref().map(|router| router.url.clone()))
        .bearer_token("secret")
        .tenant("acme")
        .build()
        .unwrap();
    for router in &routers {
        router.acts([Act::Refuse(Status::unavailable("going"))]);
    }
    assert_eq!(client.models().await.unwrap()[0].id, "fake");
    assert_eq!(client.tokenize("fake", Prompt::Text("x".into())).await.unwrap(), [1, 2]);
    assert_eq!(client.tokenize("fake", Prompt::Tokens(vec![7])).await.unwrap(), [7]);
    assert_eq!(client.detokenize("fake", &[4, 5]).await.unwrap(), "[4, 5]");
    let asked: Vec<_> = routers.iter().flat_map(Router::asked).collect();
    assert!(asked.len() >= 4);
    for one in asked {
        let said = |key: &str| one.metadata.get(key).and_then(|value| value.to_str().ok());
        assert_eq!(
            (said("authorization"), said("x-tenant-id")),
            (Some("Bearer secret"), Some("acme"))
        );
    }
}

#[tokio::test]
async fn a_hedged_call_is_answered_by_whoever_does() {
    let routers = [Router::start().await, Router::start().await];
    let urls = routers.each_ref().map(|router| router.url.clone());
    let client = Client::builder(urls).hedge(Duration::from_millis(20)).build().unwrap();
    for hangs in &routers {
        hangs.acts([Act::Hang(0)]);
        for _ in 0..2 {
            let asked = tokio::time::timeout(Duration::from_secs(20), client.models());
            assert_eq!(asked.await.expect("the other one answers").unwrap().len(), 1);
        }
        hangs.forget_acts();
    }
    for router in &routers {
        router.acts([Act::Refuse(Status::invalid_argument("no"))]);
    }
    let error = client.models().await.unwrap_err();
    let baton_client::Error::Refused(refused) = error else { panic!("{error}") };
    assert_eq!(refused.code, Code::InvalidArgument);
}

#[tokio::test]
async fn a_request_is_cancelled_at_whichever_router_runs_it() {
    let routers = [Router::start().await, Router::start().await];
    let client = Client::new(routers.each_ref().map(|router| router.url.clone())).unwrap();
    assert!(client.cancel("mine").await.unwrap());
    assert!(!client.cancel("nobody's").await.unwrap());
    routers[0]
        .acts([Act::Refuse(Status::unavailable("no")), Act::Refuse(Status::unavailable("no"))]);
    assert!(client.cancel("mine").await.unwrap());
}
