//! `/openapi.json`: what this interface takes and answers, for generators and testers of clients.
//!
//! The document is written by hand, but for the classes' names, which are this router's. Tests hold it
//! against the routes and the parameters that the code reads, and schemathesis holds a cluster against
//! all of it.

use axum::{
    body::Bytes,
    http::header,
    response::IntoResponse,
    routing::{MethodRouter, get},
};
use serde_json::{Value, json};

use crate::config::ClassesConfig;

const DOCUMENT: &str = include_str!("openapi.json");
/// Where classes are named: by the header, and in the body, where `null` is as good as nothing.
const CLASS_HEADER: &str = "/components/parameters/SloClass/schema";
const CLASS_FIELD: &str = "/components/schemas/SharedRequest/properties/service_tier";

/// Made once.
pub(super) fn route<S: Clone + Send + Sync + 'static>(classes: &ClassesConfig) -> MethodRouter<S> {
    let document = Bytes::from(with_classes(classes.names()).to_string());
    get(async move || ([(header::CONTENT_TYPE, "application/json")], document).into_response())
}

fn with_classes<'a>(names: impl Iterator<Item = &'a str>) -> Value {
    let mut document: Value = serde_json::from_str(DOCUMENT).expect("a test reads it");
    let mut names: Vec<Value> = names.chain([ClassesConfig::AUTO]).map(Value::from).collect();
    if let Some(schema) = document.pointer_mut(CLASS_HEADER) {
        schema["enum"] = json!(names);
    }
    names.push(Value::Null);
    if let Some(schema) = document.pointer_mut(CLASS_FIELD) {
        schema["enum"] = json!(names);
    }
    document
}

#[cfg(test)]
mod tests;
