//! Parameters out of a JSON body. A wrong type or value is refused by name, unknown parameters are
//! ignored as OpenAI does, and known ones that aren't supported are refused unless they ask for
//! what happens anyway.

use std::borrow::Cow;

use baton_types::TokenId;
use serde_json::{Map, Value};

use crate::{error::RequestError, request::NamedClass};

/// A body's parameters. `null` is the same as absent.
#[derive(Debug)]
pub(super) struct Params(Map<String, Value>);

#[cfg(test)]
thread_local! {
    /// The names this thread's tests have asked for.
    pub(super) static ASKED: std::cell::RefCell<std::collections::BTreeSet<String>> =
        std::cell::RefCell::default();
}

/// A parameter that is known and not supported, and the values that change nothing.
pub(super) struct NoOp {
    pub(super) name: &'static str,
    pub(super) is_no_op: fn(&Value) -> bool,
}

impl From<Map<String, Value>> for Params {
    fn from(body: Map<String, Value>) -> Self {
        Params(body)
    }
}

impl Params {
    pub(super) fn parse(body: &[u8]) -> Result<Self, RequestError> {
        let problem = match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => return Ok(Params(map)),
            Ok(other) => format!("it is {}, not an object", kind(&other)),
            Err(error) => error.to_string(),
        };
        let message = format!("We could not parse the JSON body of your request: {problem}");
        Err(RequestError::Invalid { param: None, code: None, message })
    }

    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        #[cfg(test)]
        ASKED.with_borrow_mut(|asked| asked.insert(name.to_owned()));
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, RequestError> {
        let read = |value| read(value).ok_or_else(|| wrong_type(name, expected, value));
        self.value(name).map(read).transpose()
    }

    pub(super) fn string(&self, name: &'static str) -> Result<Option<String>, RequestError> {
        self.typed(name, "a string", |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn flag(&self, name: &'static str) -> Result<bool, RequestError> {
        Ok(self.optional_flag(name)?.unwrap_or(false))
    }

    pub(super) fn optional_flag(&self, name: &'static str) -> Result<Option<bool>, RequestError> {
        self.typed(name, "a boolean", Value::as_bool)
    }

    pub(super) fn number(&self, name: &'static str) -> Result<Option<f32>, RequestError> {
        self.typed(name, "a decimal", |value| value.as_f64().map(|number| number as f32))
    }

    /// Any 64 bits: negative seeds are seeds too.
    pub(super) fn seed(&self) -> Result<Option<u64>, RequestError> {
        let bits = |value: &Value| {
            let seed = integral(value)?;
            u64::try_from(seed).ok().or(i64::try_from(seed).ok().map(i64::cast_unsigned))
        };
        self.typed("seed", "an integer of 64 bits", bits)
    }

    /// An integer from 1.
    pub(super) fn count(&self, name: &'static str) -> Result<Option<u32>, RequestError> {
        self.integer(name, 1)
    }

    /// An integer from `min`.
    pub(super) fn integer(
        &self,
        name: &'static str,
        min: i128,
    ) -> Result<Option<u32>, RequestError> {
        let Some(given) = self.typed(name, "an integer", integral)? else { return Ok(None) };
        if given < min {
            let message = format!(
                "Invalid '{name}': integer below minimum value. Expected a value >= {min}, but \
                 got {given} instead."
            );
            return Err(RequestError::invalid(name, "integer_below_min_value", message));
        }
        Ok(Some(u32::try_from(given).unwrap_or(u32::MAX)))
    }

    /// A string or an array of strings.
    pub(super) fn stop(&self) -> Result<Vec<String>, RequestError> {
        let read = |value: &Value| match value {
            Value::String(one) => Some(vec![one.clone()]),
            Value::Array(many) => {
                many.iter().map(|stop| stop.as_str().map(str::to_owned)).collect()
            }
            _ => None,
        };
        Ok(self.typed("stop", "a string or an array of strings", read)?.unwrap_or_default())
    }

    /// An array of token ids.
    pub(super) fn token_ids(&self, name: &'static str) -> Result<Vec<TokenId>, RequestError> {
        let read = |value: &Value| token_ids(value.as_array()?);
        Ok(self.typed(name, "an array of token ids", read)?.unwrap_or_default())
    }

    /// `stream`, and `stream_options.include_usage`.
    pub(super) fn streaming(&self) -> Result<Option<bool>, RequestError> {
        let stream = self.flag("stream")?;
        let Some(options) = self.value("stream_options") else {
            return Ok(stream.then_some(false));
        };
        if !stream {
            let message =
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
            return Err(RequestError::invalid("stream_options", "invalid_value", message));
        }
        let options = options
            .as_object()
            .ok_or_else(|| wrong_type("stream_options", "an object", options))?;
        let name = "stream_options.include_usage";
        match options.get("include_usage") {
            None | Some(Value::Null) => Ok(Some(false)),
            Some(Value::Bool(include)) => Ok(Some(*include)),
            Some(other) => Err(wrong_type(name, "a boolean", other)),
        }
    }

    /// Refuses the first of `known` that asks for something.
    pub(super) fn refuse_unsupported(&self, known: &[NoOp]) -> Result<(), RequestError> {
        for NoOp { name, is_no_op } in known {
            if let Some(value) = self.value(name).filter(|value| !is_no_op(value)) {
                let given: String = value.to_string().chars().take(64).collect();
                let message =
                    format!("Unsupported value: '{name}' is not supported here, and is {given}.");
                return Err(RequestError::invalid(*name, "unsupported_value", message));
            }
        }
        Ok(())
    }
}

/// OpenAI's name for what is a class here.
pub(super) fn service_tier(params: &Params) -> Result<Option<NamedClass>, RequestError> {
    let param = "service_tier";
    Ok(params.string(param)?.map(|name| NamedClass { param, name }))
}

/// The integer that a number is, however it is written: in JSON 3.0 is 3.
pub(super) fn integral(value: &Value) -> Option<i128> {
    let whole = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    whole.or_else(|| value.as_f64().filter(|number| number.fract() == 0.0).map(|n| n as i128))
}

pub(super) fn token_ids(values: &[Value]) -> Option<Vec<TokenId>> {
    let id = |value| Some(TokenId(u32::try_from(integral(value)?).ok()?));
    values.iter().map(id).collect()
}

pub(super) fn missing(name: &'static str) -> RequestError {
    missing_in(name)
}

pub(super) fn missing_in(name: impl Into<Cow<'static, str>>) -> RequestError {
    let name = name.into();
    let message = format!("Missing required parameter: '{name}'.");
    RequestError::invalid(name, "missing_required_parameter", message)
}

pub(super) fn wrong_type(
    name: impl Into<Cow<'static, str>>,
    expected: &str,
    value: &Value,
) -> RequestError {
    let (name, given) = (name.into(), kind(value));
    let message =
        format!("Invalid type for '{name}': expected {expected}, but got {given} instead.");
    RequestError::invalid(name, "invalid_type", message)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a decimal",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

const fn no_op(name: &'static str, is_no_op: fn(&Value) -> bool) -> NoOp {
    NoOp { name, is_no_op }
}

fn off(value: &Value) -> bool {
    value == false
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn no_tool(value: &Value) -> bool {
    value == "none" || value == "auto"
}

/// What both interfaces know, and other servers add.
pub(super) const SHARED: &[NoOp] = &[no_op("use_beam_search", off)];

pub(super) const CHAT: &[NoOp] = &[
    no_op("functions", empty),
    no_op("function_call", no_tool),
    no_op("modalities", |value| *value == serde_json::json!(["text"])),
    no_op("audio", |_| false),
    no_op("prediction", |_| false),
    no_op("web_search_options", |_| false),
    no_op("reasoning_effort", |value| value == "none"),
    no_op("verbosity", |value| value == "medium"),
    no_op("store", off),
];

pub(super) const COMPLETIONS: &[NoOp] = &[no_op("suffix", empty)];
