//! OpenAI's HTTP interface.
//!
//! `/v1/chat/completions`, `/v1/completions`, `/v1/models`, `/tokenize`, `/detokenize`,
//! `/tokenizer_info`, and `/openapi.json`, which describes them; for operators, on the same port, `/health`, `/ready` and
//! `/metrics`. Each answer carries `x-request-id`: the client's own if it
//! sent one. `x-baton-timings: 1` asks for the object `baton` in the last message, which says where
//! the time went.

mod answer;
mod asked;
mod batches;
mod chat;
mod completions;
mod echo;
mod error;
mod event;
mod files;
mod form;
mod grammar;
mod handle;
mod identity;
mod line;
mod listing;
mod logprobs;
mod models;
mod openapi;
mod params;
mod sampling;
mod sse;
mod tokens;
mod too_large;
mod tools;

use std::sync::Arc;

use axum::{
    Router as Routes,
    body::Bytes,
    extract::{DefaultBodyLimit, Request, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use baton_node::ops;

use self::handle::{Origin, TakenUp};
pub(crate) use self::sse::Streams;
pub(crate) use self::{
    asked::{chat_ask, completion_ask},
    identity::identify,
    line::{Reply, answer_line},
};
use crate::{error::RequestError, request::Caller, router::Router};

/// Everything that is asked over HTTP, and an answer for what isn't served.
pub(crate) fn routes(router: &Arc<Router>) -> Routes {
    let max_body = usize::try_from(router.config.limits.max_body.0).unwrap_or(usize::MAX);
    Routes::new()
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/completions", post(completions::completions))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route_layer(middleware::from_fn_with_state(Arc::clone(router), too_large::refuse))
        .route("/tokenizer_info", get(tokens::info))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*model}", get(models::one))
        .merge(files::routes())
        .merge(batches::routes())
        .route("/openapi.json", openapi::route(&router.config.classes))
        .fallback(nothing_here)
        .layer(DefaultBodyLimit::max(max_body))
        .with_state(Arc::clone(router))
        .merge(ops::routes(Arc::clone(router) as Arc<dyn ops::Operable>))
        .method_not_allowed_fallback(wrong_method)
}

/// A request as a handler gets it.
struct Asked<'a> {
    router: &'a Arc<Router>,
    caller: Caller,
    headers: &'a HeaderMap,
    /// Of the body.
    digest: u32,
    /// The stream that is to go on here, begun by a router that isn't there any more.
    taken_up: Option<TakenUp>,
}

/// Answers with the rest of the stream that the client had last, if this router has it.
///
/// # Errors
///
/// None: nobody asks for one. Otherwise where it was begun, and what the client has of it, if its events' ids begin
/// like this and the body is the same.
fn resume(
    router: &Arc<Router>,
    caller: &Caller,
    headers: &HeaderMap,
    body: Option<&Bytes>,
    prefix: &str,
) -> Result<Response, Result<Option<TakenUp>, RequestError>> {
    let Some(last) = Streams::last_event(headers) else { return Err(Ok(None)) };
    let grace = router.config.timeouts.resume.0;
    let tenant = caller.tenant.as_ref().map_err(|error| Err(error.clone()))?;
    let gone = match router.streams.resume(last, tenant, grace) {
        Ok(response) => return Ok(response),
        Err(gone) => gone,
    };
    let is_it = |one: &TakenUp| body.is_some_and(|body| Origin::digest(body) == one.origin.digest);
    match TakenUp::parse(last, prefix).filter(is_it) {
        Some(taken_up) if !grace.is_zero() => Err(Ok(Some(taken_up))),
        _ => Err(Err(gone)),
    }
}

/// The body, or why there is none.
fn body(router: &Router, body: Result<Bytes, BytesRejection>) -> Result<Bytes, RequestError> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            RequestError::TooLarge { max: router.config.limits.max_body.0 }
        }
        _ => RequestError::Invalid {
            param: None,
            code: None,
            message: format!("the request's body could not be read: {rejection}"),
        },
    })
}

async fn nothing_here(State(_): State<Arc<Router>>, request: Request) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE).map(|kind| kind.as_bytes());
    if kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        let (parts, ()) = tonic::Status::unimplemented("").into_http::<()>().into_parts();
        return Response::from_parts(parts, axum::body::Body::empty());
    }
    let message = format!("Invalid URL ({} {})", request.method(), request.uri().path());
    error::object(StatusCode::NOT_FOUND, &error::invalid(message)).into_response()
}

async fn wrong_method(request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let message = format!("Not allowed to {method} on {path}");
    error::object(StatusCode::METHOD_NOT_ALLOWED, &error::invalid(message)).into_response()
}
