//! `/v1/completions`.

use std::sync::Arc;

use axum::{
    Extension,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    response::Response,
};
use baton_types::ModelId;
use serde_json::{Value, json};

use super::{
    Asked,
    answer::{self, Piece, Shape},
    body, error,
    grammar::grammar_param,
    params::{self, Params, missing, token_ids, wrong_type},
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
/// As many as OpenAI draws.
const MAX_BEST_OF: u32 = 20;

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
        respond(&asked, &params).await
    };
    answer.await.unwrap_or_else(|refused| error::response(&refused))
}

pub(super) async fn respond(asked: &Asked<'_>, params: &Params) -> Result<Response, RequestError> {
    let ask = ask(asked.caller.clone(), params)?;
    let tells = completion_logprobs(params)?.is_some();
    answer::answer(asked, ask, params.streaming()?, Text { tells }).await
}

pub(super) fn ask(caller: Caller, params: &Params) -> Result<Ask, RequestError> {
    params.refuse_unsupported(params::SHARED)?;
    params.refuse_unsupported(params::COMPLETIONS)?;
    let (keep, choices) = choices(params)?;
    let (echo, mut sampling) = (params.flag("echo")?, sampling(params)?);
    let logprobs = completion_logprobs(params)?;
    // The likeliest are found by them.
    sampling.logprobs = if choices > keep { Some(logprobs.unwrap_or(0)) } else { logprobs };
    sampling.prompt_logprobs = logprobs.filter(|_| echo);
    let asked = params.count("max_tokens")?.or(params.count("max_completion_tokens")?);
    Ok(Ask {
        caller,
        model: ModelId(params.string("model")?.ok_or_else(|| missing("model"))?.into()),
        prompt: prompt(params.value("prompt").ok_or_else(|| missing("prompt"))?)?,
        grammar_param: grammar_param(params),
        sampling,
        choices,
        keep,
        echo,
        max_tokens: Some(asked.unwrap_or(MAX_TOKENS)),
        stop: params.stop()?,
        stop_token_ids: params.token_ids("stop_token_ids")?,
        ignore_eos: params.flag("ignore_eos")?,
        deadline: None,
    })
}

/// How many answers to tell, and how many to draw for them: `n` and `best_of`.
fn choices(params: &Params) -> Result<(u32, u32), RequestError> {
    let keep = params.count("n")?.unwrap_or(1);
    let Some(drawn) = params.count("best_of")? else { return Ok((keep, keep)) };
    let invalid = |message: String| Err(RequestError::invalid("best_of", "invalid_value", message));
    if drawn < keep {
        return invalid(format!(
            "You requested that the server return more choices than it will generate (n = {keep}, best_of = {drawn})."
        ));
    }
    if drawn > MAX_BEST_OF {
        return invalid(format!("best_of is {drawn}; at most {MAX_BEST_OF} are drawn."));
    }
    if drawn > keep && params.flag("stream")? {
        return invalid("You requested a stream, but best_of > n: which answers are the best is known at their end only.".to_owned());
    }
    Ok((keep, drawn))
}

/// A string, token ids, or an array of one of these.
fn prompt(value: &Value) -> Result<Prompt, RequestError> {
    match value {
        Value::Array(values) => match values.as_slice() {
            [one @ (Value::String(_) | Value::Array(_))] => one_prompt(one),
            [Value::String(_) | Value::Array(_), ..] => {
                let message = format!(
                    "Unsupported value: 'prompt' has {} prompts; send one request for each.",
                    values.len()
                );
                Err(RequestError::invalid("prompt", "unsupported_value", message))
            }
            _ => one_prompt(value),
        },
        _ => one_prompt(value),
    }
}

fn one_prompt(value: &Value) -> Result<Prompt, RequestError> {
    let expected = "a string or an array of token ids";
    match value {
        Value::String(text) => Some(Prompt::Text(text.clone())),
        Value::Array(ids) => token_ids(ids).map(Prompt::Tokens),
        _ => None,
    }
    .ok_or_else(|| wrong_type("prompt", expected, value))
}

/// A text's continuation.
#[derive(Clone, Copy, Debug)]
struct Text {
    /// Log-probabilities.
    tells: bool,
}

impl Text {
    fn told(self, piece: &Piece<'_>) -> Value {
        if self.tells { piece.told.completion() } else { Value::Null }
    }
}

impl Shape for Text {
    const ID: &'static str = "cmpl-";
    const OBJECT: &'static str = "text_completion";
    const CHUNK: &'static str = "text_completion";

    fn opening(&self) -> Option<Value> {
        None
    }

    fn piece(&self, piece: &Piece<'_>) -> Value {
        choice(piece.text, self.told(piece), None)
    }

    fn closing(&self, reason: &str) -> Value {
        choice("", Value::Null, Some(reason))
    }

    fn whole(&self, whole: &Piece<'_>, reason: &str) -> Value {
        choice(whole.text, self.told(whole), Some(reason))
    }
}

fn choice(text: &str, logprobs: Value, reason: Option<&str>) -> Value {
    json!({ "index": 0, "text": text, "logprobs": logprobs, "finish_reason": reason })
}
