//! Texts as tokens, and back.

use std::sync::Arc;

use baton_proto::{
    convert,
    v1::{
        Conversation, DetokenizeRequest, DetokenizeResponse, TokenIds, TokenizeRequest,
        TokenizeResponse, tokenize_request,
    },
};
use baton_types::ModelId;

use crate::{
    cluster::Served,
    error::RequestError,
    request::{Prompt, tokenise},
    router::Router,
};

pub(super) async fn tokenize(
    router: &Router,
    request: TokenizeRequest,
) -> Result<TokenizeResponse, RequestError> {
    let served = served(router, request.model)?;
    let prompt = match request.prompt {
        Some(tokenize_request::Prompt::Text(text)) => Prompt::Text(text),
        Some(tokenize_request::Prompt::Conversation(Conversation { messages, tools })) => {
            Prompt::Chat(convert::chat(messages, tools, None, false)?)
        }
        None => return Err(RequestError::EmptyPrompt { param: "prompt" }),
    };
    let tokens = tokenise(Arc::clone(&served.text), prompt).await?;
    Ok(TokenizeResponse {
        token_ids: tokens.into_iter().map(|token| token.0).collect(),
        max_context: served.max_context(),
    })
}

pub(super) fn detokenize(
    router: &Router,
    request: DetokenizeRequest,
) -> Result<DetokenizeResponse, RequestError> {
    let DetokenizeRequest { model, token_ids } = request;
    let served = served(router, model)?;
    let tokens = convert::token_ids(TokenIds { ids: token_ids })?;
    let vocab = served.text.vocab();
    if let Some(&token) = tokens.iter().find(|token| token.0 as usize >= vocab) {
        return Err(RequestError::NoSuchToken { param: "token_ids", token, vocab });
    }
    Ok(DetokenizeResponse { text: served.text.decode(&tokens) })
}

fn served(router: &Router, model: String) -> Result<Served, RequestError> {
    let served = router.cluster.served(&ModelId::from(model.as_str()));
    served.ok_or_else(|| router.cluster.unknown(model))
}
