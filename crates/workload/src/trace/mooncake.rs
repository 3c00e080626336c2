use std::{io::BufRead, time::Duration};

use serde::Deserialize;

use super::{Recorded, TraceError, tokens};
use crate::{Prompt, Segment};

/// Tokens a hash id stands for.
const BLOCK: u32 = 512;

/// Other fields, which some releases have, say nothing to us.
#[derive(Deserialize)]
struct Line {
    timestamp: f64,
    input_length: i64,
    output_length: i64,
    hash_ids: Vec<u64>,
}

pub(super) fn read(input: impl BufRead) -> Result<Vec<Recorded>, TraceError> {
    let mut recorded = Vec::new();
    for (line, text) in (1..).zip(input.lines()) {
        let text = text.map_err(|source| TraceError::Read { line, source })?;
        if !text.trim().is_empty() {
            recorded.push(request(line, &text)?);
        }
    }
    Ok(recorded)
}

fn request(line: u64, text: &str) -> Result<Recorded, TraceError> {
    let broken = |error: serde_json::Error| {
        // The position inside this one-line text would read as if it were the file's.
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
        TraceError::Syntax { line, message }
    };
    let request: Line = serde_json::from_str(text).map_err(broken)?;
    let at = Duration::try_from_secs_f64(request.timestamp / 1e3).map_err(|_negative| {
        TraceError::Field {
            line,
            what: "timestamp",
            given: request.timestamp.to_string(),
            expected: "milliseconds, at least 0",
        }
    })?;
    let input = tokens(line, "input_length", request.input_length)?;
    let output_len = tokens(line, "output_length", request.output_length)?;
    let (given, expected) = (request.hash_ids.len(), input.div_ceil(BLOCK) as usize);
    if given != expected {
        return Err(TraceError::Blocks { line, given, tokens: input, expected, block: BLOCK });
    }
    let mut left = input;
    let prompt = Prompt::new(request.hash_ids.into_iter().map(|content| {
        let tokens = left.min(BLOCK);
        left -= tokens;
        Segment { content, tokens }
    }));
    Ok(Recorded { line, at, prompt, output_len })
}
