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

pub fn post(url: &str, body: &Value) -> anyhow::Result<Reply> {
    let response = agent().post(url).header("content-type", "application/json");
    reply(response.send(body.to_string()).with_context(|| url.to_owned())?)
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
    let request = agent().post(url).header("content-type", "application/json");
    let response = request.send(body.to_string()).with_context(|| url.to_owned())?;
    let (parts, body) = response.into_parts();
    anyhow::ensure!(
        parts.status == 200,
        "{}: {}",
        parts.status,
        body.into_with_config().read_to_string()?
    );
    let lines = BufReader::new(body.into_reader()).lines();
    Ok(lines.filter_map(|line| match line {
        Ok(line) => line.strip_prefix("data: ").map(|data| Ok(data.to_owned())),
        Err(error) => Some(Err(error.into())),
    }))
}
