//! Why a request of this protocol is refused.

use std::time::Duration;

use baton_proto::status::Refuse;
use tonic::Code;

use super::{
    answer::Output,
    metadata::VERSION,
    tensor::{Input, TensorError},
};
use crate::error::RequestError;

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(super) enum InferError {
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// `prompt` is the input it came in.
    #[error("{error}")]
    Request { prompt: Option<Input>, error: RequestError },
    #[error("model version {given} does not exist; every model here has the version {VERSION}")]
    Version { given: String },
    #[error("{given} of text_input, input_ids and messages are there; send one of them")]
    Prompts { given: usize },
    #[error("the output {given} is not known; there are {}", Output::names())]
    Output { given: String },
    #[error("the output {output} asks for {asked}, which is not supported; leave it out")]
    OutputParameter { output: String, asked: &'static str },
    #[error("stream is true, and ModelInfer answers once; call ModelStreamInfer, or send false")]
    StreamOfOne,
    #[error(
        "exclude_input_in_output is false, which only an answer to text_input that isn't \
             streamed can be; send true, or stream = false and text_input"
    )]
    Prefix,
    #[error("{name} is {given}; it must be a finite number")]
    NotFinite { name: String, given: f64 },
}

/// A request alone, whose prompt isn't known yet.
impl From<RequestError> for InferError {
    fn from(error: RequestError) -> Self {
        InferError::Request { prompt: None, error }
    }
}

impl Refuse for InferError {
    fn code(&self) -> Code {
        match self {
            InferError::Request { error, .. } => error.code(),
            InferError::Version { .. } => Code::NotFound,
            _ => Code::InvalidArgument,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            InferError::Request { error, .. } => error.reason(),
            InferError::Tensor(_) | InferError::Prompts { .. } => "INVALID_TENSOR",
            InferError::Version { .. } => "MODEL_NOT_FOUND",
            _ => "INVALID_REQUEST",
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            InferError::Request { error, .. } => error.retry_after(),
            _ => None,
        }
    }

    fn field(&self) -> Option<&'static str> {
        Some(match self {
            InferError::Tensor(error) => error.field(),
            InferError::Request { prompt, error } => match (error.field()?, prompt) {
                ("model", _) => "model_name",
                ("prompt", Some(prompt)) => prompt.name(),
                (field, _) => field.strip_prefix("sampling.").unwrap_or(field),
            },
            InferError::Version { .. } => "model_version",
            InferError::Prompts { .. } => "inputs",
            InferError::Output { .. } | InferError::OutputParameter { .. } => "outputs",
            InferError::StreamOfOne => "stream",
            InferError::Prefix => "exclude_input_in_output",
            InferError::NotFinite { .. } => "parameters",
        })
    }
}
