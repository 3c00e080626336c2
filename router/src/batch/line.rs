//! A batch's input, line by line.

use std::io::{self, BufRead, Read};

use serde_json::{Map, Value};

use super::record::{Endpoint, LineError};

/// Longer names are refused.
const MAX_CUSTOM_ID: usize = 512;

/// One request of a batch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) custom_id: String,
    pub(crate) model: String,
    pub(crate) body: Map<String, Value>,
}

impl LineError {
    pub(super) fn new(code: &str, param: Option<&str>, message: impl Into<String>) -> Self {
        let param = param.map(str::to_owned);
        LineError { code: code.to_owned(), message: message.into(), param, line: None }
    }
}

fn missing(param: &str, expected: &str) -> LineError {
    let message = format!("Missing required parameter: '{param}' must be {expected}.");
    LineError::new("missing_required_parameter", Some(param), message)
}

/// Reads one line. Its number is the caller's to add.
pub(crate) fn parse(bytes: &[u8], endpoint: Endpoint) -> Result<Line, LineError> {
    let value = serde_json::from_slice(bytes).map_err(|error| {
        let message = format!("This line is not parseable as valid JSON: {error}.");
        LineError::new("invalid_json_line", None, message)
    })?;
    let Value::Object(mut object) = value else {
        let message = "This line is JSON, but not an object.";
        return Err(LineError::new("invalid_json_line", None, message));
    };
    let custom_id = match object.remove("custom_id") {
        Some(Value::String(id)) if (1..=MAX_CUSTOM_ID).contains(&id.len()) => id,
        Some(Value::String(id)) => {
            let given = id.len();
            let message =
                format!("custom_id has {given} bytes; from 1 to {MAX_CUSTOM_ID} are allowed.");
            return Err(LineError::new("invalid_request", Some("custom_id"), message));
        }
        _ => return Err(missing("custom_id", "a string")),
    };
    match object.get("method") {
        Some(Value::String(method)) if method == "POST" => {}
        _ => return Err(missing("method", "\"POST\"")),
    }
    let path = endpoint.path();
    if object.get("url").and_then(Value::as_str) != Some(path) {
        let message = format!("The URL of this line is not the batch's endpoint, '{path}'.");
        return Err(LineError::new("url_mismatch", Some("url"), message));
    }
    let Some(Value::Object(body)) = object.remove("body") else {
        return Err(missing("body", "an object"));
    };
    let Some(Value::String(model)) = body.get("model") else {
        return Err(missing("body.model", "a string"));
    };
    Ok(Line { custom_id, model: model.clone(), body })
}

/// Where a line is, without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) offset: u64,
    pub(crate) length: usize,
    /// From 1; empty lines count.
    pub(crate) number: u64,
}

/// A line that was read: its bytes, unless it has more than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Raw<'a> {
    pub(crate) span: Span,
    pub(crate) bytes: Option<&'a [u8]>,
}

/// Calls `each` with every line that isn't empty, until it says no. No more than `max` bytes of a
/// line are ever in memory.
pub(crate) fn split(
    mut input: impl BufRead,
    max: usize,
    mut each: impl FnMut(Raw<'_>) -> bool,
) -> io::Result<()> {
    let (mut offset, mut number, mut buffer) = (0, 0, Vec::new());
    loop {
        buffer.clear();
        let limit = max as u64 + 1;
        let read = (&mut input).take(limit).read_until(b'\n', &mut buffer)? as u64;
        if read == 0 {
            return Ok(());
        }
        let is_whole = buffer.last() == Some(&b'\n') || read < limit;
        let skipped = if is_whole { 0 } else { input.skip_until(b'\n')? as u64 };
        number += 1;
        let text = buffer.trim_ascii_end();
        let span = Span { offset, length: text.len(), number };
        offset += read + skipped;
        let bytes = is_whole.then_some(text);
        if !text.is_empty() && !each(Raw { span, bytes }) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn line(change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let body = json!({ "model": "m", "prompt": "p" });
        let mut line = json!({
            "custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body,
        });
        change(&mut line);
        line.to_string().into_bytes()
    }

    #[test]
    fn lines_that_are_wrong_are_told_apart() {
        let parsed = parse(&line(|_| {}), Endpoint::Completions).unwrap();
        assert_eq!((parsed.custom_id.as_str(), parsed.model.as_str()), ("a", "m"));
        let check = |bytes: &[u8], code: &str, param: Option<&str>| {
            let error = parse(bytes, Endpoint::Completions).unwrap_err();
            assert_eq!((error.code.as_str(), error.param.as_deref()), (code, param), "{error:?}");
            assert!(error.message.len() < 300, "{error:?}");
        };
        check(b"{", "invalid_json_line", None);
        check(b"\xff\xfe", "invalid_json_line", None);
        check(b"[1]", "invalid_json_line", None);
        check(&[b'['; 10_000], "invalid_json_line", None);
        let missing = "missing_required_parameter";
        check(&line(|l| l["custom_id"] = json!(7)), missing, Some("custom_id"));
        check(&line(|l| l["custom_id"] = json!("")), "invalid_request", Some("custom_id"));
        let huge = "x".repeat(1 << 20);
        check(&line(|l| l["custom_id"] = json!(huge)), "invalid_request", Some("custom_id"));
        check(&line(|l| l["method"] = json!("GET")), missing, Some("method"));
        check(&line(|l| l["url"] = json!("/v1/chat/completions")), "url_mismatch", Some("url"));
        check(&line(|l| l["body"] = json!("no")), missing, Some("body"));
        check(&line(|l| l["body"] = json!({})), missing, Some("body.model"));
    }

    proptest! {
        /// Every line is where it is said to be, whatever bytes there are, and none is longer than
        /// allowed.
        #[test]
        fn lines_are_where_they_are_said_to_be(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b' '), any::<u8>()], 0..200),
            max in 1..20_usize,
        ) {
            let mut seen = Vec::new();
            split(&bytes[..], max, |raw| {
                seen.push((raw.span, raw.bytes.map(<[u8]>::to_vec)));
                true
            }).unwrap();
            let whole: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
            for (span, text) in &seen {
                let line = whole[span.number as usize - 1];
                prop_assert_eq!(text.is_some(), line.len() <= max, "{:?}", line);
                if let Some(text) = text {
                    prop_assert_eq!(text, line.trim_ascii_end());
                    let at = span.offset as usize;
                    prop_assert_eq!(&bytes[at..at + span.length], &text[..]);
                }
            }
            let full = whole.iter().filter(|line| {
                let read = &line[..line.len().min(max + 1)];
                !read.trim_ascii_end().is_empty()
            });
            prop_assert_eq!(seen.len(), full.count());
        }
    }
}
