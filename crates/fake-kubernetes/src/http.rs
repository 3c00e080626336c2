//! The API's paths, its errors, and its watches.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{Fault, NAMESPACE, Shared, secrets::Secrets, store::Refused};

/// How long a watch lasts if the client doesn't say.
const WATCH_SECONDS: u64 = 1800;

#[derive(Clone, Debug)]
struct Api {
    shared: Arc<Shared>,
    fault: watch::Receiver<Fault>,
    secrets: Option<Secrets>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    #[serde(default)]
    label_selector: String,
    watch: Option<String>,
    resource_version: Option<String>,
    timeout_seconds: Option<u64>,
}

pub(crate) fn routes(
    shared: Arc<Shared>,
    fault: watch::Receiver<Fault>,
    secrets: Option<Secrets>,
) -> Router {
    let api = Api { shared, fault, secrets };
    let slices = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices";
    let leases = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases";
    Router::new()
        .route(slices, get(list_slices))
        .route(leases, get(list_leases).post(create))
        .route(&format!("{leases}/{{name}}"), get(read).put(replace).delete(remove))
        .layer(middleware::from_fn_with_state(api.clone(), fail))
        .with_state(api)
}

/// Whatever is asked fails while something is wrong.
async fn fail(State(api): State<Api>, request: Request, next: Next) -> Response {
    let fault = *api.fault.borrow();
    let authorization = request.headers().get("authorization").map(|value| value.as_bytes());
    if api.secrets.as_ref().is_some_and(|secrets| !secrets.allow(authorization)) {
        api.shared.asked(|asked| asked.failed += 1);
        return status(401, "Unauthorized");
    }
    if !request.uri().path().contains(&format!("/namespaces/{NAMESPACE}/")) {
        return status(403, "Forbidden");
    }
    let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
    if fault != Fault::None {
        api.shared.asked(|asked| asked.failed += 1);
    }
    match fault {
        Fault::None => next.run(request).await,
        Fault::Watches(_) if !is_watch => next.run(request).await,
        Fault::Status(code) | Fault::Watches(code) => status(code, "InternalError"),
        Fault::Hang => std::future::pending().await,
    }
}

async fn list_slices(State(api): State<Api>, Query(wanted): Query<Wanted>) -> Response {
    list(api, "endpointslices", "EndpointSliceList", "discovery.k8s.io/v1", wanted).await
}

async fn list_leases(State(api): State<Api>, Query(wanted): Query<Wanted>) -> Response {
    list(api, "leases", "LeaseList", "coordination.k8s.io/v1", wanted).await
}

async fn list(api: Api, kind: &'static str, list: &str, version: &str, wanted: Wanted) -> Response {
    if wanted.watch.is_some() {
        return watch(api, kind, wanted);
    }
    api.shared.asked(|asked| asked.lists += 1);
    if kind == "endpointslices" && api.shared.record().is_some() {
        return recorded_list(&api).await;
    }
    let store = api.shared.store();
    let items: Vec<&Value> =
        store.list(kind, &wanted.label_selector).map(|(_, object)| object).collect();
    Json(json!({
        "kind": list,
        "apiVersion": version,
        "metadata": {"resourceVersion": store.version().to_string()},
        "items": items
    }))
    .into_response()
}

/// The next list there is a record of.
async fn recorded_list(api: &Api) -> Response {
    let mut written = api.shared.written.subscribe();
    loop {
        let list = api.shared.record().as_mut().and_then(|record| record.list());
        if let Some(list) = list {
            return Json(list).into_response();
        }
        if written.changed().await.is_err() {
            return status(500, "InternalError");
        }
    }
}

/// A watch that goes on.
struct Watch {
    api: Api,
    kind: &'static str,
    selector: String,
    version: u64,
    written: watch::Receiver<u64>,
    generation: watch::Receiver<u64>,
    until: Instant,
    has_begun: bool,
    events: VecDeque<Value>,
    is_over: bool,
}

fn watch(api: Api, kind: &'static str, wanted: Wanted) -> Response {
    let Some(version) = wanted.resource_version.and_then(|version| version.parse().ok()) else {
        return status(400, "BadRequest");
    };
    let seconds = wanted.timeout_seconds.unwrap_or(WATCH_SECONDS);
    let watch = Watch {
        kind,
        selector: wanted.label_selector,
        version,
        written: api.shared.written.subscribe(),
        generation: api.shared.watches.subscribe(),
        until: Instant::now() + Duration::from_secs(seconds),
        has_begun: false,
        events: VecDeque::new(),
        is_over: false,
        api,
    };
    // It hears from here on.
    watch.api.shared.asked(|asked| asked.watches += 1);
    let lines = stream::unfold(watch, |mut watch| async move {
        let mut line = watch.next().await?.to_string();
        line.push('\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), watch))
    });
    Body::from_stream(lines).into_response()
}

impl Watch {
    async fn next(&mut self) -> Option<Value> {
        loop {
            let is_hung = *self.api.fault.borrow() == Fault::Hang;
            if !is_hung {
                if let Some(event) = self.events.pop_front() {
                    return Some(event);
                }
                // What was written after the end isn't said any more.
                if self.is_over || self.generation.has_changed().unwrap_or(true) {
                    return None;
                }
                self.read();
                if !self.events.is_empty() {
                    continue;
                }
            }
            tokio::select! {
                Ok(()) = self.written.changed() => {}
                Ok(()) = self.generation.changed() => return None,
                Ok(()) = self.api.fault.changed() => {}
                () = sleep_until(self.until), if !is_hung => return None,
            }
        }
    }

    fn read(&mut self) {
        if self.kind == "endpointslices"
            && let Some(record) = self.api.shared.record().as_mut()
        {
            while let Some(event) = record.event() {
                self.is_over = event["type"] == "ERROR";
                self.events.push_back(event);
                if self.is_over {
                    return;
                }
            }
            return;
        }
        let store = self.api.shared.store();
        // What is forgotten while a watch goes on was told to it before.
        let is_known = self.has_begun || !store.has_forgotten(self.version);
        self.has_begun = true;
        match is_known.then(|| store.after(self.version, self.kind, &self.selector)) {
            Some(news) => {
                for (version, event) in news {
                    self.version = version;
                    self.events.push_back(event);
                }
            }
            None => {
                // As an API server does, whose answer has begun well.
                let gone = refusal(410, "Expired", "too old resource version");
                self.events.push_back(json!({"type": "ERROR", "object": gone}));
                self.is_over = true;
            }
        }
    }
}

async fn create(State(api): State<Api>, Json(object): Json<Value>) -> Response {
    answer(api.shared.write(|store| store.create("leases", object)), StatusCode::CREATED)
}

async fn read(State(api): State<Api>, Path((_, name)): Path<(String, String)>) -> Response {
    let found = api.shared.store().read("leases", &name).cloned().ok_or(Refused::NotFound);
    answer(found, StatusCode::OK)
}

async fn replace(
    State(api): State<Api>,
    Path((_, name)): Path<(String, String)>,
    Json(object): Json<Value>,
) -> Response {
    answer(api.shared.write(|store| store.replace("leases", &name, object)), StatusCode::OK)
}

async fn remove(
    State(api): State<Api>,
    Path((_, name)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    let options: Value = serde_json::from_slice(&body).unwrap_or_default();
    let version = options["preconditions"]["resourceVersion"].as_str();
    let removed = api.shared.write(|store| store.remove("leases", &name, version));
    answer(removed, StatusCode::OK)
}

fn answer(done: Result<Value, Refused>, well: StatusCode) -> Response {
    match done {
        Ok(mut object) => {
            object["apiVersion"] = "coordination.k8s.io/v1".into();
            object["kind"] = "Lease".into();
            (well, Json(object)).into_response()
        }
        Err(Refused::NotFound) => status(404, "NotFound"),
        Err(Refused::Exists) => status(409, "AlreadyExists"),
        Err(Refused::Conflict) => status(409, "Conflict"),
        Err(Refused::Invalid) => status(422, "Invalid"),
    }
}

fn status(code: u16, reason: &str) -> Response {
    let known = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (known, Json(refusal(code, reason, "so it was asked for"))).into_response()
}

fn refusal(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code
    })
}
