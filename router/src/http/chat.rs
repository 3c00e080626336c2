//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::{
    Extension,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    response::Response,
};
use baton_text::{Chat, ChatMessage};
use baton_types::{ModelId, SamplingSpec};
use serde_json::{Value, json};

use super::{
    Asked,
    answer::{self, Piece, Shape},
    body, error,
    grammar::grammar_param,
    handle::Origin,
    params::{self, Params, missing, missing_in, service_tier, wrong_type},
    resume,
    sampling::{chat_logprobs, sampling},
    tools::{earlier_calls, tools},
};
use crate::{
    error::RequestError,
    request::{Ask, Caller, Prompt},
    router::Router,
};

pub(super) async fn chat(
    State(router): State<Arc<Router>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    bytes: Result<Bytes, BytesRejection>,
) -> Response {
    let taken_up = match resume(&router, &caller, &headers, bytes.as_ref().ok(), NextMessage::ID) {
        Ok(response) => return response,
        Err(Ok(taken_up)) => taken_up,
        Err(Err(gone)) => return error::response(&gone),
    };
    let answer = async {
        let body = body(&router, bytes)?;
        let digest = Origin::digest(&body);
        let asked = Asked { router: &router, caller, headers: &headers, digest, taken_up };
        respond(&asked, &Params::parse(&body)?).await
    };
    answer.await.unwrap_or_else(|refused| error::response(&refused))
}

pub(super) async fn respond(asked: &Asked<'_>, params: &Params) -> Result<Response, RequestError> {
    let ask = ask(asked.caller.clone(), params)?;
    answer::answer(asked, ask, params.streaming()?, NextMessage).await
}

pub(super) fn ask(caller: Caller, params: &Params) -> Result<Ask, RequestError> {
    params.refuse_unsupported(params::SHARED)?;
    params.refuse_unsupported(params::CHAT)?;
    let max_tokens = params.count("max_completion_tokens")?.or(params.count("max_tokens")?);
    Ok(Ask {
        caller,
        class: service_tier(params)?,
        model: ModelId(params.string("model")?.ok_or_else(|| missing("model"))?.into()),
        prompts: vec![Prompt::Chat(conversation(params)?)],
        sampling: SamplingSpec { logprobs: chat_logprobs(params)?, ..sampling(params)? },
        seeded: true,
        grammar_param: grammar_param(params),
        choices: params.count("n")?.unwrap_or(1),
        keep: params.count("n")?.unwrap_or(1),
        echo: false,
        max_tokens,
        stop: params.stop()?,
        stop_token_ids: params.token_ids("stop_token_ids")?,
        ignore_eos: params.flag("ignore_eos")?,
        deadline: None,
        before: Vec::new(),
        instead_of: None,
    })
}

/// The messages and the tools.
pub(super) fn conversation(params: &Params) -> Result<Chat, RequestError> {
    let (tools, tool_choice) = tools(params)?;
    let single_call = params.optional_flag("parallel_tool_calls")? == Some(false);
    Ok(Chat { messages: messages(params)?, tools, tool_choice, single_call })
}

fn messages(params: &Params) -> Result<Vec<ChatMessage>, RequestError> {
    let value = params.value("messages").ok_or_else(|| missing("messages"))?;
    let messages = value.as_array().ok_or_else(|| wrong_type("messages", "an array", value))?;
    messages.iter().enumerate().map(|(index, value)| message(index, value)).collect()
}

fn message(index: usize, value: &Value) -> Result<ChatMessage, RequestError> {
    let name = |field: &str| format!("messages[{index}].{field}");
    let Some(message) = value.as_object() else {
        return Err(wrong_type(format!("messages[{index}]"), "an object", value));
    };
    let role = match message.get("role") {
        Some(Value::String(role)) => match role.as_str() {
            "system" | "user" | "assistant" | "tool" => role.clone(),
            // What OpenAI calls the author of instructions in newer models.
            "developer" => "system".to_owned(),
            _ => {
                let message = format!(
                    "Invalid value: '{role}'. Supported values are: 'system', 'developer', 'user', \
                     'assistant' and 'tool'."
                );
                return Err(RequestError::invalid(name("role"), "invalid_value", message));
            }
        },
        other => return Err(wrong_type(name("role"), "a string", other.unwrap_or(&Value::Null))),
    };
    let tool_calls = earlier_calls(index, message.get("tool_calls").unwrap_or(&Value::Null))?;
    let tool_call_id = match message.get("tool_call_id") {
        Some(Value::String(id)) => Some(id.clone()),
        None | Some(Value::Null) if role == "tool" => {
            return Err(missing_in(name("tool_call_id")));
        }
        None | Some(Value::Null) => None,
        Some(other) => return Err(wrong_type(name("tool_call_id"), "a string", other)),
    };
    let content = match message.get("content").unwrap_or(&Value::Null) {
        Value::Null if !tool_calls.is_empty() => String::new(),
        value => content(&name("content"), value)?,
    };
    Ok(ChatMessage { role, content, tool_calls, tool_call_id })
}

/// A string, or parts that are all text.
fn content(name: &str, value: &Value) -> Result<String, RequestError> {
    let parts = match value {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        other => {
            return Err(wrong_type(name.to_owned(), "a string or an array of parts", other));
        }
    };
    let text = |(index, part): (usize, &Value)| match (part["type"].as_str(), &part["text"]) {
        (Some("text"), Value::String(text)) => Ok(text.clone()),
        (Some("text"), other) => {
            Err(wrong_type(format!("{name}[{index}].text"), "a string", other))
        }
        (kind, _) => {
            let kind = kind.unwrap_or("nothing known");
            let message = format!("Unsupported value: a part is {kind}; only 'text' is supported.");
            let param = format!("{name}[{index}].type");
            Err(RequestError::invalid(param, "unsupported_value", message))
        }
    };
    parts.iter().enumerate().map(text).collect()
}

/// A conversation's next message.
#[derive(Clone, Copy, Debug)]
struct NextMessage;

impl Shape for NextMessage {
    const ID: &'static str = "chatcmpl-";
    const OBJECT: &'static str = "chat.completion";
    const CHUNK: &'static str = "chat.completion.chunk";

    fn opening(&self) -> Option<Value> {
        Some(choice(json!({ "role": "assistant", "content": "" }), None))
    }

    fn piece(&self, piece: &Piece<'_>) -> Value {
        let mut delta = json!({});
        if piece.calls.is_empty() || !piece.text.is_empty() {
            delta["content"] = piece.text.into();
        }
        if !piece.calls.is_empty() {
            delta["tool_calls"] = json!(piece.calls);
        }
        let mut piece_of_it = choice(delta, None);
        piece_of_it["logprobs"] = piece.told.chat();
        piece_of_it
    }

    fn closing(&self, reason: &str) -> Value {
        choice(json!({}), Some(reason))
    }

    fn whole(&self, whole: &Piece<'_>, reason: &str) -> Value {
        let mut message = json!({ "role": "assistant", "content": whole.text, "refusal": null });
        if !whole.calls.is_empty() {
            message["tool_calls"] = json!(whole.calls);
            if whole.text.is_empty() {
                message["content"] = Value::Null;
            }
        }
        json!({
            "index": 0,
            "message": message,
            "logprobs": whole.told.chat(),
            "finish_reason": reason,
        })
    }
}

fn choice(delta: Value, reason: Option<&str>) -> Value {
    json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": reason })
}
