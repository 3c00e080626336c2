//! `/v1/completions`.

use std::sync::Arc;

use axum::{
    Extension,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    response::Response,
};
use baton_types::{ModelId, SamplingSpec, TokenId};
use serde_json::{Value, json};

use super::{
    Asked,
    answer::{self, Piece, Shape},
    body, error,
    grammar::grammar_param,
    params::{self, Params, missing, wrong_type},
    sampling::{completion_logprobs, sampling},
    sse::Streams,
};
use crate::{
    error::RequestError,
    request::{Ask, Caller, Prompt},
    router::Router,
};

/// OpenAI's default for this interface.
const MAX_TOKENS: u32 = 16;

pub(super) async fn completions(
    State(router): State<Arc<Router>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    bytes: Result<Bytes, BytesRejection>,
) -> Response {
    if let Some(last) = Streams::last_event(&headers) {
        let resumed = router.streams.resume(last, router.config.timeouts.resume.0);
        return resumed.unwrap_or_else(|refused| error::response(&refused));
    }
    let asked = Asked { router: &router, caller, headers: &headers };
    let answer = async {
        let params = Params::parse(&body(&router, bytes)?)?;
        let ask = ask(asked.caller.clone(), &params)?;
        answer::answer(&asked, ask, params.streaming()?, Text).await
    };
    answer.await.unwrap_or_else(|refused| error::response(&refused))
}

pub(super) fn ask(caller: Caller, params: &Params) -> Result<Ask, RequestError> {
    params.refuse_unsupported(params::SHARED)?;
    params.refuse_unsupported(params::COMPLETIONS)?;
    let asked = params.count("max_tokens")?.or(params.count("max_completion_tokens")?);
    Ok(Ask {
        caller,
        model: ModelId(params.string("model")?.ok_or_else(|| missing("model"))?.into()),
        prompt: prompt(params.value("prompt").ok_or_else(|| missing("prompt"))?)?,
        sampling: SamplingSpec { logprobs: completion_logprobs(params)?, ..sampling(params)? },
        grammar_param: grammar_param(params),
        choices: params.count("n")?.unwrap_or(1),
        max_tokens: Some(asked.unwrap_or(MAX_TOKENS)),
        stop: params.stop()?,
        stop_token_ids: params.token_ids("stop_token_ids")?,
        ignore_eos: params.flag("ignore_eos")?,
        deadline: None,
    })
}

/// A string, token ids, or an array of one of these.
fn prompt(value: &Value) -> Result<Prompt, RequestError> {
    let expected = "a string or an array of token ids";
    let wrong = || wrong_type("prompt", expected, value);
    match value {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        Value::Array(values) => match values.as_slice() {
            [one @ (Value::String(_) | Value::Array(_))] => prompt(one),
            [Value::String(_) | Value::Array(_), ..] => {
                let message = format!(
                    "Unsupported value: 'prompt' has {} prompts; send one request for each.",
                    values.len()
                );
                Err(RequestError::invalid("prompt", "unsupported_value", message))
            }
            ids => {
                let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
                let ids = ids.iter().map(|value| id(value).map(TokenId));
                ids.collect::<Option<_>>().map(Prompt::Tokens).ok_or_else(wrong)
            }
        },
        _ => Err(wrong()),
    }
}

/// A text's continuation.
#[derive(Clone, Copy, Debug)]
struct Text;

impl Shape for Text {
    const ID: &'static str = "cmpl-";
    const OBJECT: &'static str = "text_completion";
    const CHUNK: &'static str = "text_completion";

    fn opening(&self) -> Option<Value> {
        None
    }

    fn piece(&self, piece: &Piece<'_>) -> Value {
        choice(piece.text, piece.told.completion(), None)
    }

    fn closing(&self, reason: &str) -> Value {
        choice("", Value::Null, Some(reason))
    }

    fn whole(&self, whole: &Piece<'_>, reason: &str) -> Value {
        choice(whole.text, whole.told.completion(), Some(reason))
    }
}

fn choice(text: &str, logprobs: Value, reason: Option<&str>) -> Value {
    json!({ "index": 0, "text": text, "logprobs": logprobs, "finish_reason": reason })
}
