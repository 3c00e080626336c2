use std::time::Duration;

use tonic::{Code, Status};

/// Why a call didn't end well.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("{url:?} is no endpoint: {why}; it must be like http://host:8000")]
    Endpoint { url: String, why: String },
    #[error("the client's TLS settings can't be used: {why}")]
    Tls { why: String },
    #[error("a bearer token would be sent to {url} in plain text; use https, or allow it")]
    PlainToken { url: String },
    #[error("{what} can't be sent in a header: {given:?}")]
    Header { what: &'static str, given: String },
    /// A router said no, or the way to it broke, and trying again didn't help or wouldn't.
    #[error("{0}")]
    Refused(Box<Refused>),
    #[error("the first token wasn't there after {within:?}")]
    FirstToken { within: Duration, request_id: String },
    #[error("the deadline of {deadline:?} passed")]
    Deadline { deadline: Duration, request_id: String },
    /// Somebody who isn't a router of this protocol answers.
    #[error("the router broke the protocol: {what}")]
    Protocol { what: String, request_id: String },
}

/// What a router, or the transport, said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code:?}{}{reason})", if reason.is_empty() { "" } else { ", " })]
pub struct Refused {
    pub code: Code,
    /// A stable name, such as `QUEUE_FULL`; empty if the transport failed.
    pub reason: String,
    pub message: String,
    /// The field of the request that is wrong, if one is.
    pub field: Option<String>,
    /// When to ask again, if the router knows.
    pub retry_after: Option<Duration>,
    /// By the router's name for the request, or the client's; empty if neither has one.
    pub request_id: String,
}

impl Error {
    pub(crate) fn refused(status: &Status, request_id: &str) -> Self {
        let told = baton_proto::status::Refused::from(status);
        let named = status.metadata().get("x-request-id").and_then(|name| name.to_str().ok());
        // HTTP/2's ENHANCE_YOUR_CALM ends the connection: no router has refused the request.
        let is_local = std::error::Error::source(status).is_some();
        let code = match told.code {
            Code::ResourceExhausted if is_local => Code::Unavailable,
            code => code,
        };
        Error::Refused(Box::new(Refused {
            code,
            reason: told.reason,
            message: told.message,
            field: told.field,
            retry_after: told.retry_after,
            request_id: named.unwrap_or(request_id).to_owned(),
        }))
    }

    /// Whether the same request may be served elsewhere, or later: a router that is gone or going, and one that is
    /// full and says when to come again.
    pub fn is_transient(&self) -> bool {
        let Error::Refused(refused) = self else { return false };
        let from_transport = refused.reason.is_empty();
        match refused.code {
            Code::Unavailable => true,
            Code::ResourceExhausted => refused.retry_after.is_some(),
            // A connection that broke is told as any of these.
            Code::Unknown | Code::Internal | Code::Cancelled | Code::Aborted => from_transport,
            _ => false,
        }
    }

    /// Whether there was no room for it.
    pub(crate) fn is_overload(&self) -> bool {
        matches!(self, Error::Refused(refused) if refused.code == Code::ResourceExhausted)
    }

    /// The router's name for the request, or the client's.
    pub fn request_id(&self) -> Option<&str> {
        let id = match self {
            Error::Refused(refused) => &refused.request_id,
            Error::FirstToken { request_id, .. }
            | Error::Deadline { request_id, .. }
            | Error::Protocol { request_id, .. } => request_id,
            _ => return None,
        };
        Some(id).filter(|id| !id.is_empty()).map(String::as_str)
    }

    /// When to ask again, if the router knows.
    pub fn retry_after(&self) -> Option<Duration> {
        let Error::Refused(refused) = self else { return None };
        refused.retry_after
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use super::*;

    #[test]
    fn a_connection_that_ends_is_no_refusal() {
        let mut status = Status::resource_exhausted("h2 protocol error: http2 error");
        assert!(!Error::refused(&status, "").is_transient(), "a router's own word stands");
        status.set_source(Arc::new(io::Error::other("ENHANCE_YOUR_CALM")));
        let error = Error::refused(&status, "");
        assert!(error.is_transient() && !error.is_overload(), "{error}");
    }
}
