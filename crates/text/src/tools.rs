//! How a model writes its calls of tools, and how it is held to that.
//!
//! # What if the template knows no tools?
//!
//! Then they are described in the system message, calls are asked for in the form most models
//! have seen (Hermes's), and what tools answered comes as the user's messages.

use std::fmt::Write as _;

use baton_types::Grammar;
use serde_json::{Value, json};

use crate::{
    calls::CallSplitter,
    chat::{Chat, ChatMessage, Tool, ToolChoice},
};

/// The text around a call's name and arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Syntax {
    /// What no other output has: a call begins.
    pub(crate) begin: &'static str,
    /// From there to the name,
    pub(crate) open: &'static str,
    /// from the name to the arguments,
    pub(crate) middle: &'static str,
    /// and from the arguments to the call's end.
    pub(crate) close: &'static str,
    /// Calls may follow each other.
    pub(crate) is_repeated: bool,
    /// A call is the whole output: it begins at the output's beginning.
    pub(crate) is_whole: bool,
}

pub(crate) const HERMES: Syntax = Syntax {
    begin: "<tool_call>",
    open: "\n{\"name\": \"",
    middle: "\", \"arguments\": ",
    close: "}\n</tool_call>",
    is_repeated: true,
    is_whole: false,
};

pub(crate) const LLAMA_3: Syntax = Syntax {
    begin: "{\"name\": \"",
    open: "",
    middle: "\", \"parameters\": ",
    close: "}",
    is_repeated: false,
    is_whole: true,
};

/// How a template's model speaks of tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ToolSupport {
    /// The template lays them out.
    Native(Syntax),
    /// It knows none.
    Described,
}

impl ToolSupport {
    pub(crate) fn of(template: &str) -> Self {
        if !template.contains("tools") {
            ToolSupport::Described
        } else if template.contains(HERMES.begin) {
            ToolSupport::Native(HERMES)
        } else if template.contains("\"parameters\": ") && template.contains("ipython") {
            ToolSupport::Native(LLAMA_3)
        } else {
            ToolSupport::Described
        }
    }

    pub(crate) fn syntax(self) -> Syntax {
        match self {
            ToolSupport::Native(syntax) => syntax,
            ToolSupport::Described => HERMES,
        }
    }
}

/// A conversation in words that every template knows.
pub(crate) fn described(chat: &Chat) -> Vec<ChatMessage> {
    let mut messages: Vec<ChatMessage> = chat.messages.iter().map(plain).collect();
    let tools = chat.offered();
    if tools.is_empty() {
        return messages;
    }
    let description = description(tools);
    match messages.first_mut() {
        Some(first) if first.role == "system" => {
            first.content = format!("{}\n\n{description}", first.content);
        }
        _ => messages.insert(0, ChatMessage::new("system", description)),
    }
    messages
}

fn plain(message: &ChatMessage) -> ChatMessage {
    let content = &message.content;
    if message.role == "tool" {
        return ChatMessage::new("user", format!("<tool_response>\n{content}\n</tool_response>"));
    }
    let mut text = content.clone();
    for call in &message.tool_calls {
        let gap = if text.is_empty() { "" } else { "\n" };
        let Syntax { begin, open, middle, close, .. } = HERMES;
        let (name, arguments) = (&call.name, compact(&call.arguments));
        let _infallible = write!(text, "{gap}{begin}{open}{name}{middle}{arguments}{close}");
    }
    ChatMessage::new(message.role.clone(), text)
}

fn description(tools: &[Tool]) -> String {
    let mut text = "You may call these tools:\n".to_owned();
    for tool in tools {
        let _infallible = writeln!(text, "{}", compact(&json!(tool)));
    }
    text.push_str(
        "To call one, answer with its name and arguments, like this:\n<tool_call>\n\
         {\"name\": \"the tool's name\", \"arguments\": {\"an argument\": \"its value\"}}\n\
         </tool_call>",
    );
    text
}

/// JSON as Python writes it, which is what models have read.
pub(crate) fn compact(value: &Value) -> String {
    match value {
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(compact).collect();
            format!("[{}]", values.join(", "))
        }
        Value::Object(fields) => {
            let field =
                |(key, value): (&String, &Value)| format!("{}: {}", json!(key), compact(value));
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// How an answer may call tools.
#[derive(Clone, Debug)]
pub struct Calling {
    /// What it must match for its calls to be whole, of tools that were offered, with arguments in
    /// their schemas.
    pub grammar: Grammar,
    /// Finds the calls in it.
    pub splitter: CallSplitter,
}

impl Syntax {
    /// How an answer to `chat` may call tools; None if there are none to call. Where it may just as
    /// well call none, what it is then must match `format`.
    pub(crate) fn calling(self, chat: &Chat, format: Option<Grammar>) -> Option<Calling> {
        let tools: Vec<&Tool> = match &chat.tool_choice {
            ToolChoice::Named(name) => chat.tools.iter().filter(|t| t.name == *name).collect(),
            _ => chat.offered().iter().collect(),
        };
        if tools.is_empty() {
            return None;
        }
        let is_repeated = self.is_repeated
            && !chat.single_call
            && !matches!(chat.tool_choice, ToolChoice::Named(_));
        let format = format.filter(|_| chat.tool_choice == ToolChoice::Auto);
        let has_format = format.is_some();
        let rests = rests(&self, &tools);
        let lark = |start: String| Grammar::Lark(format!("{start}{rests}").into());
        let grammar = match (&chat.tool_choice, format) {
            (ToolChoice::Auto, None) => lark(self.text_or_calls(is_repeated)),
            (_, None) => lark(self.calls(is_repeated)),
            (_, Some(format)) => Grammar::AnyOf([lark(self.calls(is_repeated)), format].into()),
        };
        Some(Calling { grammar, splitter: CallSplitter::new(self, &tools, has_format) })
    }

    /// Nothing but calls, at least one.
    fn calls(&self, is_repeated: bool) -> String {
        let begin = json!(self.begin);
        match is_repeated {
            true => format!("start: {begin} rest (\"\\n\" {begin} rest)*\n"),
            false => format!("start: {begin} rest\n"),
        }
    }

    /// Text in which, or instead of which, there may be calls.
    fn text_or_calls(&self, is_repeated: bool) -> String {
        let begin = self.begin;
        if self.is_whole {
            return format!(
                "start: {} rest | TEXT\nTEXT: /(.|\\n)*/ & ~/\\{begin}(.|\\n)*/\n",
                json!(begin),
            );
        }
        let calls = if is_repeated { "*" } else { "?" };
        format!(
            "start: (text_to_call rest){calls} text\n\
             text_to_call[lazy]: /(.|\\n)*{begin}/\n\
             text: TEXT\nTEXT: /(.|\\n)*/ & ~/(.|\\n)*{begin}(.|\\n)*/\n",
        )
    }
}

/// The rule `rest`: what a call of any of `tools` is behind its beginning.
fn rests(syntax: &Syntax, tools: &[&Tool]) -> String {
    let rests: Vec<String> = (0..tools.len()).map(|at| format!("rest_{at}")).collect();
    let mut lark = format!("rest: {}\n", rests.join(" | "));
    for (at, tool) in tools.iter().enumerate() {
        let head = json!(format!("{}{}{}", syntax.open, tool.name, syntax.middle));
        let (close, schema) = (json!(syntax.close), arguments(&tool.parameters));
        let _infallible =
            writeln!(lark, "rest_{at}: {head} args_{at} {close}\nargs_{at}: %json {schema}");
    }
    lark
}

/// A schema of arguments, without room for white space that never ends.
fn arguments(parameters: &Value) -> Value {
    let mut schema = parameters.clone();
    if let Some(fields) = schema.as_object_mut() {
        fields.entry("x-guidance").or_insert_with(|| {
            json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " })
        });
    }
    schema
}
