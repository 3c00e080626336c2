//! How to draw, out of a JSON body: OpenAI's parameters and those other servers add.

use baton_types::{SamplingSpec, TokenId};
use rand::Rng;
use serde_json::Value;

use super::{
    grammar::grammar,
    params::{Params, integral, wrong_type},
};
use crate::error::RequestError;

/// Everything but `logprobs`, which each interface asks for in its own way.
pub(super) fn sampling(params: &Params) -> Result<SamplingSpec, RequestError> {
    let plain = SamplingSpec::default();
    let number = |name, default| params.number(name).map(|given| given.unwrap_or(default));
    Ok(SamplingSpec {
        temperature: number("temperature", plain.temperature)?,
        seed: params.seed()?.unwrap_or_else(|| rand::rng().random()),
        top_k: top_k(params)?,
        top_p: number("top_p", plain.top_p)?,
        min_p: number("min_p", plain.min_p)?,
        typical_p: number("typical_p", plain.typical_p)?,
        repetition_penalty: number("repetition_penalty", plain.repetition_penalty)?,
        frequency_penalty: number("frequency_penalty", plain.frequency_penalty)?,
        presence_penalty: number("presence_penalty", plain.presence_penalty)?,
        logit_bias: logit_bias(params)?,
        min_tokens: params.integer("min_tokens", 0)?.unwrap_or(plain.min_tokens),
        logprobs: None,
        prompt_logprobs: None,
        grammar: grammar(params)?,
    })
}

/// `top_logprobs`, which only `logprobs` allows.
pub(super) fn chat_logprobs(params: &Params) -> Result<Option<u32>, RequestError> {
    let top = params.integer("top_logprobs", 0)?;
    match (params.flag("logprobs")?, top) {
        (true, top) => Ok(Some(at_most("top_logprobs", top.unwrap_or(0))?)),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            let message = "The 'top_logprobs' parameter is only allowed when 'logprobs' is true.";
            Err(RequestError::invalid("top_logprobs", "invalid_value", message))
        }
    }
}

/// `logprobs`, a number.
pub(super) fn completion_logprobs(params: &Params) -> Result<Option<u32>, RequestError> {
    params.integer("logprobs", 0)?.map(|given| at_most("logprobs", given)).transpose()
}

fn at_most(name: &'static str, given: u32) -> Result<u32, RequestError> {
    let max = SamplingSpec::MAX_LOGPROBS;
    if given > max {
        let message = format!(
            "Invalid '{name}': integer above maximum value. Expected a value <= {max}, but got \
             {given} instead."
        );
        return Err(RequestError::invalid(name, "integer_above_max_value", message));
    }
    Ok(given)
}

/// −1 is all, too.
fn top_k(params: &Params) -> Result<u32, RequestError> {
    match params.value("top_k").and_then(integral) {
        Some(-1) => Ok(0),
        _ => Ok(params.integer("top_k", 0)?.unwrap_or(0)),
    }
}

/// An object from token ids to numbers.
fn logit_bias(params: &Params) -> Result<Vec<(TokenId, f32)>, RequestError> {
    let Some(value) = params.value("logit_bias") else { return Ok(Vec::new()) };
    let biases = value.as_object().ok_or_else(|| wrong_type("logit_bias", "an object", value))?;
    let one = |(key, bias): (&String, &Value)| {
        let id = key.parse().map_err(|_| {
            let message = format!("Invalid key in 'logit_bias': {key:?}. It must be a token id.");
            RequestError::invalid("logit_bias", "invalid_value", message)
        })?;
        let name = format!("logit_bias.{key}");
        let bias = bias.as_f64().ok_or_else(|| wrong_type(name, "a number", bias))?;
        Ok((TokenId(id), bias as f32))
    };
    let mut biases = biases.iter().map(one).collect::<Result<Vec<_>, RequestError>>()?;
    biases.sort_unstable_by_key(|&(id, _)| id);
    Ok(biases)
}
