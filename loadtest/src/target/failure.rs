//! Why a request wasn't answered.

use crate::outcome::{End, Why};

/// What went wrong, in words that many requests can share.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}{}{detail}", if detail.is_empty() { "" } else { ": " })]
pub(crate) struct Failure {
    pub kind: Kind,
    /// Few different ones: reports count them.
    pub reason: String,
    /// Whatever else is known.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// There was no room.
    Overload,
    /// Nobody there, or the connection broke.
    Connection,
    /// Who asked may not.
    Credentials,
    /// It took too long.
    Timeout,
    /// Anything else that the server said, or said wrong.
    Server,
    /// What was asked for can't be.
    Settings,
}

impl Failure {
    pub(crate) fn new(kind: Kind, reason: impl Into<String>, detail: impl Into<String>) -> Self {
        Failure { kind, reason: reason.into(), detail: detail.into() }
    }

    /// There may be room later.
    pub(crate) fn is_overload(&self) -> bool {
        self.kind == Kind::Overload
    }

    /// Another server, or this one later, may do better.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self.kind, Kind::Connection | Kind::Overload)
    }

    pub(crate) fn end(self) -> End {
        let why = Why { reason: self.reason, detail: self.detail };
        match self.kind {
            Kind::Overload => End::Refused(why),
            _ => End::Failed(why),
        }
    }
}
