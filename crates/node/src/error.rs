//! Why a node doesn't do what a router asked, and how it says so.

use std::time::Duration;

use baton_kv_cache::PoolFull;
use baton_scheduler::{EngineError, Refusal, SequenceError};
use baton_types::{Generation, NodeId, Role};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::steps::SubmitError;

/// `google.rpc.ErrorInfo.domain` of everything a node says.
pub const ERROR_DOMAIN: &str = "baton.node";

/// Why a `Run` was refused or ended without its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(
        "node {node} is at generation {current}, the request is for generation {given}; \
         take the node's latest hello"
    )]
    WrongGeneration { node: NodeId, given: Generation, current: Generation },
    #[error(
        "node {node} is a {current} node, the request is for a {given} node; \
         take the node's latest hello"
    )]
    WrongRole { node: NodeId, given: Role, current: Role },
    #[error("model {given:?} is not served here, {served:?} is")]
    WrongModel { given: String, served: String },
    #[error("{field}: {why}")]
    Invalid { field: &'static str, why: String },
    #[error("compiling the grammar panicked; use another one")]
    GrammarPanicked,
    #[error("node {node} is draining and takes no new requests")]
    Draining { node: NodeId },
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error("{0}; release some or try again later")]
    PoolFull(#[from] PoolFull),
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    #[error("the step loop ended before the sequence did; try another node")]
    StepLoopEnded,
    #[error("nobody pulled the pages within the lease of {lease:?}; run the prefill again")]
    LeaseExpired { lease: Duration },
    #[error("the hand-over was aborted: {reason}")]
    HandOverAborted { reason: String },
    #[error("the pages can't be offered: {0}")]
    Offer(String),
    #[error("{max} sequences migrate {way} this node already; try again later")]
    MigrationsFull { way: &'static str, max: u32 },
    #[error("the router's word on the migration never came within {patience:?}")]
    NoWord { patience: Duration },
    #[error("the sequence has {given} tokens, and the pages that came are of {expected}")]
    WrongTokens { given: usize, expected: u32 },
    #[error("pulling the pages from {node} failed: {source}")]
    Pull { node: NodeId, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the deadline of {deadline:?} passed while the pages were on their way")]
    DeadlineInTransfer { deadline: Duration },
}

/// When to ask a node again that is full now.
const RETRY_FULL: Duration = Duration::from_millis(100);

/// How an error looks on the wire.
struct Wire {
    code: Code,
    /// `google.rpc.ErrorInfo.reason`.
    reason: &'static str,
    retry: Option<Duration>,
}

impl RunError {
    /// The field a request must change, and why.
    pub fn invalid(field: &'static str, why: impl ToString) -> Self {
        RunError::Invalid { field, why: why.to_string() }
    }

    /// A stable name for logs and metrics.
    pub fn reason(&self) -> &'static str {
        self.wire().reason
    }

    fn wire(&self) -> Wire {
        let (code, reason) = match self {
            RunError::WrongGeneration { .. } => (Code::FailedPrecondition, "WRONG_GENERATION"),
            RunError::WrongRole { .. } => (Code::FailedPrecondition, "WRONG_ROLE"),
            RunError::WrongModel { .. } => (Code::NotFound, "MODEL_NOT_SERVED"),
            RunError::Invalid { .. } => (Code::InvalidArgument, "INVALID_REQUEST"),
            RunError::GrammarPanicked
            | RunError::Sequence(SequenceError::Engine(EngineError::Constraint { .. })) => {
                (Code::InvalidArgument, "GRAMMAR_FAILED")
            }
            RunError::Draining { .. } => (Code::Unavailable, "NODE_DRAINING"),
            RunError::Submit(SubmitError::Refused(refusal)) => refusal_wire(refusal),
            RunError::Submit(SubmitError::MailboxFull { .. }) => {
                (Code::ResourceExhausted, "QUEUE_FULL")
            }
            RunError::PoolFull(_) => (Code::ResourceExhausted, "KV_POOL_FULL"),
            RunError::Submit(SubmitError::Ended) | RunError::StepLoopEnded => {
                (Code::Unavailable, "STEP_LOOP_ENDED")
            }
            RunError::Sequence(SequenceError::DeadlineExceeded { .. })
            | RunError::DeadlineInTransfer { .. } => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            RunError::Sequence(SequenceError::Superseded { .. }) => (Code::Aborted, "SUPERSEDED"),
            RunError::Sequence(SequenceError::Abandoned { .. }) => {
                (Code::Aborted, "MIGRATION_ABANDONED")
            }
            RunError::Sequence(SequenceError::Engine(_)) => (Code::Internal, "ENGINE_FAILED"),
            RunError::LeaseExpired { .. } => (Code::Aborted, "LEASE_EXPIRED"),
            RunError::HandOverAborted { .. } => (Code::Aborted, "HAND_OVER_ABORTED"),
            RunError::Offer(_) => (Code::FailedPrecondition, "OFFER_REFUSED"),
            RunError::MigrationsFull { .. } => (Code::ResourceExhausted, "MIGRATIONS_FULL"),
            RunError::NoWord { .. } => (Code::Aborted, "MIGRATION_ABANDONED"),
            RunError::WrongTokens { .. } => (Code::InvalidArgument, "INVALID_REQUEST"),
            RunError::Pull { .. } => (Code::Aborted, "PULL_FAILED"),
        };
        let retry = (code == Code::ResourceExhausted).then_some(RETRY_FULL);
        Wire { code, reason, retry }
    }
}

fn refusal_wire(refusal: &Refusal) -> (Code, &'static str) {
    match refusal {
        Refusal::QueueFull { .. } => (Code::ResourceExhausted, "QUEUE_FULL"),
        Refusal::DuplicateKey { .. } => (Code::AlreadyExists, "DUPLICATE_SEQUENCE"),
        Refusal::StaleEpoch { .. } => (Code::FailedPrecondition, "STALE_EPOCH"),
        Refusal::PoolTooSmall { .. } => (Code::OutOfRange, "POOL_TOO_SMALL"),
        Refusal::TooLong { .. } => (Code::OutOfRange, "CONTEXT_TOO_LONG"),
        _ => (Code::InvalidArgument, "INVALID_REQUEST"),
    }
}

impl From<RunError> for Status {
    fn from(error: RunError) -> Status {
        let Wire { code, reason, retry } = error.wire();
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, ERROR_DOMAIN, []);
        if retry.is_some() {
            details.set_retry_info(retry);
        }
        if let RunError::Invalid { field, why } = &error {
            details.add_bad_request_violation(*field, why.clone());
        }
        Status::with_error_details(code, error.to_string(), details)
    }
}
