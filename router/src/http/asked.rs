//! The interface's parameters for requests that come in other ways.

use serde_json::{Map, Value};

use super::{chat, completions};
use crate::{
    error::RequestError,
    request::{Ask, Caller},
};

/// What the body of `/v1/chat/completions` would ask for.
pub(crate) fn chat_ask(caller: Caller, body: Map<String, Value>) -> Result<Ask, RequestError> {
    chat::ask(caller, &body.into())
}

/// What the body of `/v1/completions` would ask for.
pub(crate) fn completion_ask(
    caller: Caller,
    body: Map<String, Value>,
) -> Result<Ask, RequestError> {
    completions::ask(caller, &body.into())
}
