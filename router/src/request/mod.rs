//! One request, from the question to its end.
//!
//! `admit` checks and tokenises it, `run` carries it through as many attempts as it needs, each an
//! `attempt` on one pair of nodes, and `merge` makes their tokens one exact stream.

mod admit;
mod attempt;
mod caller;
mod choices;
mod failure;
mod inside;
mod losses;
mod merge;
mod recall;
mod retry;
mod run;
mod standing;
mod timing;
mod tries;

use std::{sync::Arc, time::Duration};

use baton_proto::{convert::Sampled, v1};
use baton_text::{CallPiece, Chat, TextModel};
use baton_types::{
    ChoiceIndex, FinishReason, ModelId, RequestId, SamplingSpec, TokenId, TokenLogprobs,
};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::{
    admit::{check_numbers, tokenise},
    caller::{Caller, REQUEST_ID, Trace},
    inside::Inside,
    losses::Suspects,
    retry::Retries,
    standing::{NamedClass, Standing},
};
use crate::error::RequestError;

/// The most answers of one request, to all its prompts together.
pub(crate) const MAX_CHOICES: u32 = 128;

/// What a client asks for, whatever it speaks.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) caller: Caller,
    pub(crate) model: ModelId,
    /// Unset: the caller's, or the default.
    pub(crate) class: Option<NamedClass>,
    /// Each is answered for itself: the rest is said of every one of them.
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) sampling: SamplingSpec,
    /// Whether the client named the seed, which all prompts then have; otherwise each has its own.
    pub(crate) seeded: bool,
    /// The parameter its grammar came in, if it has one.
    pub(crate) grammar_param: &'static str,
    /// How many answers to draw for each prompt: from 1, and to [`MAX_CHOICES`] together,
    pub(crate) choices: u32,
    /// and how many of them, the likeliest, to answer with.
    pub(crate) keep: u32,
    /// Whether the prompt is part of the answer.
    pub(crate) echo: bool,
    /// Unset: what the context leaves.
    pub(crate) max_tokens: Option<u32>,
    pub(crate) stop: Vec<String>,
    /// More tokens that end it,
    pub(crate) stop_token_ids: Vec<TokenId>,
    /// and whether the model's own don't.
    pub(crate) ignore_eos: bool,
    /// How long the client wants to wait, if it said so.
    pub(crate) deadline: Option<Duration>,
    /// What is there of each choice of each prompt before it begins; nothing, unless it was begun elsewhere.
    pub(crate) before: Vec<Before>,
    /// It goes on with this one, which ends if it is still here.
    pub(crate) instead_of: Option<RequestId>,
}

/// What is there of a choice that was begun elsewhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Before {
    /// Tokens that the client has: no chunk has some of them and others.
    pub(crate) had: u32,
    /// Tokens that are known.
    pub(crate) known: Vec<TokenId>,
    /// The client has its end as well, so there is nothing left to be done.
    pub(crate) is_over: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Prompt {
    Text(String),
    Tokens(Vec<TokenId>),
    Chat(Chat),
}

impl Prompt {
    /// The parameter it came in.
    pub(crate) fn param(&self) -> &'static str {
        match self {
            Prompt::Text(_) | Prompt::Tokens(_) => "prompt",
            Prompt::Chat(_) => "messages",
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Prompt::Text(text) => text.is_empty(),
            Prompt::Tokens(tokens) => tokens.is_empty(),
            Prompt::Chat(chat) => chat.messages.is_empty(),
        }
    }
}

/// An admitted request's answer, as it comes: what is said to all of its prompts, heard as one.
/// Dropping it cancels the request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) id: RequestId,
    pub(crate) model: ModelId,
    /// The first prompt's.
    pub(crate) seed: u64,
    pub(crate) prompts: Vec<Arc<[TokenId]>>,
    /// What its tokens mean.
    pub(crate) text: Arc<TextModel>,
    said: mpsc::Receiver<Result<Said, RequestError>>,
    /// Choices that haven't ended.
    left: u32,
    /// One for each choice of each prompt.
    _work: Vec<AbortOnDropHandle<()>>,
}

/// Which of a request's prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PromptIndex(pub(crate) u16);

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Said {
    Chunk(Chunk),
    /// Always the last of its choice, unless there was an error, which ends all of all prompts.
    End(End),
}

/// Tokens in the stream's order, without gaps, and the text that became certain with them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chunk {
    pub(crate) prompt: PromptIndex,
    pub(crate) choice: ChoiceIndex,
    /// Index of the first of `tokens`.
    pub(crate) index: u32,
    pub(crate) tokens: Vec<Sampled>,
    pub(crate) text: String,
    /// What of it is calls of tools; `text` doesn't have it.
    pub(crate) calls: Vec<CallPiece>,
    /// With the first chunk of a prompt's first choice, if they were asked for: of the prompt's
    /// tokens but the first.
    pub(crate) prompt_logprobs: Vec<TokenLogprobs>,
}

impl Chunk {
    fn new(prompt: PromptIndex, choice: ChoiceIndex, index: u32) -> Self {
        let (tokens, text, calls) = (Vec::new(), String::new(), Vec::new());
        Chunk { prompt, choice, index, tokens, text, calls, prompt_logprobs: Vec::new() }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct End {
    pub(crate) prompt: PromptIndex,
    pub(crate) choice: ChoiceIndex,
    pub(crate) reason: FinishReason,
    /// Tools were called.
    pub(crate) called: bool,
    pub(crate) usage: v1::Usage,
    pub(crate) timings: v1::Timings,
}

/// The name of a call: the same wherever and how often the request runs.
pub(crate) fn call_id(request: RequestId, choice: ChoiceIndex, index: u32) -> String {
    format!("call_{:016x}{:04x}{index:04x}", (request.0 >> 64) as u64 ^ request.0 as u64, choice.0)
}

impl Answer {
    /// What is said next. An answer that breaks off says so with an error.
    pub(crate) async fn next(&mut self) -> Result<Said, RequestError> {
        let broken = || Err(RequestError::Internal("the request's task ended early".to_owned()));
        let said = self.said.recv().await.unwrap_or_else(broken);
        self.left -= u32::from(matches!(said, Ok(Said::End(_))));
        said
    }

    /// Every choice has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.left == 0
    }
}
