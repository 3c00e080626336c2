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
    handle::Origin,
    params::{self, Params, missing, service_tier, token_ids, wrong_type},
    resume,
    sampling::{completion_logprobs, sampling},
};
use crate::{
    error::RequestError,
    request::{Ask, Caller, MAX_CHOICES, Prompt, PromptIndex, check_numbers},
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
    let taken_up = match resume(&router, &caller, &headers, bytes.as_ref().ok(), Text::ID) {
        Ok(response) => return response,
        Err(Ok(taken_up)) => taken_up,
        Err(Err(gone)) => return error::response(&gone),
    };
    let answer = async {
        let body = body(&router, bytes)?;
        let digest = Origin::digest(&body);
        let asked = Asked { router: &router, caller, headers: &headers, digest, taken_up };
        respond(&asked, &Params::parse(&body)?).await
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
        class: service_tier(params)?,
        model: ModelId(params.string("model")?.ok_or_else(|| missing("model"))?.into()),
        prompts: prompts(params.value("prompt").ok_or_else(|| missing("prompt"))?, choices)?,
        grammar_param: grammar_param(params),
        sampling,
        seeded: params.value("seed").is_some(),
        choices,
        keep,
        echo,
        max_tokens: Some(asked.unwrap_or(MAX_TOKENS)),
        stop: params.stop()?,
        stop_token_ids: params.token_ids("stop_token_ids")?,
        ignore_eos: params.flag("ignore_eos")?,
        deadline: None,
        before: Vec::new(),
        instead_of: None,
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

/// A string or token ids, or an array of such prompts.
fn prompts(value: &Value, choices: u32) -> Result<Vec<Prompt>, RequestError> {
    let Some(values) = value.as_array() else { return Ok(vec![one_prompt(value)?]) };
    match values.as_slice() {
        [one @ (Value::String(_) | Value::Array(_))] => Ok(vec![one_prompt(one)?]),
        [Value::String(_) | Value::Array(_), ..] => {
            // Before anything is made of them.
            check_numbers(choices, values.len(), MAX_CHOICES)?;
            let one = |(index, value)| {
                one_prompt(value).map_err(|error| error.in_prompt(PromptIndex(index)))
            };
            (0..).zip(values).map(one).collect()
        }
        _ => Ok(vec![one_prompt(value)?]),
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
