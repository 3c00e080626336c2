//! Requests as rows of a CSV file under a header.

use std::{io::BufRead, time::Duration};

use csv::{ReaderBuilder, StringRecord};

use super::{Recorded, TraceError, count, unique};

/// The columns that are read, and what their header is like for who has another.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) at: &'static str,
    pub(super) input: &'static str,
    pub(super) output: &'static str,
    pub(super) header: &'static str,
    /// What a time is, if `time` takes it for none.
    pub(super) like: &'static str,
    pub(super) time: fn(&str) -> Option<Duration>,
    /// Whether an output of nothing is a request that failed when it was recorded.
    pub(super) failures: bool,
}

impl Columns {
    /// Where they are in a header. There may be others, in between and after.
    pub(super) fn find<'a>(
        &self,
        header: impl Iterator<Item = &'a str> + Clone,
    ) -> Option<[usize; 3]> {
        let find = |name| header.clone().position(|column| column.trim() == name);
        Some([find(self.at)?, find(self.input)?, find(self.output)?])
    }
}

/// The requests, and how many had failed.
pub(super) fn read(
    input: impl BufRead,
    columns: &Columns,
) -> Result<(Vec<Recorded>, u64), TraceError> {
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(input);
    let mut record = StringRecord::new();
    let (mut recorded, mut failed) = (Vec::new(), 0);
    let mut header = None;
    loop {
        let at = reader.position().line();
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return Ok((recorded, failed)),
            Err(error) => return Err(broken(at, error)),
        }
        let line = record.position().map_or(at, csv::Position::line);
        let Some((places, width)) = header else {
            header = Some((places(line, &record, columns)?, record.len()));
            continue;
        };
        if record.len() != width {
            let message = format!("it has {} columns, expected {width}", record.len());
            return Err(TraceError::Syntax { line, message });
        }
        match request(line, places.map(|place| record[place].trim()), columns)? {
            Some(request) => recorded.push(request),
            None => failed += 1,
        }
    }
}

fn broken(line: u64, error: csv::Error) -> TraceError {
    let message = error.to_string();
    match error.into_kind() {
        csv::ErrorKind::Io(source) => TraceError::Read { line, source },
        _ => TraceError::Syntax { line, message },
    }
}

fn places(line: u64, record: &StringRecord, columns: &Columns) -> Result<[usize; 3], TraceError> {
    columns.find(record.iter()).ok_or_else(|| TraceError::Field {
        line,
        what: "the header",
        given: record.iter().collect::<Vec<_>>().join(",").chars().take(120).collect(),
        expected: columns.header,
    })
}

/// `None` for one that failed.
fn request(
    line: u64,
    [at, input, output]: [&str; 3],
    columns: &Columns,
) -> Result<Option<Recorded>, TraceError> {
    let at = (columns.time)(at).ok_or_else(|| TraceError::Field {
        line,
        what: columns.at,
        given: at.to_owned(),
        expected: columns.like,
    })?;
    if columns.failures && count(line, columns.output, output, 0)? == 0 {
        count(line, columns.input, input, 0)?;
        return Ok(None);
    }
    let input = count(line, columns.input, input, 1)?;
    let output_len = count(line, columns.output, output, 1)?;
    Ok(Some(Recorded { line, at, prompt: unique(line, input), output_len }))
}
