//! Recorded requests, in the two formats the field publishes them in.

mod azure;
mod mooncake;

use std::{io::BufRead, time::Duration};

use super::{Prompt, Segment};

/// Requests in order of arrival.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    pub requests: Vec<TraceRequest>,
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
    #[error("line {line}: it came {back:?} before the line above; sort the trace by arrival")]
    Unsorted { line: u64, back: Duration },
    #[error(
        "line {line}: hash_ids has {given} entries, a prompt of {tokens} tokens has {expected} \
         blocks of {block} tokens"
    )]
    Blocks { line: u64, given: usize, tokens: u32, expected: usize, block: u32 },
    #[error("the trace has no requests")]
    Empty,
}

impl Trace {
    pub fn read(input: impl BufRead, format: TraceFormat) -> Result<Trace, TraceError> {
        let lines = match format {
            TraceFormat::AzureCsv => azure::read(input)?,
            TraceFormat::MooncakeJsonl => mooncake::read(input)?,
        };
        Trace::new(lines)
    }

    /// At most `count` requests from the `start`th on, the first of which comes at once.
    pub fn window(&self, start: usize, count: usize) -> Trace {
        let rest = self.requests.get(start..).unwrap_or_default();
        let first = rest.first().map_or(Duration::ZERO, |request| request.after);
        let rebased = |request: &TraceRequest| TraceRequest {
            after: request.after - first,
            ..request.clone()
        };
        Trace { requests: rest.iter().take(count).map(rebased).collect() }
    }

    fn new(recorded: Vec<Recorded>) -> Result<Trace, TraceError> {
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
        Ok(Trace { requests })
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
    u32::try_from(given).ok().filter(|&tokens| tokens > 0).ok_or_else(|| TraceError::Field {
        line,
        what,
        given: given.to_string(),
        expected: "a number of tokens, at least 1",
    })
}

/// A prompt nobody else has.
fn unique(line: u64, tokens: u32) -> Prompt {
    Prompt::new([Segment { content: line, tokens }])
}
