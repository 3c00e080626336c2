//! Conversations, and the tools offered in them.

use baton_text::{Chat, ChatMessage, Tool, ToolCall, ToolChoice};
use serde_json::{Value, json};

use super::{ConvertError, at_most};
use crate::v1::{self, chat_request::Choice};

/// The most messages in a conversation.
const MAX_MESSAGES: usize = 4096;
/// The most tools, and the most calls in a message.
const MAX_TOOLS: usize = 128;

/// What a request says but for its model and its sampling.
pub fn chat(
    messages: Vec<v1::Message>,
    tools: Vec<v1::Tool>,
    choice: Option<Choice>,
    single_call: bool,
) -> Result<Chat, ConvertError> {
    at_most("messages", messages.len(), MAX_MESSAGES)?;
    at_most("tools", tools.len(), MAX_TOOLS)?;
    let tools: Vec<Tool> = tools.into_iter().map(tool).collect::<Result<_, _>>()?;
    let tool_choice = match choice {
        None => ToolChoice::Auto,
        Some(Choice::ToolName(name)) => match tools.iter().any(|tool| tool.name == name) {
            true => ToolChoice::Named(name),
            false => {
                let why = "it is none of the tools".to_owned();
                return Err(ConvertError::Unusable { field: "tool_name", why });
            }
        },
        Some(Choice::ToolChoice(given)) => match v1::ToolChoice::try_from(given) {
            Ok(v1::ToolChoice::Unspecified) => ToolChoice::Auto,
            Ok(v1::ToolChoice::None) => ToolChoice::None,
            Ok(v1::ToolChoice::Required) if tools.is_empty() => {
                let why = "there is no tool to call".to_owned();
                return Err(ConvertError::Unusable { field: "tool_choice", why });
            }
            Ok(v1::ToolChoice::Required) => ToolChoice::Required,
            Err(_) => return Err(ConvertError::Unknown { field: "tool_choice", given }),
        },
    };
    let messages = messages.into_iter().map(message).collect::<Result<_, _>>()?;
    Ok(Chat { messages, tools, tool_choice, single_call })
}

fn message(message: v1::Message) -> Result<ChatMessage, ConvertError> {
    let v1::Message { role, content, tool_calls, tool_call_id } = message;
    at_most("messages.tool_calls", tool_calls.len(), MAX_TOOLS)?;
    let call = |v1::ToolCall { id, name, arguments, .. }: v1::ToolCall| {
        let arguments = object("messages.tool_calls.arguments", &arguments, json!({}))?;
        Ok::<_, ConvertError>(ToolCall { id, name, arguments })
    };
    let tool_call_id = Some(tool_call_id).filter(|id| !id.is_empty());
    let tool_calls = tool_calls.into_iter().map(call).collect::<Result<_, _>>()?;
    Ok(ChatMessage { role, content, tool_calls, tool_call_id })
}

fn tool(tool: v1::Tool) -> Result<Tool, ConvertError> {
    let v1::Tool { name, description, parameters } = tool;
    if !Tool::is_name(&name) {
        let why = format!("{name:?} is not 1 to 64 letters, digits, '_' and '-'");
        return Err(ConvertError::Unusable { field: "tools.name", why });
    }
    let any = json!({ "type": "object", "properties": {} });
    let parameters = object("tools.parameters", &parameters, any)?;
    let description = Some(description).filter(|text| !text.is_empty());
    Ok(Tool { name, description, parameters })
}

/// A JSON object; `empty` for no text.
fn object(field: &'static str, text: &str, empty: Value) -> Result<Value, ConvertError> {
    if text.trim().is_empty() {
        return Ok(empty);
    }
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(ConvertError::Unusable { field, why: "it is no JSON object".to_owned() }),
        Err(error) => Err(ConvertError::Unusable { field, why: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str, parameters: &str) -> v1::Tool {
        v1::Tool { name: name.into(), description: String::new(), parameters: parameters.into() }
    }

    #[test]
    fn conversations_and_tools_are_bounded_and_checked() {
        let message = v1::Message { content: "hi".to_owned(), ..v1::Message::default() };
        let plain = chat(vec![message.clone()], vec![], None, false).unwrap();
        assert_eq!(plain.messages[0].content, "hi");
        let refused = |messages, tools, choice| {
            chat(messages, tools, choice, false).map(drop).unwrap_err().field()
        };
        assert_eq!(refused(vec![message; 5000], vec![], None), "messages");
        assert_eq!(refused(vec![], vec![tool("f", ""); 129], None), "tools");
        assert_eq!(refused(vec![], vec![tool("a b", "")], None), "tools.name");
        assert_eq!(refused(vec![], vec![tool("f", "[1]")], None), "tools.parameters");
        let named = Some(Choice::ToolName("g".into()));
        assert_eq!(refused(vec![], vec![tool("f", "{}")], named), "tool_name");
        assert_eq!(refused(vec![], vec![], Some(Choice::ToolChoice(2))), "tool_choice");
        assert_eq!(refused(vec![], vec![], Some(Choice::ToolChoice(9))), "tool_choice");
    }
}
