//! Streams that broke off and go on, here or where they began.
//!
//! # Why does the client lose nothing, and get nothing twice?
//!
//! A sequence is a function of prompt, seed and sampling (`same-tokens`), and goes on from any of its tokens as in a
//! replay. The client has the tokens that came, so neither the router nor the node it came from is needed any more.
//! Text and calls of tools are functions of the tokens: they are made again, and what ends with a token that the client
//! has isn't sent.

use baton_proto::{convert, v1};
use baton_types::{RequestId, TokenId};

use crate::{
    error::RequestError,
    request::{Before, Chunk},
};

/// What a client has of its stream.
#[derive(Debug, Default)]
pub(super) struct Had {
    request: Option<RequestId>,
    choices: Vec<Choice>,
}

#[derive(Debug)]
struct Choice {
    tokens: Vec<TokenId>,
    is_over: bool,
}

impl Had {
    /// What `resume` says of a stream that `sampling` was asked for.
    pub(super) fn parse(resume: v1::Resume, sampling: &v1::Sampling) -> Result<Self, RequestError> {
        let v1::Resume { request_id, received } = resume;
        let invalid = |param, message| RequestError::invalid(param, "invalid_value", message);
        if sampling.seed.is_none() {
            let message = "a stream goes on with the seed that its Started told; set sampling.seed";
            return Err(invalid("sampling.seed", message.to_owned()));
        }
        let choices = sampling.n.unwrap_or(1);
        if received.len() > choices as usize {
            let given = received.len();
            let message =
                format!("resume.received has {given} choices, and {choices} are asked for");
            return Err(invalid("resume.received", message));
        }
        let request = Some(request_id).filter(|id| !id.is_empty());
        let request = request.map(|id| id.parse()).transpose();
        let request = request.map_err(|error| invalid("resume.request_id", format!("{error}")))?;
        let choice = |v1::Received { token_ids, complete }| {
            let tokens = convert::token_ids(v1::TokenIds { ids: token_ids })?;
            Ok(Choice { tokens, is_over: complete })
        };
        let choices = received.into_iter().map(choice).collect::<Result<_, RequestError>>()?;
        Ok(Had { request, choices })
    }

    /// The request that it goes on with.
    pub(super) fn request(&self) -> Option<RequestId> {
        self.request
    }

    pub(super) fn before(&self) -> Vec<Before> {
        let before = |Choice { tokens, is_over }: &Choice| Before {
            had: tokens.len() as u32,
            known: tokens.clone(),
            is_over: *is_over,
        };
        self.choices.iter().map(before).collect()
    }

    /// Whether the first choice's first token came.
    pub(super) fn has_first_token(&self) -> bool {
        self.choices.first().is_some_and(|choice| !choice.tokens.is_empty())
    }

    /// Whether the client has it.
    pub(super) fn has(&self, chunk: &Chunk) -> bool {
        let had = self.choices.get(usize::from(chunk.choice.0));
        let had = had.map_or(0, |choice| choice.tokens.len());
        !chunk.tokens.is_empty() && chunk.index as usize + chunk.tokens.len() <= had
    }
}
