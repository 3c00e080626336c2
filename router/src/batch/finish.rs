//! The end of a batch: every line is in one of its two files, and they become files like others.

use std::{
    fs::File,
    io::BufReader,
    sync::{Arc, PoisonError},
};

use super::{
    BatchId, Batches, DiskError, FileId, FileRecord, Purpose, disk, line,
    output::{Ended, Outputs},
    record::{BatchRecord, Status},
    run::Life,
    unix_time,
};
use crate::metrics::BatchOutcome;

/// How a batch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The file was no good; nothing ran.
    Failed,
    Completed,
    Expired,
    Cancelled,
}

impl Ending {
    fn status(self) -> Status {
        match self {
            Ending::Failed => Status::Failed,
            Ending::Completed => Status::Completed,
            Ending::Expired => Status::Expired,
            Ending::Cancelled => Status::Cancelled,
        }
    }

    /// What is said of the lines that didn't run.
    fn left(self) -> Option<(Ended, BatchOutcome)> {
        let (code, message, outcome) = match self {
            Ending::Failed | Ending::Completed => return None,
            Ending::Expired => (
                "batch_expired",
                "This request could not be executed before the completion window expired.",
                BatchOutcome::expired,
            ),
            Ending::Cancelled => (
                "batch_cancelled",
                "This request was not executed because the batch was cancelled.",
                BatchOutcome::cancelled,
            ),
        };
        Some((Ended::Left { code, message }, outcome))
    }
}

impl Life {
    pub(super) async fn finish(&self, ending: Ending) -> Result<Status, DiskError> {
        let total = self.batches.lock().batches.get(&self.id()).map(|b| b.record.counts.total);
        if ending == Ending::Failed {
            return Ok(Status::Failed);
        }
        if ending == Ending::Completed {
            let finalize = |record: &mut BatchRecord| {
                if record.status == Status::InProgress {
                    record.enter(Status::Finalizing, unix_time());
                }
            };
            self.batches.update(self.id(), finalize).await?;
        }
        // A file nobody has looked at has no lines.
        if total.is_some_and(|total| total > 0) {
            self.fill_up(ending).await?;
            self.keep_files().await?;
        }
        // Cancelled while its last line ended, it is cancelled all the same.
        let end = |record: &mut BatchRecord| {
            let is_cancelled = record.status == Status::Cancelling;
            let ending = if is_cancelled { Ending::Cancelled } else { ending };
            record.enter(ending.status(), unix_time());
        };
        self.batches.update(self.id(), end).await?;
        let record = self.batches.batch(&self.id().to_string());
        Ok(record.map_or(ending.status(), |record| record.status))
    }

    /// Notes the lines that didn't run.
    async fn fill_up(&self, ending: Ending) -> Result<(), DiskError> {
        let outputs = self.outputs().await?;
        let Some((left, outcome)) = ending.left() else { return Ok(()) };
        let (input, endpoint) = (self.input.clone(), self.record.endpoint);
        let batches = Arc::clone(&self.batches);
        let noted = disk::blocking(move || {
            let file = File::open(&input).map_err(DiskError::at(&input))?;
            let mut outputs = outputs.lock().unwrap_or_else(PoisonError::into_inner);
            let mut noted = Ok(0);
            line::split(BufReader::new(file), usize::MAX - 1, |raw| {
                let line = raw.bytes.and_then(|bytes| line::parse(bytes, endpoint).ok());
                if let (Some(line), Ok(count)) = (line, &mut noted) {
                    let number = batches.lock().next_number();
                    match outputs.note(&line.custom_id, &left, number) {
                        Ok(is_new) => *count += u64::from(is_new),
                        Err(error) => noted = Err(error),
                    }
                }
                noted.is_ok()
            })
            .map_err(DiskError::at(&input))?;
            noted
        });
        self.router.metrics.batch_lines(outcome, noted.await?);
        Ok(())
    }

    /// Makes files of the outputs that have lines.
    async fn keep_files(&self) -> Result<(), DiskError> {
        let outputs = self.outputs().await?;
        let (batches, record) = (Arc::clone(&self.batches), self.record.clone());
        disk::blocking(move || {
            let mut outputs = outputs.lock().unwrap_or_else(PoisonError::into_inner);
            outputs.flush()?;
            batches.keep_outputs(&record, &outputs)
        })
        .await
    }
}

impl Batches {
    fn keep_outputs(&self, batch: &BatchRecord, outputs: &Outputs) -> Result<(), DiskError> {
        let (answers, errors) = outputs.bytes();
        for (id, bytes, kind) in [(batch.output, answers, "output"), (batch.error, errors, "error")]
        {
            if bytes == 0 {
                disk::remove(&self.content(id))?;
                continue;
            }
            self.keep(id, bytes, format!("{}_{kind}.jsonl", batch.id))?;
        }
        self.count(batch.id, outputs);
        Ok(())
    }

    /// Shows how far a batch is.
    pub(super) fn count(&self, id: BatchId, outputs: &Outputs) {
        if let Some(known) = self.lock().batches.get_mut(&id) {
            known.record.counts = outputs.counts(known.record.counts.total);
        }
    }

    /// An output is a file; keeping it again is the same as once.
    fn keep(&self, id: FileId, bytes: u64, filename: String) -> Result<(), DiskError> {
        let (created_at, purpose) = (unix_time(), Purpose::BatchOutput);
        let record = FileRecord { id, bytes, created_at, filename, purpose };
        self.disk.save_file(&record)?;
        let mut state = self.lock();
        let before = state.files.insert(id, record).map_or(0, |old| old.bytes);
        state.bytes = state.bytes - before + bytes;
        Ok(())
    }
}
