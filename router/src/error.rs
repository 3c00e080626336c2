//! Why a client doesn't get what it asked for.

use std::{borrow::Cow, time::Duration};

use baton_grammar::GrammarError;
use baton_policy::Refusal;
use baton_proto::{ConvertError, status::Refuse};
use baton_text::{StopError, TextError};
use baton_types::{NodeId, RequestId, SamplingError, TokenId};
use tonic::Code;

use crate::request::PromptIndex;

/// Why a request was refused, or ended without its end.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum RequestError {
    /// `code` is the one OpenAI has for it.
    #[error("{message}")]
    Invalid { param: Option<Cow<'static, str>>, code: Option<&'static str>, message: String },
    #[error("the request is no gRPC message this router knows: {0}")]
    Wire(#[from] ConvertError),
    #[error("the request's body is larger than {max} bytes, which is the most allowed")]
    TooLarge { max: u64 },
    #[error("the model `{model}` does not exist; GET /v1/models lists those that do")]
    UnknownModel { model: String },
    #[error("the prompt is empty; send at least one token")]
    EmptyPrompt { param: &'static str },
    #[error(
        "This model's maximum context length is {max} tokens. However, you requested {} tokens \
         ({prompt} in the {param}, {output} in the completion). Please reduce the length of the \
         {param} or completion.",
        u64::from(*prompt) + u64::from(*output)
    )]
    ContextLength { param: &'static str, prompt: u32, output: u32, max: u32 },
    #[error("{source}")]
    Text { param: &'static str, source: TextError },
    #[error("{0}")]
    Stop(#[from] StopError),
    #[error("{0}")]
    Sampling(#[from] SamplingError),
    #[error("what {param} asks for can't be enforced: {source}")]
    Grammar { param: &'static str, source: GrammarError },
    #[error("ignore_eos contradicts a grammar, whose end is the end of the output; leave one out")]
    EndlessGrammar,
    #[error("{given} choices are asked for; from 1 to {max} are allowed")]
    Choices { given: u32, max: u32 },
    #[error(
        "{given} prompts are given, for {choices} answers each; at most {max} prompts are taken then"
    )]
    Prompts { given: usize, choices: u32, max: usize },
    /// One of several prompts.
    #[error("prompt[{}]: {source}", index.0)]
    InPrompt { index: PromptIndex, source: Box<RequestError> },
    #[error("min_tokens is {min}, and at most {max} are generated")]
    MinTokens { min: u32, max: u32 },
    #[error("stop_token_ids has {given} entries; at most {max} are allowed")]
    StopTokens { given: usize, max: usize },
    #[error("{param} names token {}; the model has {vocab} tokens", token.0)]
    NoSuchToken { param: &'static str, token: TokenId, vocab: usize },
    /// A node found something wrong with the request itself.
    #[error("{message}")]
    RefusedByNode { message: String },
    #[error("{max} requests are inside, the most this router takes; try again later")]
    TooMany { max: u32 },
    #[error(transparent)]
    Policy(Refusal),
    #[error("every node that was tried is full ({last}); try again later")]
    NodesFull { last: String, retry_after: Duration },
    #[error(
        "{} nodes died while they worked on this request ({}), so it goes to no other; report it to whoever runs \
         the cluster, and don't send it again",
        nodes.len(), nodes.iter().map(|node| &*node.0).collect::<Vec<_>>().join(", ")
    )]
    Poison { nodes: Vec<NodeId> },
    #[error("{attempts} attempts failed, the last one with: {last}")]
    Failed { attempts: u32, last: String },
    #[error("the deadline of {deadline:?} passed")]
    Deadline { deadline: Duration },
    #[error(
        "no stream has the event {last:?}, or it is too long ago, or the body isn't the one that the stream was \
         asked for with; ask again without Last-Event-ID"
    )]
    StreamGone { last: String },
    #[error("request {id} was cancelled")]
    Cancelled { id: RequestId },
    #[error("the router is shutting down; ask another one")]
    ShuttingDown,
    #[error("{0}")]
    Internal(String),
}

/// When to come again, where nobody knows better.
const RETRY: Duration = Duration::from_secs(1);

impl RequestError {
    pub(crate) fn invalid(
        param: impl Into<Cow<'static, str>>,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let (param, code) = (Some(param.into()), Some(code));
        RequestError::Invalid { param, code, message: message.into() }
    }

    /// The same of one prompt of several, if that prompt is what is wrong.
    pub(crate) fn in_prompt(self, index: PromptIndex) -> Self {
        let is_its_own = matches!(self.param(), None | Some("prompt"));
        if self.outcome() == Outcome::invalid && is_its_own {
            return RequestError::InPrompt { index, source: Box::new(self) };
        }
        self
    }

    /// The parameter that is wrong, by its name over HTTP.
    pub(crate) fn param(&self) -> Option<&str> {
        match self {
            RequestError::Invalid { param, .. } => param.as_deref(),
            RequestError::Wire(error) => Some(error.field()),
            RequestError::UnknownModel { .. } => Some("model"),
            RequestError::EmptyPrompt { param }
            | RequestError::ContextLength { param, .. }
            | RequestError::Text { param, .. } => Some(param),
            RequestError::Stop(_) => Some("stop"),
            RequestError::Sampling(error) => Some(error.param()),
            RequestError::Grammar { param, .. } => Some(param),
            RequestError::EndlessGrammar => Some("ignore_eos"),
            RequestError::Choices { .. } => Some("n"),
            RequestError::Prompts { .. } | RequestError::InPrompt { .. } => Some("prompt"),
            RequestError::MinTokens { .. } => Some("min_tokens"),
            RequestError::StopTokens { .. } => Some("stop_token_ids"),
            RequestError::NoSuchToken { param, .. } => Some(param),
            _ => None,
        }
    }

    /// How it counts in the metrics.
    pub(crate) fn outcome(&self) -> Outcome {
        match self.code() {
            Code::InvalidArgument | Code::NotFound | Code::OutOfRange => Outcome::invalid,
            Code::ResourceExhausted => Outcome::shed,
            Code::DeadlineExceeded => Outcome::deadline,
            Code::Cancelled => Outcome::cancelled,
            _ => Outcome::failed,
        }
    }
}

/// How a request ended.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, prometheus_client::encoding::EncodeLabelValue,
)]
#[allow(non_camel_case_types, reason = "the names are label values")]
pub(crate) enum Outcome {
    ok,
    invalid,
    shed,
    deadline,
    /// By the client: it asked for it, or hung up.
    cancelled,
    failed,
}

impl Refuse for RequestError {
    fn code(&self) -> Code {
        match self {
            RequestError::Invalid { .. }
            | RequestError::Wire(_)
            | RequestError::EmptyPrompt { .. }
            | RequestError::Text { .. }
            | RequestError::Stop(_)
            | RequestError::Sampling(_)
            | RequestError::Grammar { .. }
            | RequestError::EndlessGrammar
            | RequestError::Choices { .. }
            | RequestError::Prompts { .. }
            | RequestError::MinTokens { .. }
            | RequestError::StopTokens { .. }
            | RequestError::NoSuchToken { .. }
            | RequestError::RefusedByNode { .. } => Code::InvalidArgument,
            RequestError::InPrompt { source, .. } => source.code(),
            RequestError::ContextLength { .. } | RequestError::TooLarge { .. } => Code::OutOfRange,
            RequestError::UnknownModel { .. } | RequestError::StreamGone { .. } => Code::NotFound,
            RequestError::TooMany { .. } | RequestError::NodesFull { .. } => {
                Code::ResourceExhausted
            }
            RequestError::Policy(refusal) => match refusal {
                Refusal::UnknownModel { .. } => Code::NotFound,
                Refusal::EmptyPrompt | Refusal::NothingToGenerate => Code::InvalidArgument,
                Refusal::TooLong { .. } | Refusal::PromptTooLong { .. } => Code::OutOfRange,
                Refusal::NoNodes { .. } => Code::Unavailable,
                Refusal::Full { .. } | Refusal::WaitedTooLong { .. } | Refusal::TooLate { .. } => {
                    Code::ResourceExhausted
                }
            },
            RequestError::Failed { .. } | RequestError::ShuttingDown => Code::Unavailable,
            RequestError::Deadline { .. } => Code::DeadlineExceeded,
            RequestError::Cancelled { .. } => Code::Cancelled,
            RequestError::Poison { .. } => Code::FailedPrecondition,
            RequestError::Internal(_) => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            RequestError::Invalid { .. }
            | RequestError::Prompts { .. }
            | RequestError::NoSuchToken { param: "prompt", .. }
            | RequestError::RefusedByNode { .. } => "INVALID_REQUEST",
            RequestError::InPrompt { source, .. } => source.reason(),
            RequestError::Wire(error) => error.reason(),
            RequestError::TooLarge { .. } => "REQUEST_TOO_LARGE",
            RequestError::UnknownModel { .. } => "MODEL_NOT_FOUND",
            RequestError::EmptyPrompt { .. } => "EMPTY_PROMPT",
            RequestError::ContextLength { .. } => "CONTEXT_TOO_LONG",
            RequestError::Text { .. } => "INVALID_TEXT",
            RequestError::Stop(_) => "INVALID_STOP",
            RequestError::Grammar { .. } | RequestError::EndlessGrammar => "INVALID_GRAMMAR",
            RequestError::Sampling(_)
            | RequestError::Choices { .. }
            | RequestError::MinTokens { .. }
            | RequestError::StopTokens { .. }
            | RequestError::NoSuchToken { .. } => "INVALID_SAMPLING",
            RequestError::TooMany { .. } => "AT_CAPACITY",
            RequestError::Policy(refusal) => refusal.reason(),
            RequestError::NodesFull { .. } => "NODES_FULL",
            RequestError::Failed { .. } => "ATTEMPTS_FAILED",
            RequestError::Poison { .. } => "NODES_DIED",
            RequestError::Deadline { .. } => "DEADLINE_EXCEEDED",
            RequestError::Cancelled { .. } => "CANCELLED",
            RequestError::StreamGone { .. } => "STREAM_GONE",
            RequestError::ShuttingDown => "SHUTTING_DOWN",
            RequestError::Internal(_) => "INTERNAL",
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            RequestError::Policy(refusal) => refusal.retry_after(),
            RequestError::NodesFull { retry_after, .. } => Some(*retry_after),
            RequestError::TooMany { .. }
            | RequestError::ShuttingDown
            | RequestError::Failed { .. } => Some(RETRY),
            _ => None,
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            RequestError::Invalid { param: Some(Cow::Borrowed(param)), .. } => Some(param),
            RequestError::Wire(error) => Refuse::field(error),
            RequestError::UnknownModel { .. } => Some("model"),
            RequestError::EmptyPrompt { param }
            | RequestError::ContextLength { param, .. }
            | RequestError::Text { param, .. } => Some(param),
            RequestError::NoSuchToken { param: "prompt", .. }
            | RequestError::Prompts { .. }
            | RequestError::InPrompt { .. } => Some("prompt"),
            RequestError::Stop(_) => Some("sampling.stop"),
            RequestError::Sampling(_)
            | RequestError::Grammar { .. }
            | RequestError::EndlessGrammar
            | RequestError::Choices { .. }
            | RequestError::MinTokens { .. }
            | RequestError::StopTokens { .. }
            | RequestError::NoSuchToken { .. } => self.param().map(in_sampling),
            _ => None,
        }
    }
}

/// Where a parameter is in the gRPC messages.
fn in_sampling(param: &str) -> &'static str {
    match param {
        "n" => "sampling.n",
        "grammar" => "sampling.grammar",
        "ignore_eos" => "sampling.ignore_eos",
        "temperature" => "sampling.temperature",
        "top_p" => "sampling.top_p",
        "min_p" => "sampling.min_p",
        "typical_p" => "sampling.typical_p",
        "repetition_penalty" => "sampling.repetition_penalty",
        "frequency_penalty" => "sampling.frequency_penalty",
        "presence_penalty" => "sampling.presence_penalty",
        "logit_bias" => "sampling.logit_bias",
        "logprobs" => "sampling.logprobs",
        "min_tokens" => "sampling.min_tokens",
        "stop_token_ids" => "sampling.stop_token_ids",
        _ => "sampling",
    }
}
