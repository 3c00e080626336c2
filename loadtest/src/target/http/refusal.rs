//! What went wrong over HTTP.

use http_body_util::{BodyExt, Limited};
use hyper::{Response, StatusCode, body::Incoming, header::HeaderValue};
use serde_json::Value;

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

pub(super) async fn refusal(response: &mut Response<Incoming>) -> Failure {
    let status = response.status();
    let body = Limited::new(response.body_mut(), 1 << 16).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
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

/// A connection to this one that couldn't be made.
pub(super) fn broken_io(error: &std::io::Error, to: &HeaderValue) -> Failure {
    let to = to.to_str().unwrap_or_default();
    let is_tls = error.get_ref().is_some_and(|cause| cause.is::<rustls::Error>());
    let reason = if is_tls { "TLS" } else { of_kind(error.kind()).unwrap_or("connection broke") };
    Failure::new(Kind::Connection, reason, format!("{to}: {error}"))
}

fn of_kind(kind: std::io::ErrorKind) -> Option<&'static str> {
    match kind {
        std::io::ErrorKind::ConnectionRefused => Some("connection refused"),
        std::io::ErrorKind::ConnectionReset => Some("connection reset"),
        std::io::ErrorKind::TimedOut => Some("connection timed out"),
        _ => None,
    }
}

/// A connection that couldn't be made, or broke.
pub(super) fn broken(error: &(dyn std::error::Error + 'static)) -> Failure {
    let mut detail = error.to_string();
    let mut cause = error.source();
    let mut reason = "connection broke";
    while let Some(next) = cause {
        let said = next.to_string();
        if !detail.contains(&said) {
            detail = format!("{detail}: {said}");
        }
        if let Some(io) = next.downcast_ref::<std::io::Error>() {
            reason = of_kind(io.kind()).unwrap_or(reason);
        }
        cause = next.source();
    }
    Failure::new(Kind::Connection, reason, detail)
}
