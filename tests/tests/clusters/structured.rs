//! Output that must match something, through two nodes.

use baton_tests::{Cluster, Engine, Options, model, post};
use serde_json::{Value, json};

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
