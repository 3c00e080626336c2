//! `x-request-id`, in and out.

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use baton_types::RequestId;
use rand::Rng;

use crate::request::Caller;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// A longer name, or one that isn't printable, is not taken.
const MAX_BYTES: usize = 128;

/// Gives each request its id, and its answer the client's name for it or, without one, the id.
pub(crate) async fn identify(mut request: Request, next: Next) -> Response {
    let caller = Caller {
        id: RequestId(rand::rng().random()),
        tag: request.headers().get(HEADER).and_then(tag),
    };
    let name = caller.tag.clone().unwrap_or_else(|| caller.id.to_string());
    request.extensions_mut().insert(caller);
    let mut response = next.run(request).await;
    if let Ok(name) = HeaderValue::from_str(&name) {
        response.headers_mut().insert(HEADER, name);
    }
    response
}

fn tag(header: &HeaderValue) -> Option<String> {
    printable_name(header.to_str().ok()?)
}

/// A client's name for its request, if it is one that may be logged.
pub(crate) fn printable_name(text: &str) -> Option<String> {
    let is_printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    ((1..=MAX_BYTES).contains(&text.len()) && is_printable).then(|| text.to_owned())
}
