//! Several answers to one prompt.
//!
//! The first choice goes ahead. The others begin with its first token: then the nodes have the
//! prompt's blocks in their caches, and every choice shares them.

use tokio_util::sync::{CancellationToken, DropGuard};

/// One request's order of choices.
#[derive(Debug, Default)]
pub(super) struct Lead {
    first_token: CancellationToken,
}

/// One choice's part in it.
#[derive(Debug)]
pub(super) enum Part {
    /// Lets the others go: with its first token, or when it ends without one.
    First(Option<DropGuard>),
    Later(CancellationToken),
}

impl Lead {
    pub(super) fn part(&self, is_first: bool) -> Part {
        match is_first {
            true => Part::First(Some(self.first_token.clone().drop_guard())),
            false => Part::Later(self.first_token.clone()),
        }
    }
}

impl Part {
    /// Waits until this choice may begin.
    pub(super) async fn turn(&self) {
        if let Part::Later(first_token) = self {
            first_token.cancelled().await;
        }
    }

    pub(super) fn is_first(&self) -> bool {
        matches!(self, Part::First(_))
    }

    /// This choice's first token is here.
    pub(super) fn lead(&mut self) {
        if let Part::First(guard) = self {
            *guard = None;
        }
    }
}
