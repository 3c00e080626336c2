//! Bodies that are too large.
//!
//! Who is hung up on while it still sends often never sees why. So a body that says it is too large
//! is read to its end and forgotten, unless that end is far, and only then refused.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::Response,
};
use futures::StreamExt;

use super::error;
use crate::{error::RequestError, router::Router};

/// The longest body that is read to be forgotten, in bytes,
const FORGOTTEN: u64 = 64 << 20;
/// and for how long.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn refuse(
    State(router): State<Arc<Router>>,
    request: Request,
    next: Next,
) -> Response {
    let max = router.config.limits.max_body.0;
    let Some(length) = length(&request).filter(|&length| length > max) else {
        return next.run(request).await;
    };
    // Who expects a word first sends nothing without it.
    let is_sending = !request.headers().contains_key(header::EXPECT);
    if is_sending && length <= FORGOTTEN {
        // Refused it is, whether or not the end comes in time.
        let _ = tokio::time::timeout(PATIENCE, forget(request.into_body())).await;
    }
    error::response(&RequestError::TooLarge { max })
}

fn length(request: &Request) -> Option<u64> {
    request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn forget(body: Body) {
    let mut data = body.into_data_stream();
    while let Some(Ok(_)) = data.next().await {}
}
