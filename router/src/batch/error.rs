//! Why files and batches can't be had.

use std::{io, path::PathBuf};

use super::{
    id::{BatchId, FileId},
    record::Status,
};
use crate::error::RequestError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum BatchError {
    #[error("this router keeps no files, which batches need; start it with batches.directory=DIR")]
    Off,
    #[error("No such File object: {given}")]
    NoFile { given: String },
    #[error("No batch found with id '{given}'.")]
    NoBatch { given: String },
    #[error("the file is larger than {max} bytes, which is the most allowed; split it")]
    FileTooLarge { max: u64 },
    #[error("{max} files are kept, the most allowed; delete some")]
    TooManyFiles { max: u32 },
    #[error("with this file the files here would have more than {max} bytes; delete some")]
    NoSpace { max: u64 },
    #[error("{max} batches have not ended, the most allowed; wait for one, or cancel it")]
    TooManyBatches { max: u32 },
    #[error("{file} belongs to {batch}, which is {status}; wait for its end, or cancel it")]
    InUse { file: FileId, batch: BatchId, status: Status },
    #[error("Cannot cancel {batch}, whose status is '{status}'.")]
    HasEnded { batch: BatchId, status: Status },
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What went wrong where.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{} is another router's; each router needs a batches.directory of its own", path.display()
    )]
    Taken { path: PathBuf },
    #[error("{} is no record of this router ({source}); move it away", path.display())]
    Record { path: PathBuf, source: serde_json::Error },
    #[error("the task that writes to the disk ended early: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl DiskError {
    pub(super) fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| DiskError::Io { path, source }
    }
}
