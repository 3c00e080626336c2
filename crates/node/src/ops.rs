//! The port for operators: `/metrics`, `/health`, `/ready`.

use std::{fmt, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};

/// What a process shows its operators.
pub trait Operable: Send + Sync + 'static {
    /// Metrics in the OpenMetrics text format.
    fn metrics(&self) -> String;

    /// Why the process should be restarted, if it should.
    fn unhealthy(&self) -> Option<String>;

    /// Why no work should be sent here now, if none should.
    fn unready(&self) -> Option<String>;
}

/// The routes, to serve on their own port or to merge into another router.
pub fn routes(process: Arc<dyn Operable>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(|State(process): Shared| async move { verdict(process.unhealthy()) }))
        .route("/ready", get(|State(process): Shared| async move { verdict(process.unready()) }))
        .with_state(process)
}

type Shared = State<Arc<dyn Operable>>;

async fn metrics(State(process): Shared) -> impl IntoResponse {
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], process.metrics())
}

fn verdict(problem: Option<String>) -> (StatusCode, String) {
    match problem {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

impl fmt::Debug for dyn Operable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dyn Operable")
    }
}
