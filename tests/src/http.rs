//! HTTP as curl would speak it.

use std::{
    io::{BufRead, BufReader},
    sync::OnceLock,
    time::Duration,
};

use anyhow::Context;
use serde_json::Value;
use ureq::Agent;

/// An answer that has come to its end.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub body: String,
    pub retry_after: Option<String>,
}

impl Reply {
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.body).with_context(|| self.body.clone())
    }
}

fn agent() -> &'static Agent {
    static AGENT: OnceLock<Agent> = OnceLock::new();
    AGENT.get_or_init(|| {
        Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(120)))
            .build()
            .into()
    })
}

pub fn get(url: &str) -> anyhow::Result<Reply> {
    reply(agent().get(url).call().with_context(|| url.to_owned())?)
}

/// The same from somebody who may be stopped.
pub(crate) fn get_within(url: &str, patience: Duration) -> anyhow::Result<Reply> {
    let request = agent().get(url).config().timeout_global(Some(patience)).build();
    reply(request.call().with_context(|| url.to_owned())?)
}

pub fn delete(url: &str) -> anyhow::Result<Reply> {
    reply(agent().delete(url).call().with_context(|| url.to_owned())?)
}

/// Uploads a file as a browser's form would.
pub fn upload(url: &str, purpose: &str, name: &str, content: &[u8]) -> anyhow::Result<Reply> {
    const BOUNDARY: &str = "a-boundary-that-no-file-has";
    let head = format!(
        "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\n{purpose}\r\n\
         --{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
         content-type: application/octet-stream\r\n\r\n"
    );
    let body = [head.as_bytes(), content, format!("\r\n--{BOUNDARY}--\r\n").as_bytes()].concat();
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let request = agent().post(url).header("content-type", kind);
    reply(request.send(body).with_context(|| url.to_owned())?)
}

pub fn post(url: &str, body: &Value) -> anyhow::Result<Reply> {
    post_with(url, body, &[])
}

/// With more headers.
pub fn post_with(url: &str, body: &Value, headers: &[(&str, &str)]) -> anyhow::Result<Reply> {
    reply(send(url, body, headers)?)
}

/// A body as it is, which needn't be JSON.
pub fn post_bytes(url: &str, body: &[u8]) -> anyhow::Result<Reply> {
    let request = agent().post(url).header("content-type", "application/json");
    reply(request.send(body).with_context(|| url.to_owned())?)
}

fn send(
    url: &str,
    body: &Value,
    headers: &[(&str, &str)],
) -> anyhow::Result<ureq::http::Response<ureq::Body>> {
    let request = agent().post(url).header("content-type", "application/json");
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.send(body.to_string()).with_context(|| url.to_owned())
}

fn reply(mut response: ureq::http::Response<ureq::Body>) -> anyhow::Result<Reply> {
    let retry_after = response.headers().get("retry-after");
    let retry_after = retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let status = response.status().as_u16();
    Ok(Reply { status, body: response.body_mut().read_to_string()?, retry_after })
}

/// The `data:` lines of a server-sent event stream, as they come. Dropping it disconnects.
pub fn events(
    url: &str,
    body: &Value,
) -> anyhow::Result<impl Iterator<Item = anyhow::Result<String>> + use<>> {
    Ok(numbered_events(url, body, &[])?.map(|event| event.map(|event| event.data)))
}

/// One event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    pub data: String,
}

/// Events with their ids, asked for with more headers.
pub fn numbered_events(
    url: &str,
    body: &Value,
    headers: &[(&str, &str)],
) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Event>> + use<>> {
    let (parts, body) = send(url, body, headers)?.into_parts();
    anyhow::ensure!(
        parts.status == 200,
        "{}: {}",
        parts.status,
        body.into_with_config().read_to_string()?
    );
    let mut id = String::new();
    let lines = BufReader::new(body.into_reader()).lines();
    Ok(lines.filter_map(move |line| match line {
        Ok(line) => {
            if let Some(given) = line.strip_prefix("id: ") {
                given.clone_into(&mut id);
            }
            let data = line.strip_prefix("data: ")?.to_owned();
            Some(Ok(Event { id: id.clone(), data }))
        }
        Err(error) => Some(Err(error.into())),
    }))
}
