//! A file on its way in: on the disk piece by piece, and nothing until it is whole.

use std::{path::PathBuf, sync::Arc};

use tokio::{
    fs::File,
    io::{AsyncWriteExt, BufWriter},
};

use super::{BatchError, Batches, DiskError, FileId, FileRecord, Purpose, disk, unix_time};

/// Bytes that are written at one time.
const BUFFER: usize = 256 << 10;

/// Dropped before it is kept, it leaves nothing.
#[derive(Debug)]
pub(crate) struct Upload {
    batches: Arc<Batches>,
    id: FileId,
    file: BufWriter<File>,
    room: Room,
}

/// The room it takes, given back when dropped.
#[derive(Debug)]
struct Room {
    batches: Arc<Batches>,
    path: PathBuf,
    bytes: u64,
    is_kept: bool,
}

impl Upload {
    pub(crate) async fn begin(batches: &Arc<Batches>) -> Result<Self, BatchError> {
        let id = {
            let mut state = batches.lock();
            let max = batches.config.max_files;
            if state.files.len() + state.uploads >= max as usize {
                return Err(BatchError::TooManyFiles { max });
            }
            state.uploads += 1;
            FileId(state.next_number())
        };
        let path = batches.disk.upload(id);
        let room = Room { batches: Arc::clone(batches), path, bytes: 0, is_kept: false };
        let file = File::create(&room.path).await.map_err(DiskError::at(&room.path))?;
        let file = BufWriter::with_capacity(BUFFER, file);
        Ok(Upload { batches: Arc::clone(batches), id, file, room })
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), BatchError> {
        self.room.take(bytes.len() as u64)?;
        Ok(self.file.write_all(bytes).await.map_err(DiskError::at(&self.room.path))?)
    }

    /// From here on it is a file.
    pub(crate) async fn keep(mut self, filename: String) -> Result<FileRecord, BatchError> {
        self.file.flush().await.map_err(DiskError::at(&self.room.path))?;
        let Upload { batches, id, file, mut room } = self;
        let file = file.into_inner().into_std().await;
        let (bytes, created_at, purpose) = (room.bytes, unix_time(), Purpose::Batch);
        let record = FileRecord { id, bytes, created_at, filename, purpose };
        let (from, saved, disk) = (room.path.clone(), record.clone(), Arc::clone(&batches.disk));
        disk::blocking(move || {
            let to = disk.content(id);
            disk::publish(&file, &from, &to).map_err(DiskError::at(&to))?;
            disk.save_file(&saved).inspect_err(|_| drop(disk::remove(&to)))
        })
        .await?;
        room.is_kept = true;
        batches.lock().files.insert(id, record.clone());
        Ok(record)
    }
}

impl Room {
    fn take(&mut self, bytes: u64) -> Result<(), BatchError> {
        let config = &self.batches.config;
        if self.bytes + bytes > config.max_file.0 {
            return Err(BatchError::FileTooLarge { max: config.max_file.0 });
        }
        let mut state = self.batches.lock();
        if state.bytes + bytes > config.max_bytes.0 {
            return Err(BatchError::NoSpace { max: config.max_bytes.0 });
        }
        state.bytes += bytes;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut state = self.batches.lock();
        state.uploads -= 1;
        if !self.is_kept {
            state.bytes -= self.bytes;
            // The next start removes what stays.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
