//! Chat templates: Jinja, as models bring them.

use minijinja::{Environment, Error, ErrorKind, context};
use serde::Serialize;

use crate::model::TextError;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// system, user or assistant.
    pub role: String,
    pub content: String,
}

/// Instructions a template may take: far more than any real one, far less than a service can lose.
const FUEL: u64 = 2_000_000;
const NAME: &str = "chat";

#[derive(Debug)]
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
}

impl ChatTemplate {
    pub(crate) fn new(source: &str) -> Result<Self, TextError> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| TextError::Template { why: error.to_string() })?;
        Ok(ChatTemplate { environment })
    }

    /// The conversation laid out, with the beginning of the assistant's answer.
    pub(crate) fn render(
        &self,
        messages: &[ChatMessage],
        bos: &str,
        eos: &str,
    ) -> Result<String, TextError> {
        let refuse = |error: Error| TextError::Messages { why: error.to_string() };
        let template = self.environment.get_template(NAME).map_err(refuse)?;
        let values = context! { messages, add_generation_prompt => true, bos_token => bos, eos_token => eos };
        template.render(values).map_err(refuse)
    }
}

/// How templates refuse a conversation.
fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}
