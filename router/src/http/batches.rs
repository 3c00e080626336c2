//! `/v1/batches`.

use std::sync::Arc;

use axum::{
    Router as Routes,
    body::Bytes,
    extract::{Path, State, rejection::BytesRejection},
    response::Response,
    routing::{get, post},
};
use serde_json::{Map, Value};

use super::{
    body,
    files::{Asked, batches, query, respond},
    params::{Params, missing, wrong_type},
};
use crate::{
    batch::{Endpoint, WINDOW, Wanted},
    error::RequestError,
    router::Router,
};

/// Of a list, unless the client says how many, and at most.
const PAGE: usize = 20;
const MAX_PAGE: usize = 100;
/// OpenAI's limits on what a client may attach: pairs, and characters of keys and values.
const MAX_METADATA: usize = 16;
const MAX_KEY: usize = 64;
const MAX_VALUE: usize = 512;

pub(super) fn routes() -> Routes<Arc<Router>> {
    Routes::new()
        .route("/v1/batches", get(list).post(create))
        .route("/v1/batches/{id}", get(one))
        .route("/v1/batches/{id}/cancel", post(cancel))
}

async fn list(State(router): State<Arc<Router>>, asked: Asked) -> Response {
    let answer = || {
        let batches = batches(&router)?;
        let page = query(asked)?.page(PAGE, MAX_PAGE)?;
        Ok(page.of(batches.batches().iter().map(|batch| batch.object()).collect())?)
    };
    respond(answer())
}

async fn one(State(router): State<Arc<Router>>, Path(id): Path<String>) -> Response {
    respond(batches(&router).and_then(|batches| Ok(batches.batch(&id)?.object())))
}

async fn cancel(State(router): State<Arc<Router>>, Path(id): Path<String>) -> Response {
    let answer = async { Ok(batches(&router)?.cancel(&id).await?.object()) };
    respond(answer.await)
}

async fn create(
    State(router): State<Arc<Router>>,
    bytes: Result<Bytes, BytesRejection>,
) -> Response {
    let answer = async {
        let batches = batches(&router)?;
        let params = Params::parse(&body(&router, bytes)?)?;
        Ok(batches.create(wanted(&params)?).await?.object())
    };
    respond(answer.await)
}

fn wanted(params: &Params) -> Result<Wanted, RequestError> {
    let text = |name| params.string(name)?.ok_or_else(|| missing(name));
    let (input, given, window) =
        (text("input_file_id")?, text("endpoint")?, text("completion_window")?);
    let endpoint = Endpoint::ALL.into_iter().find(|endpoint| endpoint.path() == given);
    let endpoint = endpoint.ok_or_else(|| {
        let paths = Endpoint::ALL.map(Endpoint::path).join("' and '");
        invalid("endpoint", &given, &paths)
    })?;
    if window != WINDOW {
        return Err(invalid("completion_window", &window, WINDOW));
    }
    if params.value("output_expires_after").is_some() {
        let message = "Unsupported value: outputs are kept until they are deleted.";
        let name = "output_expires_after";
        return Err(RequestError::invalid(name, "unsupported_value", message));
    }
    let metadata = params.value("metadata").map(metadata).transpose()?;
    Ok(Wanted { input, endpoint, metadata })
}

fn invalid(name: &'static str, given: &str, supported: &str) -> RequestError {
    let given: String = given.chars().take(64).collect();
    let message = format!("Invalid value: '{given}'. Supported values are: '{supported}'.");
    RequestError::invalid(name, "invalid_value", message)
}

/// A few short strings by name.
fn metadata(value: &Value) -> Result<Map<String, Value>, RequestError> {
    let expected = "an object of strings";
    let map = value.as_object().ok_or_else(|| wrong_type("metadata", expected, value))?;
    for (key, value) in map {
        let text = value.as_str().ok_or_else(|| wrong_type("metadata", expected, value))?;
        let (key, length) = (key.chars().count(), text.chars().count());
        if key > MAX_KEY || length > MAX_VALUE {
            let message = format!(
                "Invalid 'metadata': a key of {key} and a value of {length} characters are given; \
                 {MAX_KEY} and {MAX_VALUE} are allowed."
            );
            return Err(RequestError::invalid("metadata", "invalid_value", message));
        }
    }
    if map.len() > MAX_METADATA {
        let given = map.len();
        let message =
            format!("Invalid 'metadata': {given} pairs are given; {MAX_METADATA} are allowed.");
        return Err(RequestError::invalid("metadata", "invalid_value", message));
    }
    Ok(map.clone())
}
