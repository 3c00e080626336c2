//! Recorded requests, in the formats the field publishes them in.

mod azure;
mod burstgpt;
mod mooncake;
mod table;

use std::{io::BufRead, time::Duration};

use crate::{Prompt, Segment, WorkloadError, peek};

/// Requests in order of arrival.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    pub requests: Vec<TraceRequest>,
    /// How many more the recording has that had failed then. They are not among the requests.
    pub failed: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TraceRequest {
    /// Since the first.
    pub after: Duration,
    pub prompt: Prompt,
    pub output_len: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceFormat {
    /// `TIMESTAMP,ContextTokens,GeneratedTokens` under a header; `2023-11-16 18:15:46.6805900`.
    /// Prompts share nothing.
    AzureCsv,
    /// One object a line: `timestamp` in milliseconds, `input_length`, `output_length`, and
    /// `hash_ids`, a number for each 512 tokens of the prompt; equal numbers are equal tokens.
    MooncakeJsonl,
    /// At least `Timestamp`, in seconds, `Request tokens` and `Response tokens` under a header, in any order. A
    /// response of no tokens is a request that failed. Prompts share nothing.
    BurstGptCsv,
}

impl TraceFormat {
    /// What a file is whose first line this is; of a line of JSON its beginning is enough.
    pub fn guess(first_line: &str) -> Option<TraceFormat> {
        let line = first_line.trim_start_matches('\u{feff}').trim();
        let header = line.split(',').map(|column| column.trim().trim_matches('"'));
        let has = |columns: &table::Columns| columns.find(header.clone()).is_some();
        match line {
            _ if line.starts_with('{') => Some(TraceFormat::MooncakeJsonl),
            _ if has(&azure::COLUMNS) => Some(TraceFormat::AzureCsv),
            _ if has(&burstgpt::COLUMNS) => Some(TraceFormat::BurstGptCsv),
            _ => None,
        }
    }
}

/// What is wrong with a trace, and in which line, counted from one.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("line {line}: can't be read: {source}")]
    Read { line: u64, source: std::io::Error },
    #[error("line {line}: {what} is {given:?}; expected {expected}")]
    Field { line: u64, what: &'static str, given: String, expected: &'static str },
    #[error("line {line}: not a request: {message}")]
    Syntax { line: u64, message: String },
    #[error("line {line}: it came {back:?} before the request above it; sort the trace by arrival")]
    Unsorted { line: u64, back: Duration },
    #[error(
        "line {line}: hash_ids has {given} entries, a prompt of {tokens} tokens has {expected} \
         blocks of {block} tokens"
    )]
    Blocks { line: u64, given: usize, tokens: u32, expected: usize, block: u32 },
    #[error("the trace has no requests")]
    Empty,
    #[error(
        "it begins with {given:?}; expected the header of Azure's traces ({}), that of BurstGPT's ({}), or \
         an object of Mooncake's on each line", azure::COLUMNS.header, burstgpt::COLUMNS.header
    )]
    Format { given: String },
}

impl Trace {
    pub fn read(input: impl BufRead, format: TraceFormat) -> Result<Trace, TraceError> {
        let (recorded, failed) = match format {
            TraceFormat::AzureCsv => table::read(input, &azure::COLUMNS)?,
            TraceFormat::BurstGptCsv => table::read(input, &burstgpt::COLUMNS)?,
            TraceFormat::MooncakeJsonl => (mooncake::read(input)?, 0),
        };
        Trace::new(recorded, failed)
    }

    /// In the format that its first line is of.
    pub fn read_any(input: impl BufRead) -> Result<Trace, TraceError> {
        let (line, input) =
            peek::first_line(input).map_err(|source| TraceError::Read { line: 1, source })?;
        if line.is_empty() {
            return Err(TraceError::Empty);
        }
        let given = || TraceError::Format { given: line.chars().take(120).collect() };
        Trace::read(input, TraceFormat::guess(&line).ok_or_else(given)?)
    }

    /// By how much the times of the first `count` requests are multiplied to come at `wanted` requests a second
    /// on average; without a wish, by one.
    pub fn stretch(&self, count: usize, wanted: Option<f64>) -> Result<f64, WorkloadError> {
        let requests = &self.requests[..count.min(self.requests.len())];
        let (Some(first), Some(last)) = (requests.first(), requests.last()) else {
            return Err(WorkloadError::EmptyTrace);
        };
        let Some(wanted) = wanted else { return Ok(1.0) };
        let span = last.after.saturating_sub(first.after).as_secs_f64();
        if span == 0.0 {
            return Err(WorkloadError::NoRate { requests: requests.len(), wanted });
        }
        Ok((requests.len() - 1) as f64 / span / wanted)
    }

    /// At most `count` requests from the `start`th on, the first of which comes at once.
    pub fn window(&self, start: usize, count: usize) -> Trace {
        let rest = self.requests.get(start..).unwrap_or_default();
        let first = rest.first().map_or(Duration::ZERO, |request| request.after);
        let rebased = |request: &TraceRequest| TraceRequest {
            after: request.after - first,
            ..request.clone()
        };
        Trace { requests: rest.iter().take(count).map(rebased).collect(), failed: self.failed }
    }

    fn new(recorded: Vec<Recorded>, failed: u64) -> Result<Trace, TraceError> {
        let first = recorded.first().ok_or(TraceError::Empty)?.at;
        let mut before = first;
        let mut requests = Vec::with_capacity(recorded.len());
        for Recorded { line, at, prompt, output_len } in recorded {
            if at < before {
                return Err(TraceError::Unsorted { line, back: before - at });
            }
            before = at;
            requests.push(TraceRequest { after: at - first, prompt, output_len });
        }
        Ok(Trace { requests, failed })
    }
}

/// A line's request.
struct Recorded {
    line: u64,
    at: Duration,
    prompt: Prompt,
    output_len: u32,
}

/// A count of tokens.
fn tokens(line: u64, what: &'static str, given: i64) -> Result<u32, TraceError> {
    count(line, what, &given.to_string(), 1)
}

/// The same, as it is written.
fn count(line: u64, what: &'static str, given: &str, least: u32) -> Result<u32, TraceError> {
    let count = given.parse().ok().filter(|&count| count >= least);
    count.ok_or_else(|| TraceError::Field {
        line,
        what,
        given: given.to_owned(),
        expected: if least == 0 { "a number of tokens" } else { "a number of tokens, at least 1" },
    })
}

/// A prompt nobody else has.
fn unique(line: u64, tokens: u32) -> Prompt {
    Prompt::new([Segment { content: line, tokens }])
}

#[cfg(test)]
mod tests;
