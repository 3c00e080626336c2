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

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[(&str, &str)]) -> Result<String, TextError> {
        let message = |&(role, content): &(&str, &str)| ChatMessage {
            role: role.to_owned(),
            content: content.to_owned(),
        };
        let messages: Vec<_> = messages.iter().map(message).collect();
        ChatTemplate::new(source)?.render(&messages, "<s>", "</s>")
    }

    /// The idioms real templates use.
    #[test]
    fn real_templates_are_understood() {
        let chatml = "{% for message in messages %}\
            {% if loop.first and messages[0]['role'] != 'system' %}{{ '[system]' }}{% endif %}\
            {{'<' + message['role'] + '>' + message['content'] + '\n'}}{% endfor %}\
            {% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}";
        let llama = "{{- bos_token }}\n{%- if messages[0]['role'] == 'system' %}\n    \
            {%- set system = messages[0]['content']|trim %}\n    \
            {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system = \"\" %}\n\
            {%- endif %}\n{{- system }}\n{%- if tools is not none and tools is defined %}\n    \
            {{- raise_exception('no tools') }}\n{%- endif %}\n{%- for message in messages %}\n    \
            {{- '<' + message.role + '>' + message.content.strip() + eos_token }}\n{%- endfor %}";
        let namespace = "{% set ns = namespace(n=0) %}{% for m in messages %}\
            {% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}\
            {{ messages[-1].content.split('</think>')[-1].lstrip('\n') }}";
        type Messages = &'static [(&'static str, &'static str)];
        let cases: [(&str, Messages, &str); 4] = [
            (chatml, &[("user", "hi")], "[system]<user>hi\n<assistant>"),
            (chatml, &[("system", "be")], "<system>be\n<assistant>"),
            (llama, &[("system", " be "), ("user", " hi ")], "<s>be<user>hi</s>"),
            (namespace, &[("user", "a"), ("assistant", "b</think>\nc")], "2c"),
        ];
        for (source, messages, expected) in cases {
            assert_eq!(render(source, messages).as_deref(), Ok(expected), "{source}");
        }
    }

    #[test]
    fn a_template_may_refuse_a_conversation() {
        let source =
            "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}";
        let refused = render(source, &[("assistant", "hi")]).unwrap_err().to_string();
        assert!(refused.contains("user first"), "{refused}");
        assert_eq!(render(source, &[("user", "hi")]), Ok(String::new()));
    }
}
