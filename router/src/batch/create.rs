//! New batches.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{
    BatchError, BatchId, BatchRecord, Batches, Endpoint, FileId, Known, State, disk,
    record::{Counts, Status, Times},
    unix_time,
};

/// What a client wants run.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) input: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) metadata: Option<Map<String, Value>>,
}

impl Batches {
    /// Takes a batch in, and runs it as soon as there is room.
    pub(crate) async fn create(&self, wanted: Wanted) -> Result<BatchRecord, BatchError> {
        let input = self.file(&wanted.input)?.id;
        let (record, forgotten) = {
            let mut state = self.lock();
            if !state.files.contains_key(&input) {
                return Err(BatchError::NoFile { given: wanted.input });
            }
            let forgotten = state.make_room(self.config.max_batches)?;
            let record = self.record(&mut state, input, wanted);
            // Nobody carries it before it is on the disk.
            let known = Known { is_carried: true, ..Known::new(record.clone()) };
            state.batches.insert(record.id, known);
            (record, forgotten)
        };
        if let Some(oldest) = forgotten {
            let disk = Arc::clone(&self.disk);
            disk::blocking(move || disk.remove_batch(oldest)).await?;
        }
        let saved = self.save(record.id).await;
        let mut state = self.lock();
        if let Err(error) = saved {
            state.batches.remove(&record.id);
            return Err(error.into());
        }
        if let Some(known) = state.batches.get_mut(&record.id) {
            known.is_carried = false;
        }
        drop(state);
        self.created.notify_one();
        Ok(record)
    }

    fn record(&self, state: &mut State, input: FileId, wanted: Wanted) -> BatchRecord {
        let created_at = unix_time();
        BatchRecord {
            id: BatchId(state.next_number()),
            endpoint: wanted.endpoint,
            input,
            output: FileId(state.next_number()),
            error: FileId(state.next_number()),
            metadata: wanted.metadata,
            status: Status::Validating,
            created_at,
            expires_at: created_at + self.config.window.0.as_secs().max(1),
            times: Times::default(),
            counts: Counts::default(),
            errors: Vec::new(),
        }
    }
}

impl State {
    /// Forgets the oldest batch that has ended, if there are too many.
    fn make_room(&mut self, max: u32) -> Result<Option<BatchId>, BatchError> {
        if self.batches.len() < max as usize {
            return Ok(None);
        }
        let mut batches = self.batches.values().map(|known| &known.record);
        let ended = batches.find(|batch| batch.status.has_ended());
        let oldest = ended.map(|batch| batch.id).ok_or(BatchError::TooManyBatches { max })?;
        self.batches.remove(&oldest);
        Ok(Some(oldest))
    }
}
