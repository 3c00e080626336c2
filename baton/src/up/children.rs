//! The child processes: started with a pipe, watched, ended in order.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use futures::future::select_all;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStderr, ChildStdin, Command},
    task::JoinSet,
    time,
};

use super::{UpError, io_error, plan::Process};

/// How long children may take to leave before they are killed.
const GRACE: Duration = Duration::from_secs(5);

/// All processes of a cluster. Dropping it kills those that are left.
#[derive(Debug)]
pub(super) struct Children {
    running: Vec<Running>,
    logs: Logs,
    verbose: bool,
    log_copies: JoinSet<()>,
}

#[derive(Debug)]
struct Running {
    name: String,
    process: Child,
    /// Closing it asks the child to leave.
    leash: ChildStdin,
}

#[derive(Debug)]
enum Logs {
    Kept(PathBuf),
    Temporary(TempDir),
}

/// A child that ended without being asked.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(super) name: String,
    status: Option<ExitStatus>,
    last_words: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ended", self.name)?;
        if let Some(status) = self.status {
            write!(f, " ({status})")?;
        }
        if self.last_words.is_empty() { Ok(()) } else { write!(f, ": {}", self.last_words) }
    }
}

impl Children {
    pub(super) fn new(log_dir: Option<&Path>, verbose: bool) -> Result<Self, UpError> {
        let logs = match log_dir {
            Some(dir) => {
                fs::create_dir_all(dir).map_err(io_error(dir.display().to_string()))?;
                Logs::Kept(dir.to_path_buf())
            }
            None => {
                let folder = tempfile::Builder::new().prefix("baton-up-").tempdir();
                Logs::Temporary(folder.map_err(io_error("temporary folder for logs"))?)
            }
        };
        Ok(Children { running: Vec::new(), logs, verbose, log_copies: JoinSet::new() })
    }

    pub(super) fn logs(&self) -> &Path {
        match &self.logs {
            Logs::Kept(path) => path,
            Logs::Temporary(folder) => folder.path(),
        }
    }

    pub(super) fn spawn(&mut self, process: &Process) -> Result<(), UpError> {
        let what = || format!("starting {}", process.name);
        let log_path = log_path(self.logs(), &process.name);
        let log = File::create(&log_path).map_err(io_error(log_path.display().to_string()))?;
        let stderr = if self.verbose {
            Stdio::piped()
        } else {
            Stdio::from(log.try_clone().map_err(io_error(what()))?)
        };
        let program = std::env::current_exe().map_err(io_error("path of this program"))?;
        let mut child = Command::new(program)
            .args(&process.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(stderr)
            // Ctrl-C reaches the parent alone, which then ends the children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(io_error(what()))?;
        let leash = child.stdin.take().expect("standard input was asked to be a pipe");
        if let Some(stderr) = child.stderr.take() {
            self.log_copies.spawn(copy_lines(process.name.clone(), stderr, log));
        }
        self.running.push(Running { name: process.name.clone(), process: child, leash });
        Ok(())
    }

    /// Waits until any child ends, and forgets it. Never returns once there are none.
    pub(super) async fn first_to_end(&mut self) -> Ended {
        if self.running.is_empty() {
            return std::future::pending().await;
        }
        let ends = self.running.iter_mut().map(|child| Box::pin(child.process.wait()));
        let (status, index, _) = select_all(ends).await;
        let child = self.running.remove(index);
        let last_words = last_words(&log_path(self.logs(), &child.name));
        Ended { name: child.name, status: status.ok(), last_words }
    }

    /// Asks all children to leave, and kills those that haven't within the grace period. Temporary
    /// logs are removed unless they may explain a failure.
    pub(super) async fn stop(self, failed: bool) {
        let Children { running, logs, mut log_copies, .. } = self;
        let mut processes: Vec<Child> = Vec::new();
        for Running { process, leash, .. } in running {
            drop(leash);
            processes.push(process);
        }
        let all = async {
            for process in &mut processes {
                let _ = process.wait().await;
            }
        };
        if time::timeout(GRACE, all).await.is_err() {
            for process in &mut processes {
                let _ = process.kill().await;
            }
        }
        log_copies.shutdown().await;
        match logs {
            Logs::Temporary(folder) if failed => {
                let path = folder.keep();
                eprintln!("The logs of all processes are in {}", path.display());
            }
            Logs::Temporary(_) | Logs::Kept(_) => {}
        }
    }
}

fn log_path(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{name}.log"))
}

/// Copies a child's log to its file and, marked with its name, to this process's standard error.
async fn copy_lines(name: String, stderr: ChildStderr, mut log: File) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        eprintln!("{name:<10} {line}");
        // A full disk must not stop the child, which would block on a pipe nobody reads.
        let _ = writeln!(log, "{line}");
    }
}

/// What a process said about its end: the last line that tells of an error, or its last line.
fn last_words(log: &Path) -> String {
    let text = tail(log).unwrap_or_default();
    let mut lines = text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let error = lines.clone().find_map(|line| line.strip_prefix("error: "));
    error.or_else(|| lines.next()).unwrap_or_default().to_owned()
}

fn tail(path: &Path) -> io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(4096);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_the_last_line_that_says_something() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "INFO up\nerror: no such model\nbye\n\n").unwrap();
        assert_eq!(last_words(file.path()), "no such model");
        assert_eq!(last_words(Path::new("/no/such/file")), "");
    }
}
