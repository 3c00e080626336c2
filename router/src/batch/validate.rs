//! Can this file be run at all? Every line is looked at before the first one runs.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::BufReader,
    path::Path,
};

use super::{
    error::DiskError,
    line::{self, Raw},
    record::{Endpoint, LineError},
};

/// Errors that are told of one file.
const MAX_ERRORS: usize = 100;

/// What is allowed.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) max_lines: u32,
    /// Of a line.
    pub(super) max_bytes: usize,
    pub(super) is_served: &'a dyn Fn(&str) -> bool,
}

/// How many lines there are, or what is wrong with them.
pub(super) fn validate(
    path: &Path,
    rules: &Rules<'_>,
) -> Result<Result<u64, Vec<LineError>>, DiskError> {
    let mut file = File::open(path).map_err(DiskError::at(path))?;
    let mut seen = Seen::default();
    line::split(BufReader::new(&mut file), rules.max_bytes, |raw| {
        seen.check(raw, rules);
        seen.lines <= rules.max_lines.into() && seen.errors.len() < MAX_ERRORS
    })
    .map_err(DiskError::at(path))?;
    if seen.lines == 0 {
        seen.errors.push(LineError::new("empty_file", None, "The file has no lines to run."));
    }
    Ok(if seen.errors.is_empty() { Ok(seen.lines) } else { Err(seen.errors) })
}

#[derive(Debug, Default)]
struct Seen {
    lines: u64,
    names: HashSet<String>,
    models: HashMap<String, bool>,
    errors: Vec<LineError>,
}

impl Seen {
    fn check(&mut self, raw: Raw<'_>, rules: &Rules<'_>) {
        self.lines += 1;
        if self.lines > rules.max_lines.into() {
            let max = rules.max_lines;
            let message = format!("The file has more than {max} lines, the most allowed.");
            self.errors.push(LineError::new("too_many_tasks", None, message));
            return;
        }
        if let Err(error) = self.line(raw, rules) {
            self.errors.push(LineError { line: Some(raw.span.number), ..error });
        }
    }

    fn line(&mut self, raw: Raw<'_>, rules: &Rules<'_>) -> Result<(), LineError> {
        let bytes = raw.bytes.ok_or_else(|| {
            let max = rules.max_bytes;
            let message = format!("This line has more than {max} bytes, the most allowed.");
            LineError::new("invalid_request", None, message)
        })?;
        let line = line::parse(bytes, rules.endpoint)?;
        let model = line.model;
        let is_served =
            *self.models.entry(model).or_insert_with_key(|model| (rules.is_served)(model));
        if !is_served {
            let message = "The model does not exist; GET /v1/models lists those that do.";
            return Err(LineError::new("model_not_found", Some("body.model"), message));
        }
        let custom_id = line.custom_id;
        if self.names.contains(&custom_id) {
            let name: String = custom_id.chars().take(64).collect();
            let message = format!("The custom_id '{name}' has been used by an earlier line.");
            return Err(LineError::new("duplicate_custom_id", Some("custom_id"), message));
        }
        self.names.insert(custom_id);
        Ok(())
    }
}
