//! Tools out of a chat's body, and the calls that come of them.

use baton_text::{CallPiece, Tool, ToolCall, ToolChoice};
use baton_types::{ChoiceIndex, RequestId};
use serde_json::{Map, Value, json};

use super::params::{Params, missing_in, wrong_type};
use crate::{error::RequestError, request::call_id};

/// As many as OpenAI takes.
const MAX_TOOLS: usize = 128;

/// `tools` and `tool_choice`.
pub(super) fn tools(params: &Params) -> Result<(Vec<Tool>, ToolChoice), RequestError> {
    let tools = match params.value("tools") {
        None => Vec::new(),
        Some(value) => {
            let tools = value.as_array().ok_or_else(|| wrong_type("tools", "an array", value))?;
            if tools.len() > MAX_TOOLS {
                let message = format!(
                    "Invalid 'tools': array too long. Expected an array with maximum length \
                     {MAX_TOOLS}, but got an array with length {} instead.",
                    tools.len()
                );
                return Err(RequestError::invalid("tools", "array_above_max_length", message));
            }
            tools
                .iter()
                .enumerate()
                .map(|(at, tool)| one_tool(at, tool))
                .collect::<Result<_, _>>()?
        }
    };
    let choice = tool_choice(params, &tools)?;
    Ok((tools, choice))
}

fn one_tool(at: usize, value: &Value) -> Result<Tool, RequestError> {
    let name = |field: &str| format!("tools[{at}]{field}");
    let object = |field: &str, value| object(name(field), value);
    let tool = object("", value)?;
    if tool.get("type").and_then(Value::as_str) != Some("function") {
        let message = format!("Invalid value for '{}': it must be 'function'.", name(".type"));
        return Err(RequestError::invalid(name(".type"), "invalid_value", message));
    }
    let function = tool.get("function").ok_or_else(|| missing_in(name(".function")))?;
    let function = object(".function", function)?;
    let text = |field: &str| match function.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(wrong_type(name(&format!(".function.{field}")), "a string", other)),
    };
    let called = text("name")?.ok_or_else(|| missing_in(name(".function.name")))?;
    if !Tool::is_name(&called) {
        let message = format!(
            "Invalid '{}': expected 1 to 64 letters, digits, '_' and '-'.",
            name(".function.name")
        );
        return Err(RequestError::invalid(name(".function.name"), "invalid_value", message));
    }
    let parameters = match function.get("parameters").filter(|value| !value.is_null()) {
        // It has none, as with OpenAI.
        None => {
            json!({ "type": "object", "properties": {}, "additionalProperties": false })
        }
        Some(schema) => {
            object(".function.parameters", schema)?;
            schema.clone()
        }
    };
    Ok(Tool { name: called, description: text("description")?, parameters })
}

fn tool_choice(params: &Params, tools: &[Tool]) -> Result<ToolChoice, RequestError> {
    let Some(value) = params.value("tool_choice") else { return Ok(ToolChoice::default()) };
    let invalid =
        |message: String| Err(RequestError::invalid("tool_choice", "invalid_value", message));
    let choice = match value {
        Value::String(choice) => match choice.as_str() {
            "none" => ToolChoice::None,
            "auto" => ToolChoice::Auto,
            "required" => ToolChoice::Required,
            other => {
                let other: String = other.chars().take(64).collect();
                return invalid(format!(
                    "Invalid value: '{other}'. Supported values are: 'none', 'auto' and 'required'."
                ));
            }
        },
        Value::Object(_) => match value["function"]["name"].as_str() {
            Some(name) => ToolChoice::Named(name.to_owned()),
            None => return Err(missing_in("tool_choice.function.name")),
        },
        other => return Err(wrong_type("tool_choice", "a string or an object", other)),
    };
    match &choice {
        ToolChoice::Required if tools.is_empty() => {
            invalid("'tool_choice' is only allowed when 'tools' are specified.".to_owned())
        }
        ToolChoice::Named(name) if tools.iter().all(|tool| tool.name != *name) => {
            let name: String = name.chars().take(64).collect();
            invalid(format!("Tool choice '{name}' not found in 'tools' parameter."))
        }
        _ => Ok(choice),
    }
}

/// An earlier message's calls.
pub(super) fn earlier_calls(at: usize, value: &Value) -> Result<Vec<ToolCall>, RequestError> {
    let name = format!("messages[{at}].tool_calls");
    if value.is_null() {
        return Ok(Vec::new());
    }
    let calls = value.as_array().ok_or_else(|| wrong_type(name.clone(), "an array", value))?;
    let call = |(at, value): (usize, &Value)| {
        let name = |field: &str| format!("{name}[{at}]{field}");
        let call = object(name(""), value)?;
        let function = call.get("function").ok_or_else(|| missing_in(name(".function")))?;
        let text = |field: &str, value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            Value::Null => Err(missing_in(name(field))),
            other => Err(wrong_type(name(field), "a string", other)),
        };
        let arguments = text(".function.arguments", &function["arguments"])?;
        // A call without arguments may have been told with none at all.
        let arguments = if arguments.trim().is_empty() { "{}" } else { &arguments };
        let arguments = serde_json::from_str(arguments).ok().filter(Value::is_object);
        let arguments = arguments.ok_or_else(|| {
            let field = name(".function.arguments");
            let message = format!("Invalid '{field}': it must be a JSON object, as text.");
            RequestError::invalid(field, "invalid_value", message)
        })?;
        Ok(ToolCall {
            id: value["id"].as_str().unwrap_or_default().to_owned(),
            name: text(".function.name", &function["name"])?,
            arguments,
        })
    };
    calls.iter().enumerate().map(call).collect()
}

fn object(name: String, value: &Value) -> Result<&Map<String, Value>, RequestError> {
    value.as_object().ok_or_else(|| wrong_type(name, "an object", value))
}

/// Pieces of calls as a stream tells them.
pub(super) fn deltas(id: RequestId, choice: ChoiceIndex, pieces: &[CallPiece]) -> Vec<Value> {
    let delta = |piece: &CallPiece| {
        let CallPiece { index, name, arguments } = piece;
        match name {
            Some(name) => json!({
                "index": index,
                "id": call_id(id, choice, *index),
                "type": "function",
                "function": { "name": name, "arguments": arguments },
            }),
            None => json!({ "index": index, "function": { "arguments": arguments } }),
        }
    };
    pieces.iter().map(delta).collect()
}

/// The calls that `pieces` make.
pub(super) fn whole(id: RequestId, choice: ChoiceIndex, pieces: &[CallPiece]) -> Vec<Value> {
    let mut calls: Vec<(&str, String)> = Vec::new();
    for piece in pieces {
        match (&piece.name, calls.last_mut()) {
            (Some(name), _) => calls.push((name, piece.arguments.clone())),
            (None, Some((_, arguments))) => arguments.push_str(&piece.arguments),
            (None, None) => {}
        }
    }
    let call = |(index, (name, arguments)): (u32, (&str, String))| {
        json!({
            "id": call_id(id, choice, index),
            "type": "function",
            "function": { "name": name, "arguments": arguments },
        })
    };
    (0..).zip(calls).map(call).collect()
}
