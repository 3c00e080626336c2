//! `/openapi.json`: what this interface takes and answers, for generators and testers of clients.
//!
//! The document is written by hand. Tests hold it against the routes and the parameters that the
//! code reads, and schemathesis holds a cluster against all of it.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};

const DOCUMENT: &str = include_str!("openapi.json");

pub(super) async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}

#[cfg(test)]
mod tests;
