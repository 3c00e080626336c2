//! What went wrong over HTTP.

use http::{HeaderValue, StatusCode};
use serde_json::Value;

use super::pool::Answering;
use crate::target::{Failure, failure::Kind};

/// A refusal's words.
pub(super) struct Refusal {
    pub(super) message: String,
    code: Option<String>,
}

impl Refusal {
    /// Of OpenAI's error object, or whatever there is instead.
    pub(super) fn of(error: &Value) -> Self {
        let message = error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned);
        let code =
            ["code", "type"].into_iter().find_map(|name| error[name].as_str()).map(str::to_owned);
        Refusal { message, code }
    }

    pub(super) fn code(&self) -> String {
        self.code.as_ref().map(|code| format!(" {code}")).unwrap_or_default()
    }
}

pub(super) async fn refusal(mut answering: Answering<'_>) -> Failure {
    let status = answering.status;
    let body = answering.connection.all(1 << 16).await.unwrap_or_default();
    answering.finish();
    let told = match serde_json::from_slice::<Value>(&body) {
        Ok(value) if value["error"].is_object() => Refusal::of(&value["error"]),
        _ => Refusal {
            message: String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned(),
            code: None,
        },
    };
    let kind = match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Kind::Overload,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Credentials,
        StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => Kind::Timeout,
        _ => Kind::Server,
    };
    Failure::new(kind, format!("{}{}", status.as_u16(), told.code()), told.message)
}

pub(super) fn protocol(detail: String) -> Failure {
    Failure::new(Kind::Server, "protocol", detail)
}

/// A connection to this one that couldn't be made, or broke.
pub(super) fn broken(error: &std::io::Error, to: &HeaderValue) -> Failure {
    let to = to.to_str().unwrap_or_default();
    let is_tls = error.get_ref().is_some_and(|cause| cause.is::<rustls::Error>());
    let reason = match error.kind() {
        _ if is_tls => "TLS",
        std::io::ErrorKind::ConnectionRefused => "connection refused",
        std::io::ErrorKind::ConnectionReset => "connection reset",
        std::io::ErrorKind::TimedOut => "connection timed out",
        _ => "connection broke",
    };
    Failure::new(Kind::Connection, reason, format!("{to}: {error}"))
}
