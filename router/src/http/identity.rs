//! `x-request-id`, in and out.

use axum::{extract::Request, http::HeaderValue, middleware::Next, response::Response};
use baton_types::RequestId;
use rand::Rng;

use crate::request::{Caller, REQUEST_ID};

/// Gives each request its id, and its answer the client's name for it or, without one, the id.
pub(crate) async fn identify(mut request: Request, next: Next) -> Response {
    let caller = Caller::new(RequestId(rand::rng().random()), request.headers());
    request.extensions_mut().insert(caller.clone());
    let response = next.run(request).await;
    if response.headers().contains_key(REQUEST_ID) {
        return response;
    }
    name(response, &caller, caller.id)
}

/// Names the answer to a request that is known here by `id`.
pub(crate) fn name(mut response: Response, caller: &Caller, id: RequestId) -> Response {
    let name = caller.tag.clone().unwrap_or_else(|| id.to_string());
    if let Ok(name) = HeaderValue::from_str(&name) {
        response.headers_mut().insert(REQUEST_ID, name);
    }
    response
}
