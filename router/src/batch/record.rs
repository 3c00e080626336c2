//! What is known of files and batches: what is kept as JSON, and what clients are shown of it.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::id::{BatchId, FileId};

/// What clients have to say as `completion_window`.
pub(crate) const WINDOW: &str = "24h";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    pub(crate) id: FileId,
    pub(crate) bytes: u64,
    /// Unix time in seconds, as are all times here.
    pub(crate) created_at: u64,
    /// What the client called it. Never a path here.
    pub(crate) filename: String,
    pub(crate) purpose: Purpose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    Batch,
    BatchOutput,
}

impl Purpose {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Purpose::Batch => "batch",
            Purpose::BatchOutput => "batch_output",
        }
    }
}

impl FileRecord {
    /// OpenAI's object.
    pub(crate) fn object(&self) -> Value {
        json!({
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_at,
            "expires_at": null,
            "filename": self.filename,
            "purpose": self.purpose.name(),
            "status": "processed",
            "status_details": null,
        })
    }
}

/// What each line of a batch asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Endpoint {
    #[serde(rename = "/v1/chat/completions")]
    Chat,
    #[serde(rename = "/v1/completions")]
    Completions,
}

impl Endpoint {
    pub(crate) const ALL: [Endpoint; 2] = [Endpoint::Chat, Endpoint::Completions];

    pub(crate) fn path(self) -> &'static str {
        match self {
            Endpoint::Chat => "/v1/chat/completions",
            Endpoint::Completions => "/v1/completions",
        }
    }
}

/// ```text
/// validating ─► in_progress ─► finalizing ─► completed
///     │  │           │ │
///     │  └► failed   │ └► expired
///     └───────┬──────┘
///             └► cancelling ─► cancelled
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Validating,
    Failed,
    InProgress,
    Finalizing,
    Completed,
    Expired,
    Cancelling,
    Cancelled,
}

impl Status {
    pub(crate) fn has_ended(self) -> bool {
        matches!(self, Status::Failed | Status::Completed | Status::Expired | Status::Cancelled)
    }

    fn name(self) -> &'static str {
        match self {
            Status::Validating => "validating",
            Status::Failed => "failed",
            Status::InProgress => "in_progress",
            Status::Finalizing => "finalizing",
            Status::Completed => "completed",
            Status::Expired => "expired",
            Status::Cancelling => "cancelling",
            Status::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// When a batch reached its states.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Times {
    in_progress_at: Option<u64>,
    finalizing_at: Option<u64>,
    completed_at: Option<u64>,
    failed_at: Option<u64>,
    expired_at: Option<u64>,
    cancelling_at: Option<u64>,
    cancelled_at: Option<u64>,
}

/// Lines that were answered well, and others. Once a batch has ended they are all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) total: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
}

/// Why a file can't be run. Without a line it is the file itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LineError {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) param: Option<String>,
    /// From 1.
    pub(crate) line: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BatchRecord {
    pub(crate) id: BatchId,
    pub(crate) endpoint: Endpoint,
    pub(crate) input: FileId,
    /// Where answers go,
    pub(crate) output: FileId,
    /// and what became of the other lines. Clients are told of both at the end.
    pub(crate) error: FileId,
    pub(crate) metadata: Option<Map<String, Value>>,
    pub(crate) status: Status,
    pub(crate) created_at: u64,
    pub(crate) expires_at: u64,
    pub(crate) times: Times,
    pub(crate) counts: Counts,
    pub(crate) errors: Vec<LineError>,
}

impl BatchRecord {
    pub(crate) fn enter(&mut self, status: Status, now: u64) {
        self.status = status;
        let times = &mut self.times;
        let time = match status {
            Status::Validating => return,
            Status::Failed => &mut times.failed_at,
            Status::InProgress => &mut times.in_progress_at,
            Status::Finalizing => &mut times.finalizing_at,
            Status::Completed => &mut times.completed_at,
            Status::Expired => &mut times.expired_at,
            Status::Cancelling => &mut times.cancelling_at,
            Status::Cancelled => &mut times.cancelled_at,
        };
        *time = Some(now);
    }

    /// Whether it needs this file, or writes it.
    pub(crate) fn uses(&self, file: FileId) -> bool {
        [self.input, self.output, self.error].contains(&file)
    }

    /// OpenAI's object.
    pub(crate) fn object(&self) -> Value {
        let ended = |file, lines| (self.status.has_ended() && lines > 0).then_some(file);
        let errors = json!({ "object": "list", "data": self.errors });
        let mut object = json!({
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": if self.errors.is_empty() { Value::Null } else { errors },
            "input_file_id": self.input,
            "completion_window": WINDOW,
            "status": self.status,
            "output_file_id": ended(self.output, self.counts.completed),
            "error_file_id": ended(self.error, self.counts.failed),
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "request_counts": self.counts,
            "metadata": self.metadata,
        });
        if let (Some(object), Ok(Value::Object(times))) =
            (object.as_object_mut(), serde_json::to_value(&self.times))
        {
            object.extend(times);
        }
        object
    }
}
