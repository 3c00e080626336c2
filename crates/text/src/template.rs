//! Chat templates: Jinja, as models bring them.

use minijinja::{Environment, Error, ErrorKind, Value, context};

use crate::{
    model::TextError,
    tools::{self, ToolSupport},
};

/// Instructions a template may take: far more than any real one, far less than a service can lose.
const FUEL: u64 = 2_000_000;
const NAME: &str = "chat";

#[derive(Debug)]
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    pub(crate) tools: ToolSupport,
    /// The Jinja it was made of.
    pub(crate) source: String,
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
        environment.add_filter("tojson", tojson);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| TextError::Template { why: error.to_string() })?;
        let (tools, source) = (ToolSupport::of(source), source.to_owned());
        Ok(ChatTemplate { environment, tools, source })
    }

    /// The conversation laid out, with the beginning of the assistant's answer.
    pub(crate) fn render(
        &self,
        messages: &[serde_json::Value],
        tools: &[serde_json::Value],
        bos: &str,
        eos: &str,
    ) -> Result<String, TextError> {
        let refuse = |error: Error| TextError::Messages { why: error.to_string() };
        let template = self.environment.get_template(NAME).map_err(refuse)?;
        // Templates ask whether there are any by asking whether there is a list.
        let tools = (!tools.is_empty()).then_some(tools);
        let values = context! {
            messages, tools, add_generation_prompt => true, bos_token => bos, eos_token => eos,
        };
        template.render(values).map_err(refuse)
    }
}

/// JSON as Python writes it; indented if asked.
fn tojson(value: Value, options: minijinja::value::Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let refuse =
        |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let value = serde_json::to_value(&value).map_err(refuse)?;
    let Some(indent) = indent else { return Ok(tools::compact(&value)) };
    let spaces = " ".repeat(indent.min(16));
    let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    serde::Serialize::serialize(&value, &mut serializer).map_err(refuse)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// How templates refuse a conversation.
fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(source: &str, messages: &[(&str, &str)]) -> Result<String, TextError> {
        let message = |&(role, content): &(&str, &str)| json!({ "role": role, "content": content });
        let messages: Vec<_> = messages.iter().map(message).collect();
        ChatTemplate::new(source)?.render(&messages, &[], "<s>", "</s>")
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
