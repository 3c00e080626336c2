//! OpenAI's error object.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use baton_policy::Refusal;
use baton_proto::status::Refuse;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{batch::BatchError, error::RequestError};

/// nginx's, for want of a standard one.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Of an error's message.
const MAX_CHARACTERS: usize = 1000;

#[derive(Debug, Serialize)]
pub(super) struct ErrorObject<'a> {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

/// A request that is wrong in no parameter.
pub(super) fn invalid(message: String) -> ErrorObject<'static> {
    ErrorObject { message, kind: "invalid_request_error", param: None, code: None }
}

/// `{"error": {…}}` under `status`.
pub(super) fn object(status: StatusCode, error: &ErrorObject<'_>) -> impl IntoResponse {
    (status, Json(json!({ "error": error })))
}

/// What a stream that had begun ends with.
pub(super) fn value(error: &RequestError) -> Value {
    json!({ "error": describe(error).1 })
}

/// The whole answer.
pub(super) fn response(error: &RequestError) -> Response {
    let (status, described) = describe(error);
    let mut response = object(status, &described).into_response();
    if let Some(after) = error.retry_after() {
        let seconds = after.as_secs_f64().ceil().max(1.0);
        if let Ok(value) = HeaderValue::from_str(&format!("{seconds:.0}")) {
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
    }
    response
}

fn describe(error: &RequestError) -> (StatusCode, ErrorObject<'_>) {
    let (status, kind, code) = classify(error);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let message = error.to_string();
    let message = match bounded(&message) {
        whole if whole.len() == message.len() => message,
        part => format!("{part}…"),
    };
    (status, ErrorObject { message, kind, param: error.param().map(bounded), code })
}

/// As much of a text that may quote the request as is told.
fn bounded(text: &str) -> &str {
    text.char_indices().nth(MAX_CHARACTERS).map_or(text, |(end, _)| &text[..end])
}

/// HTTP status, and OpenAI's `type` and `code`.
fn classify(error: &RequestError) -> (u16, &'static str, Option<&'static str>) {
    const WRONG: &str = "invalid_request_error";
    const LIMIT: &str = "rate_limit_error";
    const SERVER: &str = "server_error";
    let too_long = (400, WRONG, Some("context_length_exceeded"));
    let full = (429, LIMIT, Some("rate_limit_exceeded"));
    match error {
        RequestError::InPrompt { source, .. } => classify(source),
        RequestError::Invalid { code, .. } => (400, WRONG, *code),
        RequestError::Prompts { .. } => (400, WRONG, Some("array_above_max_length")),
        RequestError::Wire(_)
        | RequestError::EmptyPrompt { .. }
        | RequestError::Text { .. }
        | RequestError::Stop(_)
        | RequestError::Sampling(_)
        | RequestError::Grammar { .. }
        | RequestError::EndlessGrammar
        | RequestError::Choices { .. }
        | RequestError::MinTokens { .. }
        | RequestError::StopTokens { .. }
        | RequestError::NoSuchToken { .. }
        | RequestError::RefusedByNode { .. } => (400, WRONG, Some("invalid_value")),
        RequestError::ContextLength { .. } => too_long,
        RequestError::TooLarge { .. } => (413, WRONG, Some("request_too_large")),
        RequestError::UnknownModel { .. } => (404, WRONG, Some("model_not_found")),
        RequestError::StreamGone { .. } => (410, WRONG, Some("stream_gone")),
        RequestError::Policy(refusal) => match refusal {
            Refusal::UnknownModel { .. } => (404, WRONG, Some("model_not_found")),
            Refusal::EmptyPrompt | Refusal::NothingToGenerate => {
                (400, WRONG, Some("invalid_value"))
            }
            Refusal::TooLong { .. } | Refusal::PromptTooLong { .. } => too_long,
            Refusal::NoNodes { .. } => (503, SERVER, Some("no_nodes")),
            Refusal::Full { .. } | Refusal::WaitedTooLong { .. } | Refusal::TooLate { .. } => full,
        },
        RequestError::TooMany { .. } | RequestError::NodesFull { .. } => full,
        RequestError::Failed { .. } => (503, SERVER, Some("attempts_failed")),
        // Clients send again what ended with a 5xx.
        RequestError::Poison { .. } => (422, SERVER, Some("nodes_died")),
        RequestError::ShuttingDown => (503, SERVER, Some("shutting_down")),
        RequestError::Deadline { .. } => (504, SERVER, Some("timeout")),
        RequestError::Cancelled { .. } => (CLIENT_CLOSED_REQUEST, SERVER, Some("cancelled")),
        RequestError::Internal(_) => (500, SERVER, None),
    }
}

/// The whole answer, of a file or batch that can't be had.
pub(super) fn batch_response(error: &BatchError) -> Response {
    const WRONG: &str = "invalid_request_error";
    const LIMIT: &str = "rate_limit_error";
    let (status, kind, code) = match error {
        BatchError::Request(error) => return response(error),
        BatchError::Off => (404, WRONG, "batches_off"),
        BatchError::NoFile { .. } | BatchError::NoBatch { .. } => (404, WRONG, "not_found"),
        BatchError::FileTooLarge { .. } => (413, WRONG, "file_too_large"),
        BatchError::TooManyFiles { .. } | BatchError::NoSpace { .. } => {
            (429, LIMIT, "insufficient_quota")
        }
        BatchError::TooManyBatches { .. } => (429, LIMIT, "rate_limit_exceeded"),
        BatchError::InUse { .. } => (409, WRONG, "file_in_use"),
        BatchError::HasEnded { .. } => (409, WRONG, "batch_has_ended"),
        BatchError::Disk(error) => {
            tracing::error!(%error, "the disk failed");
            (500, "server_error", "disk_failed")
        }
    };
    let message = match error {
        BatchError::Disk(_) => "the router could not keep this; its log says why".to_owned(),
        other => other.to_string(),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    object(status, &ErrorObject { message, kind, param: None, code: Some(code) }).into_response()
}
