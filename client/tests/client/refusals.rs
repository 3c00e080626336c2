//! What isn't tried again, and what is, but not for ever.

use std::time::Duration;

use baton_client::{Client, Error, Refused, Request, Retry};
use baton_proto::status::{Refuse, status};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::fake::{Act, Router};

#[derive(Debug, thiserror::Error)]
#[error("told to say {1}")]
struct Told(Code, &'static str, Option<Duration>);

impl Refuse for Told {
    fn code(&self) -> Code {
        self.0
    }

    fn reason(&self) -> &'static str {
        self.1
    }

    fn retry_after(&self) -> Option<Duration> {
        self.2
    }

    fn field(&self) -> Option<&'static str> {
        (self.0 == Code::InvalidArgument).then_some("max_tokens")
    }
}

fn request() -> Request {
    Request::text("fake", "Once").max_tokens(3)
}

fn refused(error: Error) -> Refused {
    let Error::Refused(refused) = error else { panic!("{error:?}") };
    *refused
}

#[tokio::test]
async fn what_can_not_be_served_is_asked_once() {
    let router = Router::start().await;
    let client = Client::new([&router.url]).unwrap();
    for (asked, (code, reason)) in (1..).zip([
        (Code::InvalidArgument, "INVALID_REQUEST"),
        (Code::NotFound, "MODEL_NOT_FOUND"),
        (Code::FailedPrecondition, "NODES_DIED"),
        (Code::ResourceExhausted, "TOO_LATE"),
        (Code::Cancelled, "CANCELLED"),
        (Code::Internal, "ENGINE_FAILED"),
    ]) {
        router.acts([Act::Refuse(status(&Told(code, reason, None)))]);
        let refused = refused(client.answer(request()).await.unwrap_err());
        assert_eq!((refused.code, &*refused.reason), (code, reason));
        assert_eq!(refused.field.is_some(), code == Code::InvalidArgument);
        assert_eq!(router.asked().len(), asked, "{reason}");
    }
}

#[tokio::test]
async fn a_full_router_is_asked_again_when_it_says() {
    let router = Router::start().await;
    let client = Client::new([&router.url]).unwrap();
    let hint = Duration::from_millis(150);
    let full = Told(Code::ResourceExhausted, "QUEUE_FULL", Some(hint));
    router.acts([Act::Refuse(status(&full)), Act::Refuse(status(&full))]);
    let began = Instant::now();
    let answer = client.answer(request()).await.unwrap();
    assert!(began.elapsed() >= 2 * hint, "{:?}", began.elapsed());
    assert_eq!((answer.resumed, router.asked().len()), (0, 3), "there was nothing to resume");
}

#[tokio::test]
async fn retries_of_a_call_and_of_all_calls_are_bounded() {
    let router = Router::start().await;
    let gone = || Act::Refuse(Status::unavailable("gone"));
    router.acts((0..100).map(|_| gone()));
    let retry = Retry {
        attempts: 3,
        first_pause: Duration::from_millis(1),
        budget: 4,
        earned: 0.0,
        ..Retry::default()
    };
    let client = Client::builder([&router.url]).retry(retry).build().unwrap();
    let mut asked = Vec::new();
    for _ in 0..3 {
        let before = router.asked().len();
        let refused = refused(client.answer(request()).await.unwrap_err());
        assert_eq!(refused.code, Code::Unavailable);
        asked.push(router.asked().len() - before);
    }
    assert_eq!(asked, [4, 4, 2], "one is free, and four are there for all");
}

#[tokio::test]
async fn where_nobody_listens_the_error_says_so() {
    let mut router = Router::start().await;
    router.die();
    let retry = Retry { attempts: 1, first_pause: Duration::from_millis(1), ..Retry::default() };
    let client = Client::builder([&router.url]).retry(retry).build().unwrap();
    let refused = refused(client.answer(request()).await.unwrap_err());
    assert_eq!((refused.code, &*refused.reason), (Code::Unavailable, ""));
}

#[test]
fn nonsense_is_refused_before_anything_is_sent() {
    for url in ["", "host:8000", "ftp://host", "http://"] {
        let error = Client::new([url]).unwrap_err();
        assert!(matches!(error, Error::Endpoint { .. }), "{url}: {error}");
    }
    let none: [&str; 0] = [];
    assert!(matches!(Client::new(none), Err(Error::Endpoint { .. })));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let plain = |url: &str| Client::builder([url]).bearer_token("secret");
    let error = plain("http://10.0.0.1:8000").build().unwrap_err();
    assert!(matches!(error, Error::PlainToken { .. }) && !error.to_string().contains("secret"));
    plain("http://10.0.0.1:8000").allow_plain_token().build().unwrap();
    for url in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://host:1"] {
        plain(url).build().unwrap();
    }
    let error = Client::builder(["https://host"]).bearer_token("a\nb").build().unwrap_err();
    assert!(!error.to_string().contains("a\nb"), "{error}");
    let client = Client::new(["http://127.0.0.1:1"]).unwrap();
    let error = runtime.block_on(client.answer(request().name("two\nlines"))).unwrap_err();
    assert!(matches!(error, Error::Header { .. }), "{error}");
}
