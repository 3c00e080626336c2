//! Is the document true? Every route is in it and every parameter that is read, and no others.

use std::{collections::BTreeSet, sync::Arc};

use baton_types::RequestId;
use serde_json::{Map, Value, json};

use super::{CLASS_FIELD, CLASS_HEADER, DOCUMENT, with_classes};
use crate::{
    config::RouterConfig,
    http::{chat_ask, completion_ask, params::ASKED, routes},
    request::Caller,
    router::Router,
};

fn document() -> Value {
    serde_json::from_str(DOCUMENT).unwrap()
}

/// Properties of a schema and of those it is made of.
fn properties(document: &Value, schema: &str) -> BTreeSet<String> {
    let schema = &document["components"]["schemas"][schema];
    let own = schema["properties"].as_object().unwrap().keys().cloned();
    let parts = schema["allOf"].as_array().into_iter().flatten();
    let inherited = parts.flat_map(|part| {
        let name = part["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
        properties(document, name)
    });
    own.chain(inherited).collect()
}

/// The names that `read` asks a body for.
fn asked(read: impl FnOnce()) -> BTreeSet<String> {
    ASKED.take();
    read();
    ASKED.take()
}

fn caller() -> Caller {
    Caller::new(RequestId(1), &axum::http::HeaderMap::new())
}

fn body(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[tokio::test]
async fn every_route_is_described_and_nothing_else() {
    let router = Arc::new(Router::new(RouterConfig::default()).unwrap());
    // axum tells its paths only to who debugs it; those of its fallback are no routes.
    let debugged = format!("{:?}", routes(&router));
    let quoted = debugged.split('"').skip(1).step_by(2);
    let served: BTreeSet<String> = quoted
        .filter(|text| text.starts_with('/') && text.len() > 1 && !text.contains("__private"))
        .map(|path| path.replace("{*", "{"))
        .collect();
    let document = document();
    let described = document["paths"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(served, described, "{debugged}");
}

#[test]
fn every_parameter_that_is_read_is_described_and_no_other() {
    let document = document();
    let chat = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] });
    let read = asked(|| drop(chat_ask(caller(), body(chat)).unwrap()));
    assert_eq!(with_stream(read), properties(&document, "ChatRequest"));
    let completion = json!({ "model": "m", "prompt": "hi" });
    let read = asked(|| drop(completion_ask(caller(), body(completion)).unwrap()));
    assert_eq!(with_stream(read), properties(&document, "CompletionRequest"));
}

/// How the answer comes is read by who answers over HTTP alone.
fn with_stream(mut read: BTreeSet<String>) -> BTreeSet<String> {
    read.extend(["stream", "stream_options"].map(str::to_owned));
    read
}

#[test]
fn classes_are_those_of_the_router() {
    let document = with_classes(["default", "gold"].into_iter());
    let names = |at: &str| document.pointer(at).unwrap()["enum"].clone();
    assert_eq!(names(CLASS_HEADER), json!(["default", "gold", "auto"]));
    assert_eq!(names(CLASS_FIELD), json!(["default", "gold", "auto", null]));
}

#[test]
fn every_reference_leads_somewhere_and_every_part_is_used() {
    let document = document();
    let mut references = BTreeSet::new();
    collect(&document, &mut references);
    for reference in &references {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
    for (kind, parts) in document["components"].as_object().unwrap() {
        for name in parts.as_object().unwrap().keys() {
            let part = format!("/components/{kind}/{name}");
            assert!(references.contains(&part), "nothing leads to {part}");
        }
    }
}

fn collect(value: &Value, references: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                references.insert(reference.trim_start_matches('#').to_owned());
            }
            fields.values().for_each(|value| collect(value, references));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}
