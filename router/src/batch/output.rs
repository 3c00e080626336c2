//! What became of each line, as lines of two files that only grow.
//!
//! **Invariant:** no line is in them twice. A line is in as soon as its newline is on the disk;
//! whoever opens the files again, after `kill -9` too, cuts off what has no newline, and finds who
//! is in.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use baton_types::RequestId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{error::DiskError, record::Counts};

/// The files of one batch.
#[derive(Debug)]
pub(super) struct Outputs {
    answers: Lines,
    errors: Lines,
    done: HashSet<String>,
}

/// A file of whole lines.
#[derive(Debug)]
struct Lines {
    path: PathBuf,
    file: File,
    /// Up to the last line that is whole.
    bytes: u64,
    lines: u64,
    /// More may be behind it.
    is_torn: bool,
}

/// What became of a line.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ended {
    /// As over HTTP.
    Answered { status: u16, request: RequestId, body: Value },
    /// It never was.
    Left { code: &'static str, message: &'static str },
}

impl Ended {
    pub(super) fn is_ok(&self) -> bool {
        matches!(self, Ended::Answered { status: 200..300, .. })
    }

    /// OpenAI's line.
    fn line(&self, custom_id: &str, number: u128) -> String {
        let (response, error) = match self {
            Ended::Answered { status, request, body } => {
                let request = request.to_string();
                (json!({ "status_code": status, "request_id": request, "body": body }), Value::Null)
            }
            Ended::Left { code, message } => {
                (Value::Null, json!({ "code": code, "message": message }))
            }
        };
        let id = format!("batch_req_{number:032x}");
        let line =
            json!({ "id": id, "custom_id": custom_id, "response": response, "error": error });
        format!("{line}\n")
    }
}

impl Outputs {
    pub(super) fn open(answers: &Path, errors: &Path) -> Result<Self, DiskError> {
        let mut done = HashSet::new();
        Ok(Outputs {
            answers: Lines::open(answers, &mut done)?,
            errors: Lines::open(errors, &mut done)?,
            done,
        })
    }

    pub(super) fn is_done(&self, custom_id: &str) -> bool {
        self.done.contains(custom_id)
    }

    /// Notes what became of a line, unless something is noted already: says whether it was new.
    /// `number` is nobody else's.
    pub(super) fn note(
        &mut self,
        custom_id: &str,
        ended: &Ended,
        number: u128,
    ) -> Result<bool, DiskError> {
        if self.is_done(custom_id) {
            return Ok(false);
        }
        let lines = if ended.is_ok() { &mut self.answers } else { &mut self.errors };
        lines.append(&ended.line(custom_id, number))?;
        self.done.insert(custom_id.to_owned());
        Ok(true)
    }

    /// Waits until all lines, and nothing else, are on the disk.
    pub(super) fn flush(&mut self) -> Result<(), DiskError> {
        [&mut self.answers, &mut self.errors].into_iter().try_for_each(Lines::flush)
    }

    /// Bytes of the answers and of the errors.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.answers.bytes, self.errors.bytes)
    }

    pub(super) fn counts(&self, total: u64) -> Counts {
        Counts { total, completed: self.answers.lines, failed: self.errors.lines }
    }
}

impl Lines {
    /// Opens the file, made unless it is there, and adds who is in.
    fn open(path: &Path, done: &mut HashSet<String>) -> Result<Self, DiskError> {
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).open(path);
        let file = opened.map_err(DiskError::at(path))?;
        let mut lines = Lines { path: path.to_path_buf(), file, bytes: 0, lines: 0, is_torn: true };
        lines.read(done)?;
        Ok(lines)
    }

    fn read(&mut self, done: &mut HashSet<String>) -> Result<(), DiskError> {
        #[derive(Deserialize)]
        struct Name {
            custom_id: String,
        }
        let mut reader = BufReader::new(&self.file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(DiskError::at(&self.path))?;
            if line.last() != Some(&b'\n') {
                return Ok(());
            }
            // What isn't a line of ours was torn by more than a crash; it is run again.
            let Ok(Name { custom_id }) = serde_json::from_slice(&line) else { return Ok(()) };
            done.insert(custom_id);
            self.bytes += read as u64;
            self.lines += 1;
        }
    }

    fn append(&mut self, line: &str) -> Result<(), DiskError> {
        self.mend()?;
        self.is_torn = true;
        self.file.write_all(line.as_bytes()).map_err(DiskError::at(&self.path))?;
        self.is_torn = false;
        self.bytes += line.len() as u64;
        self.lines += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.mend()?;
        self.file.sync_data().map_err(DiskError::at(&self.path))
    }

    /// Cuts off what has no end.
    fn mend(&mut self) -> Result<(), DiskError> {
        if !self.is_torn {
            return Ok(());
        }
        let cut = self.file.set_len(self.bytes);
        let cut = cut.and_then(|()| self.file.seek(SeekFrom::Start(self.bytes)));
        cut.map_err(DiskError::at(&self.path))?;
        self.is_torn = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEFT: Ended = Ended::Left { code: "batch_expired", message: "too late" };

    fn answered() -> Ended {
        Ended::Answered { status: 200, request: RequestId(1), body: json!({ "text": "é\n" }) }
    }

    #[test]
    fn lines_have_openais_shape() {
        let line: Value = serde_json::from_str(&answered().line("a", 5)).unwrap();
        assert_eq!(line["id"], format!("batch_req_{:032x}", 5));
        assert_eq!((&line["custom_id"], &line["error"]), (&json!("a"), &Value::Null));
        assert_eq!(line["response"]["status_code"], 200);
        assert_eq!(line["response"]["body"]["text"], "é\n");
        let line: Value = serde_json::from_str(&LEFT.line("b", 6)).unwrap();
        assert_eq!(
            (&line["response"], &line["error"]["code"]),
            (&Value::Null, &json!("batch_expired"))
        );
    }

    proptest! {
        /// Cut anywhere, the files lose only whole lines, and when those are noted again each line
        /// is in once.
        #[test]
        fn whatever_a_crash_leaves_no_line_is_lost_or_doubled(
            lines in prop::collection::vec(any::<bool>(), 1..12),
            kept in 0.0..=1.0_f64,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let paths = ["a", "b"].map(|name| folder.path().join(name));
            let open = || Outputs::open(&paths[0], &paths[1]).unwrap();
            let note = |outputs: &mut Outputs| {
                for (number, ok) in lines.iter().enumerate() {
                    let ended = if *ok { answered() } else { LEFT };
                    outputs.note(&number.to_string(), &ended, number as u128).unwrap();
                }
            };
            note(&mut open());
            for path in &paths {
                let file = OpenOptions::new().write(true).open(path).unwrap();
                let left = (file.metadata().unwrap().len() as f64 * kept) as u64;
                file.set_len(left).unwrap();
            }
            note(&mut open());
            let outputs = open();
            let ok = lines.iter().filter(|ok| **ok).count() as u64;
            let total = lines.len() as u64;
            let counts = Counts { total, completed: ok, failed: total - ok };
            prop_assert_eq!(outputs.counts(total), counts);
            for (path, expected) in paths.iter().zip([ok, total - ok]) {
                let text = std::fs::read_to_string(path).unwrap();
                let mut names: Vec<String> = text.lines().map(|line| {
                    let line: Value = serde_json::from_str(line).unwrap();
                    line["custom_id"].as_str().unwrap().to_owned()
                }).collect();
                names.sort();
                names.dedup();
                prop_assert_eq!(names.len() as u64, expected);
            }
        }
    }
}
