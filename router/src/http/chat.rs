//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::{
    Extension,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    response::Response,
};
use baton_text::ChatMessage;
use baton_types::{FinishReason, ModelId, SamplingSpec};
use serde_json::{Value, json};

use super::{
    Asked,
    answer::{self, Shape},
    body, error,
    logprobs::Told,
    params::{self, Params, missing, wrong_type},
    sampling::{chat_logprobs, sampling},
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
    let asked = Asked { router: &router, caller, headers: &headers };
    let answer = async {
        let params = Params::parse(&body(&router, bytes)?)?;
        answer::answer(&asked, ask(asked.caller.clone(), &params)?, params.streaming()?, Chat).await
    };
    answer.await.unwrap_or_else(|refused| error::response(&refused))
}

pub(super) fn ask(caller: Caller, params: &Params) -> Result<Ask, RequestError> {
    params.refuse_unsupported(params::SHARED)?;
    params.refuse_unsupported(params::CHAT)?;
    let max_tokens = params.count("max_completion_tokens")?.or(params.count("max_tokens")?);
    Ok(Ask {
        caller,
        model: ModelId(params.string("model")?.ok_or_else(|| missing("model"))?.into()),
        prompt: Prompt::Chat(messages(params)?),
        sampling: SamplingSpec { logprobs: chat_logprobs(params)?, ..sampling(params)? },
        choices: params.count("n")?.unwrap_or(1),
        max_tokens,
        stop: params.stop()?,
        stop_token_ids: params.token_ids("stop_token_ids")?,
        ignore_eos: params.flag("ignore_eos")?,
        deadline: None,
    })
}

pub(super) fn messages(params: &Params) -> Result<Vec<ChatMessage>, RequestError> {
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
            "system" | "user" | "assistant" => role.clone(),
            // What OpenAI calls the author of instructions in newer models.
            "developer" => "system".to_owned(),
            _ => {
                let message = format!(
                    "Invalid value: '{role}'. Supported values are: 'system', 'developer', 'user' \
                     and 'assistant'."
                );
                return Err(RequestError::invalid(name("role"), "invalid_value", message));
            }
        },
        other => return Err(wrong_type(name("role"), "a string", other.unwrap_or(&Value::Null))),
    };
    let calls = message.get("tool_calls").and_then(Value::as_array);
    if calls.is_some_and(|calls| !calls.is_empty()) {
        let message = "Unsupported value: tool calls are not supported here.";
        return Err(RequestError::invalid(name("tool_calls"), "unsupported_value", message));
    }
    let content = content(&name("content"), message.get("content").unwrap_or(&Value::Null))?;
    Ok(ChatMessage { role, content })
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
struct Chat;

impl Shape for Chat {
    const ID: &'static str = "chatcmpl-";
    const OBJECT: &'static str = "chat.completion";
    const CHUNK: &'static str = "chat.completion.chunk";

    fn opening(&self) -> Option<Value> {
        Some(choice(json!({ "role": "assistant", "content": "" }), None))
    }

    fn piece(&self, text: &str, told: &Told<'_>) -> Value {
        let mut piece = choice(json!({ "content": text }), None);
        piece["logprobs"] = told.chat();
        piece
    }

    fn closing(&self, reason: FinishReason) -> Value {
        choice(json!({}), Some(reason))
    }

    fn whole(&self, text: &str, told: &Told<'_>, reason: FinishReason) -> Value {
        json!({
            "index": 0,
            "message": { "role": "assistant", "content": text, "refusal": null },
            "logprobs": told.chat(),
            "finish_reason": reason,
        })
    }
}

fn choice(delta: Value, reason: Option<FinishReason>) -> Value {
    json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": reason })
}
