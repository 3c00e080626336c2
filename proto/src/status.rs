//! Errors between processes: typed at both ends, a `tonic::Status` with `google.rpc` details in
//! between. The one place where one becomes the other.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// `google.rpc.ErrorInfo.domain` of everything Baton says.
pub const DOMAIN: &str = "baton";

/// The most bytes of an error's text. It travels in headers, three times and escaped, and clients
/// refuse more than 8 KiB of those (gRPC's default).
const MAX_MESSAGE_BYTES: usize = 1024;

/// An error that can be told to another process.
pub trait Refuse: std::error::Error {
    fn code(&self) -> Code;

    /// A stable name, UPPER_SNAKE: what programs decide by.
    fn reason(&self) -> &'static str;

    /// When asking again may help; `None` when it won't, or nobody knows.
    fn retry_after(&self) -> Option<Duration> {
        None
    }

    /// The field of the request that is wrong, if one is.
    fn field(&self) -> Option<&'static str> {
        None
    }
}

/// How `error` travels: its text as the message, reason, hint and field in the details. A text that
/// quotes too much of the request is cut.
pub fn status(error: &impl Refuse) -> Status {
    let mut message = error.to_string();
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES - "…".len()));
        message.push('…');
    }
    let mut details = ErrorDetails::with_error_info(error.reason(), DOMAIN, []);
    if let Some(retry_after) = error.retry_after() {
        details.set_retry_info(Some(retry_after));
    }
    if let Some(field) = error.field() {
        details.add_bad_request_violation(field, &message);
    }
    Status::with_error_details(error.code(), message, details)
}

/// What another process refused, read back from its status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    pub code: Code,
    /// Empty when the status says none: it comes from the transport, or from somebody else.
    pub reason: String,
    pub message: String,
    pub retry_after: Option<Duration>,
    /// The field of the request that is wrong, if one is.
    pub field: Option<String>,
}

impl Refused {
    /// Whether it was said by Baton, not by the transport in between.
    pub fn is_typed(&self) -> bool {
        !self.reason.is_empty()
    }
}

/// Details that can't be read count as absent: the code and the message stand for themselves.
impl From<&Status> for Refused {
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let ours = |domain: &str| domain == DOMAIN || domain.starts_with("baton.");
        let reason = details.error_info().filter(|info| ours(&info.domain));
        let violation =
            details.bad_request().and_then(|request| request.field_violations.first().cloned());
        Refused {
            code: status.code(),
            reason: reason.map(|info| info.reason.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            field: violation.map(|violation| violation.field),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the queue is full at {0}; try again later")]
    struct QueueFull(u32);

    impl Refuse for QueueFull {
        fn code(&self) -> Code {
            Code::ResourceExhausted
        }

        fn reason(&self) -> &'static str {
            "QUEUE_FULL"
        }

        fn retry_after(&self) -> Option<Duration> {
            Some(Duration::from_millis(250))
        }

        fn field(&self) -> Option<&'static str> {
            (self.0 > 9).then_some("queue")
        }
    }

    #[test]
    fn what_was_refused_is_read_back() {
        let refused = Refused::from(&status(&QueueFull(7)));
        let expected = Refused {
            code: Code::ResourceExhausted,
            reason: "QUEUE_FULL".to_owned(),
            message: "the queue is full at 7; try again later".to_owned(),
            retry_after: Some(Duration::from_millis(250)),
            field: None,
        };
        assert_eq!(refused, expected);
        assert_eq!(Refused::from(&status(&QueueFull(10))).field.as_deref(), Some("queue"));
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{0} is wrong")]
    struct Quoting(String);

    impl Refuse for Quoting {
        fn code(&self) -> Code {
            Code::InvalidArgument
        }

        fn reason(&self) -> &'static str {
            "WRONG"
        }
    }

    #[test]
    fn a_long_text_is_cut_to_fit_into_headers() {
        let cut = |given: String| Refused::from(&status(&Quoting(given))).message;
        assert_eq!(cut("ä".repeat(500)), format!("{} is wrong", "ä".repeat(500)));
        let long = cut("ä".repeat(70_000));
        assert!(long.len() <= MAX_MESSAGE_BYTES && long.ends_with('…'), "{long}");
    }

    #[test]
    fn strangers_have_no_reason() {
        let plain = Refused::from(&Status::unavailable("connection reset"));
        assert!(!plain.is_typed());
        assert_eq!((plain.code, plain.message.as_str()), (Code::Unavailable, "connection reset"));
        let details = ErrorDetails::with_error_info("NOPE", "example.com", []);
        let other = Status::with_error_details(Code::Internal, "no", details);
        assert!(!Refused::from(&other).is_typed());
        let garbage = Status::with_details(Code::Internal, "no", vec![0xff; 9].into());
        assert!(!Refused::from(&garbage).is_typed());
    }
}
