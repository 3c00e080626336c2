//! `/tokenize`, `/detokenize` and `/tokenizer_info`: the router's own tokenisers, for clients that
//! count, cache or score.

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
    body, chat, error, files,
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
        let served = served(&router, params.string("model")?)?;
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
        let served = served(&router, params.string("model")?)?;
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

/// What a client needs to know of the tokeniser, in the words of Hugging Face's
/// `tokenizer_config.json`.
pub(super) async fn info(State(router): State<Arc<Router>>, asked: files::Asked) -> Response {
    let answer = || {
        let query = files::query(asked)?;
        let served = served(&router, query.text("model").map(str::to_owned))?;
        let text = &served.text;
        Ok(Json(json!({
            "model": served.model.to_string(),
            // The one that takes any `tokenizer.json`.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": text.bos_text(),
            "eos_token": text.eos_text(),
            "add_bos_token": text.leading_bos().is_some(),
            "vocab_size": text.vocab(),
            "model_max_length": served.max_context(),
            "chat_template": text.chat_template(),
        })))
    };
    respond(answer())
}

fn respond(answer: Result<Json<Value>, RequestError>) -> Response {
    match answer {
        Ok(answer) => answer.into_response(),
        Err(refused) => error::response(&refused),
    }
}

/// The model that is asked for: it needn't be named where there is one only.
fn served(router: &Router, model: Option<String>) -> Result<Served, RequestError> {
    if let Some(model) = model {
        let served = router.cluster.served(&ModelId::from(model.as_str()));
        return served.ok_or_else(|| router.cluster.unknown(model));
    }
    let mut all = router.cluster.all_served();
    match (all.pop(), all.len()) {
        (Some(only), 0) => Ok(only),
        (last, others) => {
            let given = others + usize::from(last.is_some());
            let message = format!(
                "Missing required parameter: 'model'. It may be left out where one model is \
                 served, and {given} are."
            );
            Err(RequestError::invalid("model", "missing_required_parameter", message))
        }
    }
}

fn strs(text: &TextModel, tokens: &[TokenId]) -> Vec<String> {
    tokens.iter().map(|&token| text.decode(&[token])).collect()
}
