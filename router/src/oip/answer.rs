//! Answers, whole or in parts, as tensors.

use std::collections::HashMap;

use baton_proto::{
    oip::{
        InferParameter, ModelInferResponse, infer_parameter::ParameterChoice,
        model_infer_response::InferOutputTensor,
    },
    status::Refuse,
};
use baton_types::{FinishReason, RequestId, TokenId};
use prost::bytes::Bytes;

use super::{
    error::InferError,
    metadata::VERSION,
    tensor::{raw_ids, raw_text},
};
use crate::request::{Answer, End, Said};

/// What the last answer to a request of a stream is known by, as Triton has it.
const FINAL: &str = "triton_final_response";

/// The tensors an answer may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Text,
    Ids,
    FinishReason,
}

impl Output {
    pub(super) const ALL: [Output; 3] = [Output::Text, Output::Ids, Output::FinishReason];

    pub(super) fn name(self) -> &'static str {
        match self {
            Output::Text => "text_output",
            Output::Ids => "output_ids",
            Output::FinishReason => "finish_reason",
        }
    }

    pub(super) fn names() -> String {
        Output::ALL.map(Output::name).join(", ")
    }

    pub(super) fn datatype(self) -> &'static str {
        match self {
            Output::Text | Output::FinishReason => "BYTES",
            Output::Ids => "INT32",
        }
    }

    /// −1 is any length.
    pub(super) fn shape(self) -> i64 {
        if self == Output::Ids { -1 } else { 1 }
    }
}

/// What an answer begins with: whom it is for, and what it holds.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) model: String,
    /// The client's name for its request.
    pub(super) id: String,
    /// The router's, which `baton.v1.Inference/Cancel` takes.
    pub(super) request: RequestId,
    pub(super) seed: u64,
    pub(super) outputs: Vec<Output>,
}

/// A part of an answer, or all of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Part {
    pub(super) text: String,
    pub(super) tokens: Vec<TokenId>,
    /// Of the last part.
    pub(super) end: Option<End>,
}

impl Part {
    pub(super) fn new(said: Said) -> Self {
        match said {
            Said::Chunk(chunk) => Part {
                text: chunk.text,
                tokens: chunk.tokens.iter().map(|sampled| sampled.token).collect(),
                end: None,
            },
            Said::End(end) => Part { end: Some(end), ..Part::default() },
        }
    }

    /// All that `answer` says, behind `text`.
    pub(super) async fn whole(answer: &mut Answer, text: String) -> Result<Self, InferError> {
        let mut whole = Part { text, ..Part::default() };
        while !answer.is_over() {
            let part = Part::new(answer.next().await?);
            whole.text.push_str(&part.text);
            whole.tokens.extend(part.tokens);
            whole.end = part.end;
        }
        Ok(whole)
    }
}

impl Head {
    pub(super) fn response(&self, part: Part) -> ModelInferResponse {
        let reason = part.end.as_ref().map(|end| end.reason);
        let raw = self.outputs.iter().map(|output| raw(*output, &part, reason));
        let mut parameters = HashMap::from([(
            "request_id".to_owned(),
            parameter(ParameterChoice::StringParam(self.request.to_string())),
        )]);
        if let Some(end) = &part.end {
            let count = |count: u32| parameter(ParameterChoice::Int64Param(count.into()));
            parameters.extend([
                ("prompt_tokens".to_owned(), count(end.usage.prompt_tokens)),
                ("completion_tokens".to_owned(), count(end.usage.completion_tokens)),
                ("cached_tokens".to_owned(), count(end.usage.cached_tokens)),
                ("seed".to_owned(), parameter(ParameterChoice::Uint64Param(self.seed))),
            ]);
        }
        ModelInferResponse {
            model_name: self.model.clone(),
            model_version: VERSION.to_owned(),
            id: self.id.clone(),
            parameters,
            raw_output_contents: raw.collect(),
            outputs: self.outputs.iter().map(|output| describe(*output, &part)).collect(),
        }
    }
}

fn describe(output: Output, part: &Part) -> InferOutputTensor {
    let length = match output {
        Output::Ids => part.tokens.len() as i64,
        Output::Text | Output::FinishReason => 1,
    };
    InferOutputTensor {
        name: output.name().to_owned(),
        datatype: output.datatype().to_owned(),
        shape: vec![length],
        ..InferOutputTensor::default()
    }
}

fn raw(output: Output, part: &Part, reason: Option<FinishReason>) -> Bytes {
    match output {
        Output::Text => raw_text(&part.text),
        Output::Ids => raw_ids(part.tokens.iter().copied()),
        Output::FinishReason => raw_text(&reason.map(|r| r.to_string()).unwrap_or_default()),
    }
}

/// Says whether more answers to the same request follow.
pub(super) fn mark(response: &mut ModelInferResponse, is_final: bool) {
    let flag = parameter(ParameterChoice::BoolParam(is_final));
    response.parameters.insert(FINAL.to_owned(), flag);
}

/// An answer without outputs, which says whose request failed and what programs decide by.
pub(super) fn failed(model: String, id: String, error: &impl Refuse) -> ModelInferResponse {
    let text = |text: String| parameter(ParameterChoice::StringParam(text));
    let mut parameters = HashMap::from([
        ("error_code".to_owned(), parameter(ParameterChoice::Int64Param(error.code() as i64))),
        ("error_reason".to_owned(), text(error.reason().to_owned())),
    ]);
    if let Some(field) = error.field() {
        parameters.insert("error_field".to_owned(), text(field.to_owned()));
    }
    if let Some(after) = error.retry_after() {
        let millis = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        let millis = parameter(ParameterChoice::Int64Param(millis));
        parameters.insert("retry_after_ms".to_owned(), millis);
    }
    let mut response =
        ModelInferResponse { model_name: model, id, parameters, ..ModelInferResponse::default() };
    mark(&mut response, true);
    response
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}
