//! The folder: what is where, and how it gets there whole.
//!
//! ```text
//! lock                       held by the one router that may be here
//! files/file-….json          what is known of a file; without it there is none
//! files/file-….jsonl         its content
//! batches/batch_….json       what is known of a batch
//! …/*.tmp                    not yet anything
//! ```
//!
//! **Invariant:** a name that doesn't end in `.tmp` is whole. Records and uploads are written under
//! another name, flushed, and renamed; the outputs of a running batch grow by whole lines, and what
//! a crash leaves of a line is cut off.

use std::{
    collections::HashSet,
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    error::DiskError,
    id::{BatchId, FileId},
    record::{BatchRecord, FileRecord},
};

const FILES: &str = "files";
const BATCHES: &str = "batches";

#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    /// Let go when this process ends, however it does.
    _lock: File,
}

/// Everything that is known.
pub(super) struct Found {
    pub(super) files: Vec<FileRecord>,
    pub(super) batches: Vec<BatchRecord>,
}

impl Disk {
    /// Takes the folder, made unless it is there.
    pub(super) fn open(root: &Path) -> Result<Self, DiskError> {
        for folder in [FILES, BATCHES] {
            let path = root.join(folder);
            fs::create_dir_all(&path).map_err(DiskError::at(path))?;
        }
        let path = root.join("lock");
        let lock = File::create(&path).map_err(DiskError::at(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Disk { root: root.to_path_buf(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DiskError::Taken { path: root.to_path_buf() }),
            Err(TryLockError::Error(source)) => Err(DiskError::Io { path, source }),
        }
    }

    /// Reads all records, and removes what a crash left without one.
    pub(super) fn load(&self) -> Result<Found, DiskError> {
        let files: Vec<FileRecord> = self.records(FILES)?;
        let batches: Vec<BatchRecord> = self.records(BATCHES)?;
        let running = batches.iter().filter(|batch| !batch.status.has_ended());
        let outputs = running.flat_map(|batch| [batch.output, batch.error]);
        let known: HashSet<FileId> = files.iter().map(|file| file.id).chain(outputs).collect();
        for path in self.list(FILES)? {
            let is_content = path.extension().is_some_and(|extension| extension == "jsonl");
            let id = path.file_stem().and_then(|stem| stem.to_str()?.parse::<FileId>().ok());
            if is_content && id.is_some_and(|id| !known.contains(&id)) {
                remove(&path)?;
            }
        }
        Ok(Found { files, batches })
    }

    fn records<T: DeserializeOwned>(&self, folder: &str) -> Result<Vec<T>, DiskError> {
        let mut records = Vec::new();
        for path in self.list(folder)? {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => {
                    let text = fs::read(&path).map_err(DiskError::at(&path))?;
                    let record = serde_json::from_slice(&text);
                    records.push(record.map_err(|source| DiskError::Record { path, source })?);
                }
                Some("tmp") => remove(&path)?,
                _ => {}
            }
        }
        Ok(records)
    }

    fn list(&self, folder: &str) -> Result<Vec<PathBuf>, DiskError> {
        let folder = self.root.join(folder);
        let entries = fs::read_dir(&folder).map_err(DiskError::at(&folder))?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        paths.collect::<io::Result<_>>().map_err(DiskError::at(&folder))
    }

    pub(super) fn content(&self, file: FileId) -> PathBuf {
        self.root.join(FILES).join(format!("{file}.jsonl"))
    }

    /// Where a file's content grows until all of it is there.
    pub(super) fn upload(&self, file: FileId) -> PathBuf {
        self.root.join(FILES).join(format!("{file}.tmp"))
    }

    pub(super) fn save_file(&self, record: &FileRecord) -> Result<(), DiskError> {
        self.save(FILES, &record.id.to_string(), record)
    }

    pub(super) fn save_batch(&self, record: &BatchRecord) -> Result<(), DiskError> {
        self.save(BATCHES, &record.id.to_string(), record)
    }

    /// First the record: a content without one is nothing.
    pub(super) fn remove_file(&self, file: FileId) -> Result<(), DiskError> {
        remove(&self.root.join(FILES).join(format!("{file}.json")))?;
        remove(&self.content(file))
    }

    pub(super) fn remove_batch(&self, batch: BatchId) -> Result<(), DiskError> {
        remove(&self.root.join(BATCHES).join(format!("{batch}.json")))
    }

    fn save(&self, folder: &str, name: &str, record: &impl Serialize) -> Result<(), DiskError> {
        let folder = self.root.join(folder);
        let (path, temporary) =
            (folder.join(format!("{name}.json")), folder.join(format!("{name}.json.tmp")));
        let text = serde_json::to_vec_pretty(record)
            .map_err(|source| DiskError::Record { path: path.clone(), source })?;
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(&text)?;
            publish(&file, &temporary, &path)
        };
        write().map_err(DiskError::at(&path))
    }
}

/// Gives a file that was written its name, for good.
pub(super) fn publish(file: &File, from: &Path, to: &Path) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(from, to)?;
    match to.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Removing what isn't there is no error.
pub(super) fn remove(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DiskError::Io { path: path.to_path_buf(), source: error })
        }
        _ => Ok(()),
    }
}

/// Does what may wait for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, DiskError> {
    tokio::task::spawn_blocking(work).await?
}
