//! Output that must match something, through two nodes.

use baton_proto::v1::{
    ChatRequest, FinishReason, Grammar, Message, Sampling, Tool, chat_request, chat_response,
    grammar, inference_client::InferenceClient,
};
use baton_tests::{Cluster, Engine, Options, events, model, post};
use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt;

fn chat(model: &str, extra: Value) -> Value {
    let mut body = json!({
        "model": model,
        "messages": [{ "role": "user", "content": "Describe Paris as a city. Answer in JSON." }],
        "temperature": 0,
        "max_tokens": 120,
    });
    if let (Some(body), Value::Object(extra)) = (body.as_object_mut(), extra) {
        body.extend(extra);
    }
    body
}

fn city() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 20 },
            "country": { "enum": ["France", "Italy", "Spain"] },
            "inhabitants": { "type": "integer", "minimum": 0, "maximum": 20000000 },
        },
        "required": ["name", "country", "inhabitants"],
        "additionalProperties": false,
    })
}

fn schema(schema: Value) -> Value {
    json!({ "type": "json_schema", "json_schema": { "name": "city", "strict": true, "schema": schema } })
}

/// The text of an answer that ended by itself.
fn content(cluster: &Cluster, body: &Value) -> String {
    let reply = post(&cluster.path("/v1/chat/completions"), body).unwrap();
    let whole = reply.json().unwrap();
    assert_eq!(whole["choices"][0]["finish_reason"], "stop", "{whole}");
    whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

#[test]
fn a_real_model_answers_in_the_schema_it_is_given() {
    let cluster = Cluster::start(&Options::new(Engine::Llama)).unwrap();
    let name = model().file_stem().unwrap().to_string_lossy().into_owned();
    let ask = |extra| content(&cluster, &chat(&name, extra));
    let text = ask(json!({ "response_format": schema(city()) }));
    let paris: Value = serde_json::from_str(&text).unwrap();
    assert!(paris["name"].is_string() && paris["inhabitants"].is_u64(), "{paris}");
    assert!(["France", "Italy", "Spain"].iter().any(|one| paris["country"] == *one), "{paris}");

    let regex = json!({ "type": "regex", "pattern": "(Paris|Rome), [A-Z][a-z]{2,10}\\." });
    let text = ask(json!({ "response_format": regex }));
    assert!(text.starts_with("Paris, ") && text.ends_with('.'), "{text}");
    let text = ask(json!({ "structured_outputs": { "choice": ["Berlin", "Paris \"1\"\n"] } }));
    assert!(["Berlin", "Paris \"1\"\n"].contains(&text.as_str()), "{text:?}");
}

#[test]
fn a_grammar_ends_the_answer_and_a_bad_one_costs_its_sender_alone() {
    let cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    let numbers = "start: NUMBER (\", \" NUMBER){2}\nNUMBER: /[1-9][0-9]{0,3}/";
    let text =
        content(&cluster, &chat("sim", json!({ "structured_outputs": { "grammar": numbers } })));
    assert_eq!(text.split(", ").filter(|part| part.parse::<u32>().is_ok()).count(), 3, "{text}");

    let deep = format!("{}1{}", "[".repeat(200_000), "]".repeat(200_000));
    let refused: [(Value, &str); 14] = [
        (json!({ "response_format": "json" }), "response_format"),
        (json!({ "response_format": {} }), "response_format.type"),
        (json!({ "response_format": { "type": "xml" } }), "response_format.type"),
        (json!({ "response_format": { "type": "json_schema" } }), "response_format.json_schema"),
        (
            json!({ "response_format": { "type": "json_schema", "json_schema": { "schema": {} } } }),
            "response_format.json_schema.name",
        ),
        (json!({ "response_format": schema(json!(3)) }), "response_format.json_schema.schema"),
        (json!({ "response_format": schema(json!({ "type": "colour" })) }), "response_format"),
        (json!({ "response_format": schema(json!(deep)) }), "response_format"),
        (json!({ "response_format": { "type": "regex", "pattern": "(" } }), "response_format"),
        (json!({ "structured_outputs": {} }), "structured_outputs"),
        (json!({ "structured_outputs": { "regex": "a", "json": {} } }), "structured_outputs"),
        (json!({ "structured_outputs": { "choice": [] } }), "structured_outputs.choice"),
        (json!({ "structured_outputs": { "grammar": "a: b" } }), "structured_outputs"),
        (
            json!({ "structured_outputs": { "regex": "a" }, "response_format": { "type": "json_object" } }),
            "structured_outputs",
        ),
    ];
    for (extra, param) in refused {
        let reply = post(&cluster.path("/v1/chat/completions"), &chat("sim", extra)).unwrap();
        let body = reply.json().unwrap();
        assert_eq!((reply.status, &body["error"]["param"]), (400, &json!(param)), "{body}");
        assert!(reply.body.len() < 2000, "{body}");
    }
    let endless = json!({ "structured_outputs": { "regex": "a" }, "ignore_eos": true });
    let reply = post(&cluster.path("/v1/chat/completions"), &chat("sim", endless)).unwrap();
    assert_eq!(
        (reply.status, &reply.json().unwrap()["error"]["param"]),
        (400, &json!("ignore_eos"))
    );
    // Where only the end is left, a minimum of tokens yields.
    let short = json!({ "structured_outputs": { "regex": "ab" }, "min_tokens": 20 });
    assert_eq!(content(&cluster, &chat("sim", short)), "ab");
}

fn tools() -> Value {
    let tool = |name, parameters| {
        let description = "Looks it up.";
        json!({ "type": "function", "function": { "name": name, "description": description, "parameters": parameters } })
    };
    let place = json!({
        "type": "object",
        "properties": { "city": { "enum": ["Paris", "Oslo"] }, "days": { "type": "integer", "maximum": 9, "minimum": 1 } },
        "required": ["city", "days"],
        "additionalProperties": false,
    });
    json!([tool("get_weather", place), tool("get_time", Value::Null)])
}

#[test]
fn a_real_model_calls_the_tool_it_must_streamed_or_not() {
    let cluster = Cluster::start(&Options::new(Engine::Llama)).unwrap();
    let name = model().file_stem().unwrap().to_string_lossy().into_owned();
    let url = cluster.path("/v1/chat/completions");
    let mut body = chat(
        &name,
        json!({
            "messages": [
                { "role": "user", "content": "How is the weather in Paris for the next 3 days?" },
                { "role": "assistant", "content": null, "tool_calls": [{
                    "id": "call_1", "type": "function",
                    "function": { "name": "get_time", "arguments": "{}" },
                }] },
                { "role": "tool", "tool_call_id": "call_1", "content": "noon" },
            ],
            "tools": tools(),
            "tool_choice": { "type": "function", "function": { "name": "get_weather" } },
        }),
    );
    let whole = post(&url, &body).unwrap().json().unwrap();
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{whole}");
    assert_eq!(choice["message"]["content"], Value::Null, "{whole}");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(
        (&call["type"], &call["function"]["name"]),
        (&json!("function"), &json!("get_weather"))
    );
    let text = call["function"]["arguments"].as_str().unwrap();
    let arguments: Value = serde_json::from_str(text).unwrap();
    assert!(arguments["city"].is_string() && arguments["days"].is_u64(), "{arguments}");
    assert!(call["id"].as_str().unwrap().starts_with("call_"), "{call}");

    body["stream"] = true.into();
    let (mut streamed, mut names, mut reason) = (String::new(), Vec::new(), Value::Null);
    for data in events(&url, &body).unwrap().map(Result::unwrap).filter(|data| data != "[DONE]") {
        let chunk: Value = serde_json::from_str(&data).unwrap();
        let choice = &chunk["choices"][0];
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            assert_eq!(call["index"], 0);
            names.extend(call["function"]["name"].as_str().map(str::to_owned));
            streamed += call["function"]["arguments"].as_str().unwrap();
        }
        assert_eq!(choice["delta"]["content"].as_str().unwrap_or_default(), "", "{chunk}");
        let delta = choice["delta"].as_object().unwrap();
        let opens = delta.contains_key("role");
        assert!(opens || !delta.contains_key("content"), "an empty piece: {chunk}");
        reason = choice["finish_reason"].clone();
    }
    assert_eq!(
        (names, streamed.as_str(), reason),
        (vec!["get_weather".to_owned()], text, json!("tool_calls"))
    );
}

/// What a chat's answer is made of: its text, and each call's name and arguments.
type Made = (String, Vec<(String, Value)>);

fn made(whole: &Value) -> Made {
    let message = &whole["choices"][0]["message"];
    let calls = message["tool_calls"].as_array().into_iter().flatten().map(|call| {
        let arguments = call["function"]["arguments"].as_str().unwrap();
        let name = call["function"]["name"].as_str().unwrap().to_owned();
        (name, serde_json::from_str(arguments).unwrap())
    });
    (message["content"].as_str().unwrap_or_default().to_owned(), calls.collect())
}

/// The same, put together from a stream.
fn streamed(url: &str, body: &Value) -> Made {
    let (mut text, mut calls) = (String::new(), Vec::<(String, String)>::new());
    let body = {
        let mut body = body.clone();
        body["stream"] = true.into();
        body
    };
    for data in events(url, &body).unwrap().map(Result::unwrap).filter(|data| data != "[DONE]") {
        let delta = serde_json::from_str::<Value>(&data).unwrap()["choices"][0]["delta"].take();
        text += delta["content"].as_str().unwrap_or_default();
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let function = &call["function"];
            if let Some(name) = function["name"].as_str() {
                calls.push((name.to_owned(), String::new()));
            }
            calls.last_mut().unwrap().1 += function["arguments"].as_str().unwrap();
        }
    }
    let parsed = |(name, text): (String, String)| (name, serde_json::from_str(&text).unwrap());
    (text, calls.into_iter().map(parsed).collect())
}

/// Whether it is calls of [`tools`], and nothing else; otherwise it must be a [`city`].
fn is_calls((text, calls): &Made) -> bool {
    if calls.is_empty() {
        let city: Value = serde_json::from_str(text).unwrap();
        assert!(city["name"].is_string() && city["inhabitants"].is_u64(), "{city}");
        return false;
    }
    assert_eq!(text, "", "{calls:?}");
    for (name, arguments) in calls {
        match name.as_str() {
            "get_weather" => {
                assert!(["Paris", "Oslo"].iter().any(|city| arguments["city"] == *city));
                assert!((1..=9).contains(&arguments["days"].as_u64().unwrap()), "{arguments}");
            }
            other => assert_eq!((other, arguments), ("get_time", &json!({}))),
        }
    }
    true
}

#[test]
fn an_answer_that_may_call_tools_calls_them_or_has_its_format() {
    let cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    let url = cluster.path("/v1/chat/completions");
    let ask = |seed: u32, extra: Value| {
        let mut body = chat("sim", extra);
        body["response_format"] = schema(city());
        body["tools"] = tools();
        body["seed"] = seed.into();
        body["temperature"] = 1.into();
        body["max_tokens"] = 2000.into();
        body
    };
    let mut seen = [0, 0];
    for seed in 0..8 {
        let body = ask(seed, json!({ "parallel_tool_calls": seed % 2 == 0 }));
        let whole = post(&url, &body).unwrap().json().unwrap();
        let made = made(&whole);
        let calls = is_calls(&made);
        seen[usize::from(calls)] += 1;
        let reason = if calls { "tool_calls" } else { "stop" };
        assert_eq!(whole["choices"][0]["finish_reason"], reason, "{whole}");
        assert_eq!(streamed(&url, &body), made);
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?} answers and calls");
    for seed in 0..4 {
        let one = |choice: Value| {
            let body = ask(seed, json!({ "tool_choice": choice, "parallel_tool_calls": false }));
            is_calls(&made(&post(&url, &body).unwrap().json().unwrap()))
        };
        assert!(!one(json!("none")));
        assert!(one(json!("required")));
        assert!(one(json!({ "type": "function", "function": { "name": "get_time" } })));
    }
}

#[test]
fn a_real_model_calls_a_tool_or_answers_in_the_schema() {
    let cluster = Cluster::start(&Options::new(Engine::Llama)).unwrap();
    let name = model().file_stem().unwrap().to_string_lossy().into_owned();
    let url = cluster.path("/v1/chat/completions");
    let opening = json!({ "model": name, "prompt": "<tool_call>", "add_special_tokens": false });
    let opening = post(&cluster.path("/tokenize"), &opening).unwrap().json().unwrap();
    let opening = opening["tokens"][0].to_string();
    for (bias, calls) in [(-100, false), (100, true)] {
        let body = chat(
            &name,
            json!({
                "response_format": schema(city()), "tools": tools(), "logit_bias": { &opening: bias },
                "parallel_tool_calls": false,
            }),
        );
        let whole = post(&url, &body).unwrap().json().unwrap();
        assert_eq!(is_calls(&made(&whole)), calls, "{whole}");
        assert_eq!(streamed(&url, &body), made(&whole));
    }
}

#[test]
fn tools_that_make_no_sense_are_refused_by_name() {
    let cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    let tool = |function: Value| json!({ "tools": [{ "type": "function", "function": function }] });
    let call = |call: Value| json!({ "messages": [{ "role": "assistant", "content": null, "tool_calls": [call] }] });
    let refused: [(Value, &str); 14] = [
        (json!({ "tools": {} }), "tools"),
        (json!({ "tools": vec![tools()[0].clone(); 129] }), "tools"),
        (json!({ "tools": [{ "type": "retrieval" }] }), "tools[0].type"),
        (json!({ "tools": [{ "type": "function" }] }), "tools[0].function"),
        (tool(json!({})), "tools[0].function.name"),
        (tool(json!({ "name": "get weather" })), "tools[0].function.name"),
        (tool(json!({ "name": "f", "parameters": [] })), "tools[0].function.parameters"),
        (tool(json!({ "name": "f", "parameters": { "type": "colour" } })), "tools"),
        (json!({ "tool_choice": "required" }), "tool_choice"),
        (
            json!({ "tools": tools(), "tool_choice": { "function": { "name": "g" } } }),
            "tool_choice",
        ),
        (
            json!({ "tools": tools(), "response_format": { "type": "regex", "pattern": "(" } }),
            "response_format",
        ),
        (
            json!({
                "tools": [{ "type": "function", "function": { "name": "f", "parameters": { "type": "colour" } } }],
                "response_format": { "type": "json_object" },
            }),
            "tools",
        ),
        (
            call(json!({ "function": { "name": "f", "arguments": "[]" } })),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (json!({ "messages": [{ "role": "tool", "content": "3" }] }), "messages[0].tool_call_id"),
    ];
    for (extra, param) in refused {
        let reply = post(&cluster.path("/v1/chat/completions"), &chat("sim", extra)).unwrap();
        let body = reply.json().unwrap();
        assert_eq!((reply.status, &body["error"]["param"]), (400, &json!(param)), "{body}");
    }
}

const CALLS: FinishReason = FinishReason::ToolCalls;

/// A chat's text, the names and arguments of its calls, and how it ended.
async fn said(
    client: &mut InferenceClient<tonic::transport::Channel>,
    request: ChatRequest,
) -> (String, Vec<String>, String, FinishReason) {
    let mut stream = client.chat(request).await.unwrap().into_inner();
    let (mut text, mut names, mut arguments) = (String::new(), Vec::new(), String::new());
    while let Some(response) = stream.message().await.unwrap() {
        match response.event.unwrap() {
            chat_response::Event::Chunk(chunk) => {
                text += &chunk.text;
                for call in chunk.tool_calls {
                    assert_eq!(call.name.is_empty(), call.id.is_empty());
                    names.extend(Some(call.name).filter(|name| !name.is_empty()));
                    arguments += &call.arguments;
                }
            }
            chat_response::Event::Complete(complete) => {
                return (text, names, arguments, complete.finish_reason());
            }
            chat_response::Event::Started(_) => {}
        }
    }
    panic!("a stream without an end: {text:?} {names:?} {arguments:?}");
}

#[tokio::test]
async fn tools_are_called_over_grpc_too() {
    let cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    let mut client = InferenceClient::connect(cluster.url().to_owned()).await.unwrap();
    let parameters = json!({
        "type": "object", "properties": { "n": { "enum": [1, 2] } }, "required": ["n"],
        "additionalProperties": false,
    });
    let tool = Tool {
        name: "count".to_owned(),
        description: "Counts.".to_owned(),
        parameters: parameters.to_string(),
    };
    let message =
        Message { role: "user".to_owned(), content: "Count.".to_owned(), ..Message::default() };
    let request = ChatRequest {
        model: "sim".to_owned(),
        messages: vec![message],
        tools: vec![tool],
        choice: Some(chat_request::Choice::ToolName("count".to_owned())),
        ..ChatRequest::default()
    };
    let counts = |arguments: &str| {
        let arguments: Value = serde_json::from_str(arguments).unwrap();
        assert!(arguments == json!({ "n": 1 }) || arguments == json!({ "n": 2 }), "{arguments}");
    };
    let (text, names, arguments, reason) = said(&mut client, request.clone()).await;
    assert_eq!((text.as_str(), names, reason), ("", vec!["count".to_owned()], CALLS));
    counts(&arguments);

    let mut seen = [0, 0];
    for seed in 0..12 {
        let source = Some(grammar::Source::Regex("(yes|no)!".to_owned()));
        let sampling =
            Sampling { seed: Some(seed), grammar: Some(Grammar { source }), ..Sampling::default() };
        let request = ChatRequest {
            sampling: Some(sampling),
            choice: None,
            single_tool_call: true,
            ..request.clone()
        };
        let (text, names, arguments, reason) = said(&mut client, request).await;
        seen[names.len()] += 1;
        if names.is_empty() {
            assert!(["yes!", "no!"].contains(&text.as_str()), "{text}");
            assert_eq!(reason, FinishReason::Stop);
        } else {
            assert_eq!((text.as_str(), reason), ("", CALLS));
            counts(&arguments);
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?} answers and calls");

    let bad = Tool { parameters: "[".to_owned(), ..request.tools[0].clone() };
    let refused = client.chat(ChatRequest { tools: vec![bad], ..request }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let details = refused.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "tools.parameters");
}
