//! A conversation and the tools offered in it.

use serde::Serialize;
use serde_json::Value;

/// What is answered: messages, and the tools that may be called.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    pub messages: Vec<ChatMessage>,
    pub tools: Vec<Tool>,
    pub tool_choice: ToolChoice,
    /// At most one call in an answer.
    pub single_call: bool,
}

/// One message of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChatMessage {
    /// system, user, assistant or tool.
    pub role: String,
    pub content: String,
    /// What an assistant called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call a tool answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

/// A function with its arguments, as an assistant called it.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// An object.
    pub arguments: Value,
}

/// A function a model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: Option<String>,
    /// A JSON schema: what its arguments must match.
    pub parameters: Value,
}

/// Whether tools are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model may.
    #[default]
    Auto,
    /// It doesn't hear of them.
    None,
    /// It must call at least one,
    Required,
    /// or this one.
    Named(String),
}

impl Tool {
    /// Whether a tool may have this name: 1 to 64 letters, digits, `_` and `-`, as with OpenAI.
    pub fn is_name(name: &str) -> bool {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        (1..=64).contains(&name.len()) && name.bytes().all(allowed)
    }
}

impl ChatMessage {
    /// A message of nothing but text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        ChatMessage { role: role.into(), content: content.into(), ..ChatMessage::default() }
    }
}

impl Chat {
    /// A conversation without tools.
    pub fn new(messages: Vec<ChatMessage>) -> Self {
        Chat { messages, ..Chat::default() }
    }

    /// The tools the model hears of.
    pub fn offered(&self) -> &[Tool] {
        match self.tool_choice {
            ToolChoice::None => &[],
            _ => &self.tools,
        }
    }
}

/// As templates know it: OpenAI's shape, with the arguments as an object.
impl Serialize for ToolCall {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ToolCall { id, name, arguments } = self;
        serde_json::json!({
            "id": id,
            "type": "function",
            "function": { "name": name, "arguments": arguments },
        })
        .serialize(serializer)
    }
}

/// In OpenAI's shape.
impl Serialize for Tool {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Tool { name, description, parameters } = self;
        let mut function = serde_json::json!({ "name": name });
        if let Some(description) = description {
            function["description"] = description.as_str().into();
        }
        function["parameters"] = parameters.clone();
        serde_json::json!({ "type": "function", "function": function }).serialize(serializer)
    }
}
