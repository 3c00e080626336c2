//! What tools read and write.

use std::{
    fs::File,
    io::{self, BufReader},
    path::{Path, PathBuf},
};

use baton_sim::workload::{Trace, TraceError};

#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path}: {message}")]
    Toml { path: PathBuf, message: String },
    #[error("{path}: {source}")]
    Trace { path: PathBuf, source: TraceError },
}

impl FileError {
    /// `source` happened to `path`.
    pub(crate) fn of(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| FileError::File { path, source }
    }
}

pub(crate) fn read_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    let text = std::fs::read_to_string(path).map_err(FileError::of(path))?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
        let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        let message = format!("{line}{}", error.message());
        FileError::Toml { path: path.to_owned(), message }
    })
}

pub(crate) fn read_trace(path: &Path) -> Result<Trace, FileError> {
    let file = File::open(path).map_err(FileError::of(path))?;
    Trace::read_any(BufReader::new(file))
        .map_err(|source| FileError::Trace { path: path.to_owned(), source })
}

pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    std::fs::write(path, bytes).map_err(FileError::of(path))
}
