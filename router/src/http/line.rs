//! A batch's line, answered as the same body would be over HTTP.

use std::{sync::Arc, time::Duration};

use axum::{
    body,
    http::{HeaderMap, header},
    response::Response,
};
use serde_json::{Map, Value};

use super::{Asked, chat, completions, error, params::Params};
use crate::{batch::Endpoint, error::RequestError, request::Caller, router::Router};

/// An answer that isn't streamed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Value,
}

/// Runs one request to its end. Dropping it cancels the request.
pub(crate) async fn answer_line(
    router: &Arc<Router>,
    endpoint: Endpoint,
    caller: Caller,
    body: Map<String, Value>,
) -> Reply {
    let headers = HeaderMap::new();
    let asked = Asked { router, caller, headers: &headers, digest: 0, taken_up: None };
    let params = Params::from(body);
    let answer = async {
        if params.streaming()?.is_some() {
            let message = "Unsupported value: 'stream' must be false in a batch.";
            return Err(RequestError::invalid("stream", "unsupported_value", message));
        }
        match endpoint {
            Endpoint::Chat => chat::respond(&asked, &params).await,
            Endpoint::Completions => completions::respond(&asked, &params).await,
        }
    };
    let response = answer.await.unwrap_or_else(|refused| error::response(&refused));
    Reply::read(response).await
}

impl Reply {
    async fn read(response: Response) -> Self {
        let (head, body) = response.into_parts();
        let after = head.headers.get(header::RETRY_AFTER).and_then(|after| after.to_str().ok());
        let retry_after = after.and_then(|after| after.parse().ok()).map(Duration::from_secs);
        // It was made in this process, whole and of JSON.
        let body = body::to_bytes(body, usize::MAX).await.unwrap_or_default();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Reply { status: head.status.as_u16(), retry_after, body }
    }
}
