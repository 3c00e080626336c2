//! Answers that may call tools: what they may be, and what is made of them.

use baton_grammar::Vocabulary;
use baton_text::{Chat, ChatMessage, Split, TextAssets, TextModel, Tool, ToolChoice};
use baton_types::{Constraint, Grammar, TokenId, TokenMask};
use serde_json::json;

const END: TokenId = TokenId(256);

/// Which model: by what its template knows of tools.
fn model(template: &str) -> TextModel {
    let assets = TextAssets { chat_template: template.to_owned(), ..TextAssets::bytes() };
    TextModel::new(assets).expect("a language")
}

const PLAIN: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
const LLAMA_3: &str = "{% if tools %}ipython, answer with {\"name\": function name, \
    \"parameters\": dictionary} {{ tools | tojson }}{% endif %}\
    {% for m in messages %}{{ m.content }}{% endfor %}";
const QWEN: &str = "{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% for m in messages %}\
    {{ m.role }}: {{ m.content }}{% for c in m.tool_calls %}<tool_call>\
    {{ c.function.arguments | tojson }}</tool_call>{% endfor %}\n{% endfor %}";

fn chat(tool_choice: ToolChoice, single_call: bool) -> Chat {
    let tool = |name: &str, parameters| Tool {
        name: name.to_owned(),
        description: Some("Tells \"it\".".to_owned()),
        parameters,
    };
    let city = json!({
        "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"],
        "additionalProperties": false,
    });
    let tools = vec![tool("weather", city), tool("time", json!({ "type": "object" }))];
    Chat { messages: vec![ChatMessage::new("user", "hi")], tools, tool_choice, single_call }
}

/// How far `output` goes in `chat`'s grammar, and whether it may end there.
fn fits(text: &TextModel, chat: &Chat, output: &str) -> bool {
    fits_or(text, chat, None, output)
}

/// The same where the answer has `format` if it calls nothing.
fn fits_or(text: &TextModel, chat: &Chat, format: Option<&Grammar>, output: &str) -> bool {
    let vocabulary = Vocabulary::new(text).expect("a vocabulary");
    let grammar = text.calling(chat, format.cloned()).expect("tools to call").grammar;
    let compiled = vocabulary.compile(&grammar).expect("a good grammar");
    let tokens: Vec<TokenId> = output.bytes().map(|byte| TokenId(byte.into())).collect();
    let mut mask = TokenMask::default();
    (0..=tokens.len()).all(|at| {
        compiled.allowed(&tokens[..at], &mut mask).expect("something may follow");
        mask.contains(*tokens.get(at).unwrap_or(&END))
    })
}

const WEATHER: &str =
    "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>";
const TIME: &str = "<tool_call>\n{\"name\": \"time\", \"arguments\": {}}\n</tool_call>";

#[test]
fn a_model_that_may_call_tools_talks_or_calls_them_right() {
    let (text, auto) = (model(PLAIN), chat(ToolChoice::Auto, false));
    let check =
        |output: &str, expected| assert_eq!(fits(&text, &auto, output), expected, "{output}");
    check("Just text: 1 < 2, <tool, {\"name\": 1}", true);
    check(&format!("I'll look.\n{WEATHER}"), true);
    check(&format!("{WEATHER}\n{TIME}"), true);
    check(&format!("{WEATHER}\n{TIME} done"), true);
    check("<tool_call>", false);
    check("<tool_call>\n{\"name\": \"moon\", \"arguments\": {}}\n</tool_call>", false);
    check(&WEATHER.replace("city", "town"), false);
    check(&WEATHER.replace("\n</tool_call>", ""), false);
    let single = chat(ToolChoice::Auto, true);
    assert!(fits(&text, &single, WEATHER) && !fits(&text, &single, &format!("{WEATHER}\n{TIME}")));
}

#[test]
fn a_model_that_must_call_a_tool_does_nothing_else() {
    let text = model(PLAIN);
    let required = chat(ToolChoice::Required, false);
    assert!(
        fits(&text, &required, WEATHER) && fits(&text, &required, &format!("{WEATHER}\n{TIME}"))
    );
    assert!(!fits(&text, &required, "Hello") && !fits(&text, &required, ""));
    let named = chat(ToolChoice::Named("time".to_owned()), false);
    assert!(fits(&text, &named, TIME) && !fits(&text, &named, WEATHER));
    assert!(!fits(&text, &named, &format!("{TIME}\n{TIME}")));
    assert!(text.calling(&chat(ToolChoice::None, false), None).is_none());
    assert!(text.calling(&Chat::default(), None).is_none());
}

#[test]
fn llama_3_calls_in_its_own_words() {
    let text = model(LLAMA_3);
    let call = "{\"name\": \"weather\", \"parameters\": {\"city\": \"Oslo\"}}";
    let auto = chat(ToolChoice::Auto, false);
    assert!(fits(&text, &auto, call) && fits(&text, &auto, "It is cold."));
    assert!(!fits(&text, &auto, &call.replace("weather", "moon")));
    assert!(fits(&text, &chat(ToolChoice::Required, false), call));
    let mut splitter = text.calling(&auto, None).expect("tools to call").splitter;
    let Split { text: shown, calls } = splitter.push(call);
    assert_eq!((shown.as_str(), calls[0].name.as_deref()), ("", Some("weather")));
    assert_eq!(calls[1].arguments, "{\"city\": \"Oslo\"}");
}

/// A format, what has it, and what hasn't.
fn formats() -> Vec<(Grammar, &'static str, &'static str)> {
    let city = r##"{"type": "object", "properties": {"name": {"type": "string"}, "n": {"$ref": "#/$defs/n"}},
        "required": ["name", "n"], "additionalProperties": false, "$defs": {"n": {"type": "integer"}}}"##;
    // Its rules and terminals have the names of the calls' own.
    let list = "start: rest (\",\" rest_0)* | \"<\" TEXT \">\"\n\
        rest: TEXT\nrest_0: args_0\nargs_0: TEXT\nTEXT: /[a-z]+/\n%ignore / +/";
    vec![
        (
            Grammar::JsonSchema(city.into()),
            r#"{"name": "<tool_call>", "n": 3}"#,
            r#"{"name": "Oslo"}"#,
        ),
        (Grammar::Regex("<tool|<?[a-z]+>?".into()), "<tool", "<tool_"),
        (Grammar::Lark(list.into()), "a, b ,c", "a,,b"),
        (Grammar::Lark(list.into()), "<tool>", "<tool"),
    ]
}

#[test]
fn a_model_that_may_call_tools_calls_them_right_or_answers_in_the_format() {
    let auto = chat(ToolChoice::Auto, false);
    let llama_call = "{\"name\": \"weather\", \"parameters\": {\"city\": \"Oslo\"}}";
    let cases = [
        (PLAIN, vec![WEATHER.to_owned(), format!("{WEATHER}\n{TIME}")]),
        (LLAMA_3, vec![llama_call.to_owned()]),
    ];
    for (template, calls) in cases {
        let text = model(template);
        for (format, good, bad) in formats() {
            let check = |output: &str, expected| {
                let fits = fits_or(&text, &auto, Some(&format), output);
                assert_eq!(fits, expected, "{output:?} against {format:?}, {template}");
            };
            check(good, true);
            check(bad, false);
            check("", false);
            check("Some text.", false);
            for call in &calls {
                check(call, true);
                check(&call.replace("city", "town"), false);
                check(&call.replace("weather", "moon"), false);
                check(&call[..call.len() - 1], false);
                for mix in
                    [format!("{good}{call}"), format!("{good}\n{call}"), format!("{call}{good}")]
                {
                    check(&mix, false);
                }
            }
        }
    }
}

#[test]
fn a_call_that_must_be_has_no_other_format() {
    let text = model(PLAIN);
    let format = Grammar::JsonSchema("{\"type\": \"object\"}".into());
    for choice in [ToolChoice::Required, ToolChoice::Named("weather".to_owned())] {
        let chat = chat(choice, false);
        assert!(fits_or(&text, &chat, Some(&format), WEATHER));
        assert!(!fits_or(&text, &chat, Some(&format), "{}"));
    }
}

/// What the model reads of a conversation.
fn prompt(text: &TextModel, chat: &Chat) -> String {
    text.decode(&text.encode_chat(chat).expect("a conversation that fits"))
}

#[test]
fn tools_and_calls_are_told_to_the_model() {
    let mut talk = chat(ToolChoice::Auto, false);
    let arguments = json!({ "city": "Oslo" });
    let call =
        baton_text::ToolCall { id: "call_1".to_owned(), name: "weather".to_owned(), arguments };
    let calling = ChatMessage { tool_calls: vec![call], ..ChatMessage::new("assistant", "") };
    let tool_call_id = Some("call_1".to_owned());
    talk.messages.extend([calling, ChatMessage { tool_call_id, ..ChatMessage::new("tool", "-3") }]);

    let described = prompt(&model(PLAIN), &talk);
    assert!(described.starts_with("system: "), "{described}");
    assert!(described.contains("Tells \\\"it\\\"."), "{described}");
    assert!(described.contains(&format!("assistant: {WEATHER}\n")), "{described}");
    assert!(described.contains("user: <tool_response>\n-3\n</tool_response>"), "{described}");

    let native = prompt(&model(QWEN), &talk);
    assert!(
        native.starts_with("{\"type\": \"function\", \"function\": {\"name\": \"weather\", "),
        "{native}"
    );
    assert!(native.contains("assistant: <tool_call>{\"city\": \"Oslo\"}</tool_call>"), "{native}");
    assert!(native.contains("tool: -3"), "{native}");

    talk.tool_choice = ToolChoice::None;
    assert!(!prompt(&model(PLAIN), &talk).contains("Tells"));
    assert!(!prompt(&model(QWEN), &talk).contains("Tells"));
}
