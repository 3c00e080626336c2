//! `/v1/models`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    response::{IntoResponse, Response},
};
use baton_types::ModelId;
use serde_json::{Value, json};

use super::error;
use crate::{cluster::Served, error::RequestError, router::Router};

pub(super) async fn list(State(router): State<Arc<Router>>) -> Json<Value> {
    let models: Vec<Value> = router.cluster.all_served().iter().map(model).collect();
    Json(json!({ "object": "list", "data": models }))
}

pub(super) async fn one(
    State(router): State<Arc<Router>>,
    name: Result<Path<String>, PathRejection>,
) -> Response {
    let name = match name {
        Ok(Path(name)) => name,
        Err(rejection) => {
            let refused = RequestError::invalid("model", "invalid_value", rejection.body_text());
            return error::response(&refused);
        }
    };
    let served = router.cluster.served(&ModelId::from(name.as_str()));
    match served.filter(|served| !served.groups.is_empty()) {
        Some(served) => Json(model(&served)).into_response(),
        None => error::response(&RequestError::UnknownModel { model: name }),
    }
}

fn model(served: &Served) -> Value {
    json!({
        "id": served.model.to_string(),
        "object": "model",
        "created": served.since,
        "owned_by": "baton",
        "max_model_len": served.max_context(),
    })
}
