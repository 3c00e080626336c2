//! Batches: files of requests that nobody waits for, on the disk of one router.
//!
//! `disk` keeps what is known, `line` and `plan` say what runs in which order, `run` is a batch's
//! life, `output` what became of its lines.
//!
//! # What happens when the router ends?
//!
//! However it does, everything is on the disk. A batch that hadn't ended goes on at the next start
//! with the lines that have no output: none is lost, and none is in the output twice. A line that
//! was running is run again.
//!
//! # What do those notice for whom somebody waits?
//!
//! Little: a batch's lines are requests like theirs with a lower priority, which take no place
//! while another waits, and leave room beside them; see `baton_policy::Priority`.

mod create;
mod disk;
mod error;
mod finish;
mod id;
mod line;
mod output;
mod plan;
mod record;
mod run;
mod upload;
mod validate;
mod verdict;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::Rng;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    create::Wanted,
    error::BatchError,
    id::{BatchId, FileId},
    record::{BatchRecord, Endpoint, FileRecord, Purpose, WINDOW},
    run::run_all,
    upload::Upload,
};
use self::{disk::Disk, id::Numbers};
use crate::config::BatchesConfig;
pub use error::DiskError;

/// Batches whose lines run at one time; others wait for their turn. Each has its plan in memory.
const RUNNING_BATCHES: usize = 4;

/// All files and batches of a router.
#[derive(Debug)]
pub(crate) struct Batches {
    config: BatchesConfig,
    disk: Arc<Disk>,
    state: Mutex<State>,
    /// Records are written one after the other, each as it is then.
    writing: Arc<tokio::sync::Mutex<()>>,
    /// There is a batch that nobody carries yet.
    created: Notify,
    turns: Semaphore,
    /// Lines, of whichever batch.
    places: Semaphore,
}

#[derive(Debug)]
struct State {
    files: BTreeMap<FileId, FileRecord>,
    batches: BTreeMap<BatchId, Known>,
    numbers: Numbers,
    /// Of files that are kept or on their way.
    bytes: u64,
    uploads: usize,
}

#[derive(Debug)]
struct Known {
    record: BatchRecord,
    cancel: CancellationToken,
    /// Somebody carries it.
    is_carried: bool,
}

impl Batches {
    /// Reads what is in the configured folder; none when there is none.
    pub(crate) fn open(config: &BatchesConfig) -> Result<Option<Self>, DiskError> {
        if config.directory.as_os_str().is_empty() {
            return Ok(None);
        }
        let disk = Disk::open(&config.directory)?;
        let found = disk.load()?;
        let mut state = State {
            files: found.files.into_iter().map(|file| (file.id, file)).collect(),
            batches: BTreeMap::new(),
            numbers: Numbers::default(),
            bytes: 0,
            uploads: 0,
        };
        state.bytes = state.files.values().map(|file| file.bytes).sum();
        state.files.keys().for_each(|id| state.numbers.known(id.0));
        for record in found.batches {
            [record.id.0, record.error.0].into_iter().for_each(|id| state.numbers.known(id));
            state.batches.insert(record.id, Known::new(record));
        }
        Ok(Some(Batches {
            config: config.clone(),
            disk: Arc::new(disk),
            state: Mutex::new(state),
            writing: Arc::default(),
            created: Notify::new(),
            turns: Semaphore::new(RUNNING_BATCHES),
            places: Semaphore::new(config.max_running as usize),
        }))
    }

    /// The oldest first.
    pub(crate) fn files(&self) -> Vec<FileRecord> {
        self.lock().files.values().cloned().collect()
    }

    pub(crate) fn file(&self, given: &str) -> Result<FileRecord, BatchError> {
        let state = self.lock();
        let file = given.parse().ok().and_then(|id: FileId| state.files.get(&id));
        file.cloned().ok_or_else(|| BatchError::NoFile { given: cut(given) })
    }

    pub(crate) fn content(&self, file: FileId) -> PathBuf {
        self.disk.content(file)
    }

    /// Removes a file that no running batch needs.
    pub(crate) async fn delete_file(&self, given: &str) -> Result<FileId, BatchError> {
        let FileRecord { id, bytes, .. } = self.file(given)?;
        let removed = {
            let mut state = self.lock();
            let mut running = state.batches.values().map(|known| &known.record);
            if let Some(batch) = running.find(|batch| !batch.status.has_ended() && batch.uses(id)) {
                let (batch, status) = (batch.id, batch.status);
                return Err(BatchError::InUse { file: id, batch, status });
            }
            state.files.remove(&id)
        };
        if removed.is_some() {
            let disk = Arc::clone(&self.disk);
            disk::blocking(move || disk.remove_file(id)).await?;
            self.lock().bytes -= bytes;
        }
        Ok(id)
    }

    /// The oldest first.
    pub(crate) fn batches(&self) -> Vec<BatchRecord> {
        self.lock().batches.values().map(|known| known.record.clone()).collect()
    }

    pub(crate) fn batch(&self, given: &str) -> Result<BatchRecord, BatchError> {
        let state = self.lock();
        let known = given.parse().ok().and_then(|id: BatchId| state.batches.get(&id));
        let record = known.map(|known| known.record.clone());
        record.ok_or_else(|| BatchError::NoBatch { given: cut(given) })
    }

    /// Asks a batch to end. Asking again is the same as once.
    pub(crate) async fn cancel(&self, given: &str) -> Result<BatchRecord, BatchError> {
        use record::Status;
        let BatchRecord { id, status, .. } = self.batch(given)?;
        let (record, cancel) = {
            let mut state = self.lock();
            let no_batch = || BatchError::NoBatch { given: cut(given) };
            let known = state.batches.get_mut(&id).ok_or_else(no_batch)?;
            match known.record.status {
                Status::Validating | Status::InProgress => {
                    known.record.enter(Status::Cancelling, unix_time());
                }
                Status::Cancelling => {}
                _ => return Err(BatchError::HasEnded { batch: id, status }),
            }
            (known.record.clone(), known.cancel.clone())
        };
        // What is told to be cancelling stays so.
        let saved = self.save(id).await;
        cancel.cancel();
        saved?;
        Ok(record)
    }

    /// Changes a batch's record, in memory and on the disk.
    async fn update(
        &self,
        id: BatchId,
        change: impl FnOnce(&mut BatchRecord),
    ) -> Result<(), DiskError> {
        if let Some(known) = self.lock().batches.get_mut(&id) {
            change(&mut known.record);
        }
        self.save(id).await
    }

    async fn save(&self, id: BatchId) -> Result<(), DiskError> {
        let turn = Arc::clone(&self.writing).lock_owned().await;
        let known = self.lock().batches.get(&id).map(|known| known.record.clone());
        let disk = Arc::clone(&self.disk);
        disk::blocking(move || {
            let _turn = turn;
            known.map_or(Ok(()), |record| disk.save_batch(&record))
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next_number(&mut self) -> u128 {
        let now = since_epoch().as_micros();
        self.numbers.next(u64::try_from(now).unwrap_or(u64::MAX), rand::rng().random())
    }
}

impl Known {
    fn new(record: BatchRecord) -> Self {
        let cancel = CancellationToken::new();
        if record.status == record::Status::Cancelling {
            cancel.cancel();
        }
        Known { record, cancel, is_carried: false }
    }
}

fn since_epoch() -> Duration {
    std::time::UNIX_EPOCH.elapsed().unwrap_or_default()
}

/// In seconds.
fn unix_time() -> u64 {
    since_epoch().as_secs()
}

/// What a client sent, for a message.
fn cut(given: &str) -> String {
    given.chars().take(64).collect()
}
