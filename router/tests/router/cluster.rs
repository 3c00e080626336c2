//! A router on free ports, and HTTP as clients speak it.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    time::Duration,
};

use baton_node::task;
use baton_router::{RouterConfig, ServeError};
use baton_types::Role;
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use ureq::Agent;

use crate::fake::{FakeNode, MODEL};

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const PROMPT: &str = "pass the baton";

/// A router with nodes.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) url: String,
    pub(crate) control: String,
    pub(crate) prefill: Vec<FakeNode>,
    pub(crate) decode: Vec<FakeNode>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) serving: AbortOnDropHandle<Result<(), ServeError>>,
}

/// An answer that has come to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The `data:` of each server-sent event.
    pub(crate) fn events(&self) -> Vec<String> {
        self.body
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(str::to_owned)
            .collect()
    }
}

impl Cluster {
    /// A router alone.
    pub(crate) async fn alone(change: impl FnOnce(&mut RouterConfig)) -> Self {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config =
            RouterConfig { listen: free, control_listen: free, ..RouterConfig::default() };
        change(&mut config);
        let serving = baton_router::start(config).await.unwrap();
        let url = format!("http://{}", serving.api_address());
        let control = format!("http://{}", serving.control_address());
        let shutdown = CancellationToken::new();
        let serving = task::owned(serving.until(shutdown.clone()));
        Cluster { url, control, prefill: Vec::new(), decode: Vec::new(), shutdown, serving }
    }

    /// A router with so many nodes of each role.
    pub(crate) async fn start(prefill: usize, decode: usize) -> Self {
        let mut cluster = Cluster::alone(|_| {}).await;
        cluster.join(prefill, decode).await;
        cluster
    }

    /// So many nodes of each role come.
    pub(crate) async fn join(&mut self, prefill: usize, decode: usize) {
        for number in 0..prefill {
            let name = format!("p{number}");
            self.prefill.push(FakeNode::join(&self.control, Role::Prefill, &name).await);
        }
        for number in 0..decode {
            let name = format!("d{number}");
            self.decode.push(FakeNode::join(&self.control, Role::Decode, &name).await);
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        let url = format!("{}{path}", self.url);
        blocking(move || reply(agent().get(&url).call().unwrap())).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<String>) -> Reply {
        self.post_with(path, body, &[]).await
    }

    pub(crate) async fn post_with(
        &self,
        path: &str,
        body: impl Into<String>,
        headers: &[(&'static str, &'static str)],
    ) -> Reply {
        let (url, body) = (format!("{}{path}", self.url), body.into());
        let headers = headers.to_vec();
        blocking(move || {
            let request = agent().post(&url).header("content-type", "application/json");
            let request = headers
                .iter()
                .fold(request, |request, (name, value)| request.header(*name, *value));
            reply(request.send(body).unwrap())
        })
        .await
    }

    /// A completion of [`PROMPT`] with more parameters.
    pub(crate) async fn complete(&self, extra: Value) -> Reply {
        self.post("/v1/completions", completion(extra).to_string()).await
    }

    /// The first line of a stream that is then left.
    pub(crate) async fn peek(&self, extra: Value) -> String {
        let (url, body) = (format!("{}/v1/completions", self.url), completion(extra).to_string());
        blocking(move || {
            let response = agent().post(&url).send(body).unwrap();
            let mut lines = BufReader::new(response.into_body().into_reader()).lines();
            lines.find_map(|line| line.unwrap().strip_prefix("data: ").map(str::to_owned)).unwrap()
        })
        .await
    }
}

pub(crate) fn completion(extra: Value) -> Value {
    let mut body = json!({ "model": MODEL, "prompt": PROMPT, "max_tokens": 8, "temperature": 0 });
    let (Some(fields), Value::Object(extra)) = (body.as_object_mut(), extra) else { return body };
    fields.extend(extra);
    body
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let working = tokio::task::spawn_blocking(work);
    tokio::time::timeout(PATIENCE, working).await.expect("an answer in time").unwrap()
}

/// A connection for each request: leaving one is hanging up.
fn agent() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .into()
}

fn reply(mut response: ureq::http::Response<ureq::Body>) -> Reply {
    Reply {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.body_mut().read_to_string().unwrap(),
    }
}

/// Waits until `done`, looking again whenever others have run.
pub(crate) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
}
