//! The load test as its users run it: as a process, against servers that do as they are told.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod faults;
mod gates;
mod honest;
mod server;
mod trouble;
mod workloads;

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use baton_load::report::Report;

/// What a run of it said.
pub(crate) struct Said {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) report: Option<Report>,
}

impl Said {
    pub(crate) fn report(&self) -> &Report {
        self.report.as_ref().unwrap_or_else(|| panic!("no report: {}{}", self.out, self.err))
    }
}

pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_baton-load"));
    command.arg("--no-live").env_remove("BATON_TOKEN");
    command
}

/// A folder of its own for a test's files.
pub(crate) fn folder(test: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("load-{test}"));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Runs it to its end.
pub(crate) fn load(test: &str, args: &[&str]) -> Said {
    let file = folder(test).join("report.json");
    let _ = std::fs::remove_file(&file);
    let output = command().arg("--json").arg(&file).args(args).output().unwrap();
    said(output, &file)
}

pub(crate) fn said(output: Output, file: &std::path::Path) -> Said {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let report = std::fs::read(file).ok().and_then(|json| serde_json::from_slice(&json).ok());
    Said {
        status: output.status.code().unwrap_or(-1),
        out: text(&output.stdout),
        err: text(&output.stderr),
        report,
    }
}
