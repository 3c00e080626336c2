//! `/tokenize` and `/detokenize`: the router's own tokenisers, for clients that count or cache.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    response::{IntoResponse, Response},
};
use baton_text::TextModel;
use baton_types::{ModelId, TokenId};
use serde_json::{Value, json};

use super::{
    body, chat, error,
    params::{Params, missing},
};
use crate::{
    cluster::Served,
    error::RequestError,
    request::{Prompt, tokenise},
    router::Router,
};

/// Text, or a conversation in the model's template, as tokens.
pub(super) async fn tokenize(
    State(router): State<Arc<Router>>,
    bytes: Result<Bytes, BytesRejection>,
) -> Response {
    let answer = async {
        let params = Params::parse(&body(&router, bytes)?)?;
        let served = served(&router, &params)?;
        let prompt = match (params.string("prompt")?, params.value("messages")) {
            (Some(text), None) => Prompt::Text(text),
            (None, Some(_)) => Prompt::Chat(chat::conversation(&params)?),
            (None, None) => return Err(missing("prompt")),
            (Some(_), Some(_)) => {
                let message = "Only one of 'prompt' and 'messages' may be given.";
                return Err(RequestError::invalid("prompt", "invalid_value", message));
            }
        };
        let special = params.optional_flag("add_special_tokens")?.unwrap_or(true);
        let strings = params.flag("return_token_strs")?;
        let mut tokens = tokenise(Arc::clone(&served.text), prompt).await?;
        if !special && served.text.leading_bos().is_some_and(|bos| tokens.first() == Some(&bos)) {
            tokens.remove(0);
        }
        Ok(Json(json!({
            "count": tokens.len(),
            "max_model_len": served.max_context(),
            "tokens": tokens,
            "token_strs": strings.then(|| strs(&served.text, &tokens)),
        })))
    };
    respond(answer.await)
}

/// Tokens as text, control tokens too.
pub(super) async fn detokenize(
    State(router): State<Arc<Router>>,
    bytes: Result<Bytes, BytesRejection>,
) -> Response {
    let answer = || {
        let params = Params::parse(&body(&router, bytes)?)?;
        let served = served(&router, &params)?;
        if params.value("tokens").is_none() {
            return Err(missing("tokens"));
        }
        let tokens = params.token_ids("tokens")?;
        let vocab = served.text.vocab();
        if let Some(&token) = tokens.iter().find(|token| token.0 as usize >= vocab) {
            return Err(RequestError::NoSuchToken { param: "tokens", token, vocab });
        }
        Ok(Json(json!({ "prompt": served.text.decode(&tokens) })))
    };
    respond(answer())
}

fn respond(answer: Result<Json<Value>, RequestError>) -> Response {
    match answer {
        Ok(answer) => answer.into_response(),
        Err(refused) => error::response(&refused),
    }
}

fn served(router: &Router, params: &Params) -> Result<Served, RequestError> {
    let model = params.string("model")?.ok_or_else(|| missing("model"))?;
    let served = router.cluster.served(&ModelId::from(model.as_str()));
    served.ok_or(RequestError::UnknownModel { model })
}

fn strs(text: &TextModel, tokens: &[TokenId]) -> Vec<String> {
    tokens.iter().map(|&token| text.decode(&[token])).collect()
}
