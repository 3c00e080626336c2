//! Short calls, and what all calls have in common.

use std::{sync::Arc, time::Duration};

use http::{
    HeaderMap, Method, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use rustls::ClientConfig;
use serde_json::{Value, json};

use super::{
    connection::Request,
    pool::Pool,
    refusal::{protocol, refusal},
};
use crate::target::{Access, Failure, TargetSpec, failure::Kind, tls};

/// What isn't a stream is at most so long.
const LARGEST_BODY: usize = 64 << 20;

pub(super) fn tls_config(access: &Access) -> Result<Arc<ClientConfig>, Failure> {
    tls::config(access).map_err(|error| Failure::new(Kind::Settings, "settings", error.to_string()))
}

pub(super) fn uris(spec: &TargetSpec, path: &str) -> Result<Vec<Uri>, Failure> {
    let uri = |url: &String| {
        let wrong = |error| Failure::new(Kind::Settings, "settings", format!("{url}: {error}"));
        format!("{url}{path}").parse::<Uri>().map_err(|error| wrong(error.to_string()))
    };
    spec.urls.iter().map(uri).collect()
}

pub(super) fn header(what: &str, text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::from_str(text).map_err(|_| {
        Failure::new(
            Kind::Settings,
            "settings",
            format!("{what} can't be sent in a header: {text:?}"),
        )
    })
}

pub(super) fn common_headers(spec: &TargetSpec, access: &Access) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(token) = &access.token {
        let is_open = |url: &String| url.starts_with("http://") && !is_loopback(url);
        if let Some(url) = spec.urls.iter().find(|url| is_open(url)).filter(|_| !access.plain_token)
        {
            let detail =
                format!("the token would be sent to {url} in plain text; use https, or allow it");
            return Err(Failure::new(Kind::Settings, "settings", detail));
        }
        let mut value =
            header("the token", &format!("Bearer {token}")).map_err(|mut failure| {
                failure.detail = "the token can't be sent in a header".to_owned();
                failure
            })?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

fn is_loopback(url: &str) -> bool {
    let host =
        url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// One short call.
async fn call(
    spec: &TargetSpec,
    access: &Access,
    path: &str,
    body: Option<Value>,
) -> Result<Value, Failure> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let url = uris(spec, path)?.swap_remove(0);
    let sent = body.as_ref().map(Value::to_string).unwrap_or_default();
    let request = Request {
        method: if body.is_some() { Method::POST } else { Method::GET },
        path: url.path(),
        headers: common_headers(spec, access)?,
        body: sent.as_bytes(),
    };
    let pool = Pool::new(&url, &tls_config(access)?)?;
    let answer = async {
        let mut answering = pool.send(request, || {}).await?;
        if answering.status != StatusCode::OK {
            return Err(refusal(answering).await);
        }
        let body = answering.connection.all(LARGEST_BODY).await?;
        serde_json::from_slice(&body)
            .map_err(|error| protocol(format!("{path} isn't JSON: {error}")))
    };
    let late = |_| {
        Failure::new(
            Kind::Timeout,
            "timeout",
            format!("{path} wasn't answered within {PATIENCE:?}"),
        )
    };
    tokio::time::timeout(PATIENCE, answer).await.map_err(late)?
}

pub(in crate::target) async fn models(
    spec: &TargetSpec,
    access: &Access,
) -> Result<Vec<String>, Failure> {
    let said = call(spec, access, "/v1/models", None).await?;
    let list =
        said["data"].as_array().ok_or_else(|| protocol("/v1/models has no data".to_owned()))?;
    Ok(list.iter().filter_map(|model| model["id"].as_str()).map(str::to_owned).collect())
}

pub(in crate::target) async fn token_texts(
    spec: &TargetSpec,
    access: &Access,
    model: &str,
    text: &str,
) -> Result<Vec<String>, Failure> {
    let body = json!({ "model": model, "prompt": text, "return_token_strs": true, "add_special_tokens": false });
    let said = call(spec, access, "/tokenize", Some(body)).await?;
    let texts = said["token_strs"]
        .as_array()
        .ok_or_else(|| protocol("/tokenize has no token_strs".to_owned()))?;
    Ok(texts.iter().map(|text| text.as_str().unwrap_or_default().to_owned()).collect())
}
