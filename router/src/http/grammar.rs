//! What the output must match, out of a JSON body: OpenAI's `response_format`, and vLLM's
//! `structured_outputs`.

use baton_types::Grammar;
use serde_json::{Map, Value, json};

use super::params::{Params, missing_in, wrong_type};
use crate::error::RequestError;

/// The most alternatives of a `choice`.
const MAX_ALTERNATIVES: usize = 1024;

/// The grammar that is asked for, in whichever way.
pub(super) fn grammar(params: &Params) -> Result<Option<Grammar>, RequestError> {
    let formatted = match params.value("response_format") {
        Some(format) => response_format(format)?,
        None => None,
    };
    match (formatted, params.value("structured_outputs")) {
        (formatted, None) => Ok(formatted),
        (None, Some(structured)) => structured_outputs(structured).map(Some),
        (Some(_), Some(_)) => {
            let message = "'structured_outputs' and 'response_format' both say what the output \
                           must match; leave one out.";
            Err(RequestError::invalid("structured_outputs", "invalid_value", message))
        }
    }
}

/// Where [`grammar`] found it.
pub(super) fn grammar_param(params: &Params) -> &'static str {
    match params.value("structured_outputs") {
        Some(_) => "structured_outputs",
        None => "response_format",
    }
}

/// `text`, `json_object`, `json_schema`; and beyond OpenAI's, `regex` and `grammar`.
fn response_format(format: &Value) -> Result<Option<Grammar>, RequestError> {
    let name = "response_format";
    let fields = object(name, format)?;
    Ok(match text(name, fields, "type")? {
        "text" => None,
        "json_object" => Some(any_object()),
        "json_schema" => {
            let name = "response_format.json_schema";
            let fields = object(name, field("response_format", fields, "json_schema")?)?;
            text(name, fields, "name")?;
            // Without a schema any object will do, as with OpenAI.
            match fields.get("schema").filter(|schema| !schema.is_null()) {
                Some(schema) => Some(json_schema("response_format.json_schema.schema", schema)?),
                None => Some(any_object()),
            }
        }
        "regex" => Some(Grammar::Regex(text(name, fields, "pattern")?.into())),
        "grammar" => {
            let definition = text(name, fields, "definition")?.into();
            match fields.get("syntax").and_then(Value::as_str).unwrap_or("lark") {
                "lark" => Some(Grammar::Lark(definition)),
                "regex" => Some(Grammar::Regex(definition)),
                other => {
                    return Err(unknown("response_format.syntax", other, "'lark' and 'regex'"));
                }
            }
        }
        other => {
            let known = "'text', 'json_object', 'json_schema', 'regex' and 'grammar'";
            return Err(unknown("response_format.type", other, known));
        }
    })
}

/// Exactly one of `json`, `json_object`, `regex`, `choice` and `grammar`.
fn structured_outputs(structured: &Value) -> Result<Grammar, RequestError> {
    let name = "structured_outputs";
    let fields = object(name, structured)?;
    let mut given = fields.iter().filter(|(_, value)| !value.is_null());
    let (Some((kind, value)), None) = (given.next(), given.next()) else {
        let message = "'structured_outputs' must have exactly one of 'json', 'json_object', \
                       'regex', 'choice' and 'grammar'.";
        return Err(RequestError::invalid(name, "invalid_value", message));
    };
    match kind.as_str() {
        "json" => json_schema("structured_outputs.json", value),
        "json_object" if *value == true => Ok(any_object()),
        "regex" => Ok(Grammar::Regex(text(name, fields, "regex")?.into())),
        "grammar" => Ok(Grammar::Lark(text(name, fields, "grammar")?.into())),
        "choice" => choice(value),
        other => {
            let known = "'json', 'json_object', 'regex', 'choice' and 'grammar'";
            Err(unknown(name, other, known))
        }
    }
}

/// One of some texts.
fn choice(value: &Value) -> Result<Grammar, RequestError> {
    let name = "structured_outputs.choice";
    let wrong = || wrong_type(name, "an array of strings", value);
    let texts: Option<Vec<&str>> =
        value.as_array().ok_or_else(wrong)?.iter().map(Value::as_str).collect();
    let texts = texts.ok_or_else(wrong)?;
    if !(1..=MAX_ALTERNATIVES).contains(&texts.len()) {
        let message = format!(
            "Invalid '{name}': it has {} alternatives; from 1 to {MAX_ALTERNATIVES} are allowed.",
            texts.len()
        );
        return Err(RequestError::invalid(name, "invalid_value", message));
    }
    let alternatives: Vec<String> = texts.iter().map(|text| json!(text).to_string()).collect();
    Ok(Grammar::Lark(format!("start: {}", alternatives.join(" | ")).into()))
}

/// A schema, as an object or as its text.
fn json_schema(name: &'static str, schema: &Value) -> Result<Grammar, RequestError> {
    match schema {
        Value::Object(_) | Value::Bool(_) => Ok(Grammar::JsonSchema(schema.to_string().into())),
        Value::String(text) => Ok(Grammar::JsonSchema(text.as_str().into())),
        other => Err(wrong_type(name, "a JSON schema", other)),
    }
}

fn any_object() -> Grammar {
    Grammar::JsonSchema(json!({ "type": "object" }).to_string().into())
}

fn object<'a>(
    name: &'static str,
    value: &'a Value,
) -> Result<&'a Map<String, Value>, RequestError> {
    value.as_object().ok_or_else(|| wrong_type(name, "an object", value))
}

fn field<'a>(
    name: &'static str,
    fields: &'a Map<String, Value>,
    key: &str,
) -> Result<&'a Value, RequestError> {
    let value = fields.get(key).filter(|value| !value.is_null());
    value.ok_or_else(|| missing_in(format!("{name}.{key}")))
}

fn text<'a>(
    name: &'static str,
    fields: &'a Map<String, Value>,
    key: &str,
) -> Result<&'a str, RequestError> {
    let value = field(name, fields, key)?;
    value.as_str().ok_or_else(|| wrong_type(format!("{name}.{key}"), "a string", value))
}

fn unknown(name: &'static str, given: &str, known: &str) -> RequestError {
    let given: String = given.chars().take(64).collect();
    let message = format!("Invalid value: '{given}'. Supported values are: {known}.");
    RequestError::invalid(name, "invalid_value", message)
}
