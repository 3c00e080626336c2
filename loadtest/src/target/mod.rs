//! Whom to ask: Baton over gRPC, or any server that speaks OpenAI's HTTP API.

mod failure;
mod grpc;
mod http;
mod sse;
mod tls;

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

pub(crate) use self::failure::Failure;
use self::{grpc::Grpc, http::Http};
use crate::{heard::Heard, slo::Objectives};

/// A server, or several that are one: `[NAME=]URL[,URL…]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSpec {
    pub name: String,
    pub protocol: Protocol,
    /// Like `http://host:8000`, or `https`.
    pub urls: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `baton.v1.Inference`.
    Grpc,
    /// OpenAI's.
    Http,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is no target: {why}; write it like grpc://host:8000 (Baton), http://host:8000 (any server that speaks OpenAI's API), with a name like new=grpc://host:8000"
)]
pub struct TargetError {
    given: String,
    why: &'static str,
}

/// Which of an API's calls is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Api {
    /// A conversation, laid out by the model's template.
    #[default]
    Chat,
    /// A text to continue.
    Completions,
}

/// What all requests have in common.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asking {
    pub model: String,
    pub api: Api,
    pub temperature: f32,
    /// Outputs are as long as they are to be.
    pub ignore_eos: bool,
    pub timeout: Duration,
    /// Routers hear of the objectives.
    pub declares: bool,
    pub tenant: Option<String>,
    /// Streams that break go on elsewhere.
    pub resumes: bool,
    /// More for the body over HTTP.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// Who one is, and whom to trust.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    pub token: Option<String>,
    /// The token goes over plain connections, too.
    pub plain_token: bool,
    /// PEM. Without it, what the system trusts.
    pub ca: Option<Vec<u8>>,
    /// PEM: certificate and key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ask {
    pub messages: Vec<Message>,
    pub output: u32,
    pub seed: u64,
    pub class: Option<Arc<str>>,
    pub objectives: Objectives,
    /// The client's name for it.
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Message {
    pub role: &'static str,
    pub content: String,
}

/// A server to be asked.
#[derive(Debug)]
pub(crate) enum Target {
    Grpc(Grpc),
    Http(Box<Http>),
}

impl Target {
    /// Nobody is asked yet.
    ///
    /// # Errors
    ///
    /// TLS settings that can't be used, or addresses that are none.
    pub(crate) fn new(
        spec: &TargetSpec,
        access: &Access,
        asking: Asking,
        connections: usize,
    ) -> Result<Self, Failure> {
        Ok(match spec.protocol {
            Protocol::Grpc => Target::Grpc(Grpc::new(spec, access, asking, connections)?),
            Protocol::Http => Target::Http(Box::new(Http::new(spec, access, asking)?)),
        })
    }

    /// Asks, and hears the answer to its end.
    ///
    /// # Errors
    ///
    /// It wasn't answered wholly; what came of it has been heard.
    pub(crate) async fn ask(&self, ask: Ask, heard: &mut Heard<'_>) -> Result<(), Failure> {
        match self {
            Target::Grpc(target) => target.ask(ask, heard).await,
            Target::Http(target) => target.ask(ask, heard).await,
        }
    }

    /// Some time has passed: to be called some hundred times a second.
    pub(crate) fn tick(&self) {
        if let Target::Http(target) = self {
            target.tick();
        }
    }

    /// What it serves.
    ///
    /// # Errors
    ///
    /// It can't be asked.
    pub(crate) async fn models(spec: &TargetSpec, access: &Access) -> Result<Vec<String>, Failure> {
        match spec.protocol {
            Protocol::Grpc => grpc::models(spec, access).await,
            Protocol::Http => http::models(spec, access).await,
        }
    }

    /// A text's tokens as its tokeniser writes them, if it tells: Baton and vLLM do, both over HTTP.
    ///
    /// # Errors
    ///
    /// It doesn't.
    pub(crate) async fn token_texts(
        spec: &TargetSpec,
        access: &Access,
        model: &str,
        text: &str,
    ) -> Result<Vec<String>, Failure> {
        http::token_texts(spec, access, model, text).await
    }
}

impl FromStr for TargetSpec {
    type Err = TargetError;

    fn from_str(given: &str) -> Result<Self, TargetError> {
        let wrong = |why| TargetError { given: given.to_owned(), why };
        let (name, urls) = match given.split_once('=') {
            Some((name, urls)) if !name.contains([':', '/']) => (Some(name), urls),
            _ => (None, given),
        };
        let mut protocol = None;
        let mut plain = Vec::new();
        for url in urls.split(',') {
            let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
            let (speaks, scheme) = match scheme {
                "grpc" => (Protocol::Grpc, "http"),
                "grpcs" => (Protocol::Grpc, "https"),
                "http" | "https" => (Protocol::Http, scheme),
                _ => return Err(wrong("its scheme is none of grpc, grpcs, http, https")),
            };
            if *protocol.get_or_insert(speaks) != speaks {
                return Err(wrong("its addresses speak different protocols"));
            }
            let rest = rest.trim_end_matches('/');
            let rest = rest.strip_suffix("/v1").unwrap_or(rest);
            if rest.is_empty() {
                return Err(wrong("it has no host"));
            }
            plain.push(format!("{scheme}://{rest}"));
        }
        let protocol = protocol.ok_or_else(|| wrong("it has no address"))?;
        let name = name.map_or_else(|| urls.to_owned(), str::to_owned);
        if name.is_empty() {
            return Err(wrong("its name is empty"));
        }
        Ok(TargetSpec { name, protocol, urls: plain })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Grpc => "gRPC",
            Protocol::Http => "HTTP",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read() {
        let check = |given: &str, name: &str, protocol, urls: &[&str]| {
            let spec: TargetSpec = given.parse().unwrap();
            assert_eq!((spec.name.as_str(), spec.protocol), (name, protocol));
            assert_eq!(spec.urls, urls);
        };
        check("http://a:1/v1/", "http://a:1/v1/", Protocol::Http, &["http://a:1"]);
        check("new=grpc://a:1,grpcs://b", "new", Protocol::Grpc, &["http://a:1", "https://b"]);
        check("https://a/x?y=z", "https://a/x?y=z", Protocol::Http, &["https://a/x?y=z"]);
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for (given, why) in [
            ("a:1", "no scheme"),
            ("ftp://a", "none of grpc"),
            ("http://", "no host"),
            ("grpc://a,http://b", "different protocols"),
            ("=http://a", "empty"),
        ] {
            let error = given.parse::<TargetSpec>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(given), "{error}");
        }
    }
}
