use std::time::Duration;

use baton_proto::v1::{
    ChatRequest, GenerateRequest, Grammar, Message, Resume, Sampling, TokenIds, Tool, ToolChoice,
    chat_request, generate_request, grammar::Source,
};

/// What to answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A text to continue.
    Text(String),
    /// The same as token ids.
    Tokens(Vec<u32>),
    /// A conversation, laid out by the model's chat template.
    Chat(Vec<Message>),
}

/// What a request is to be served in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slo {
    /// To the first token.
    pub ttft: Option<Duration>,
    /// The mean from one token to the next.
    pub tpot: Option<Duration>,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub model: String,
    pub prompt: Prompt,
    /// Everything about drawing; see the protocol's comments.
    pub sampling: Sampling,
    pub tools: Vec<Tool>,
    pub tool_choice: Option<chat_request::Choice>,
    /// One of the router's classes, which have priorities and objectives.
    pub class: Option<String>,
    pub slo: Slo,
    /// Whose it is; unset: the client's.
    pub tenant: Option<String>,
    /// The time for everything, retries included.
    pub deadline: Option<Duration>,
    /// The time for the first token.
    pub first_token_within: Option<Duration>,
    /// The client's name for it: in routers' logs and answers.
    pub name: Option<String>,
    /// Its trace: W3C's `traceparent`.
    pub trace_parent: Option<String>,
}

impl Request {
    /// A text to continue.
    pub fn text(model: impl Into<String>, text: impl Into<String>) -> Self {
        Request::new(model, Prompt::Text(text.into()))
    }

    /// Tokens to continue.
    pub fn tokens(model: impl Into<String>, tokens: impl Into<Vec<u32>>) -> Self {
        Request::new(model, Prompt::Tokens(tokens.into()))
    }

    /// A conversation, to be gone on with by [`user`](Self::user) and the like.
    pub fn chat(model: impl Into<String>, messages: impl Into<Vec<Message>>) -> Self {
        Request::new(model, Prompt::Chat(messages.into()))
    }

    pub fn new(model: impl Into<String>, prompt: Prompt) -> Self {
        Request {
            model: model.into(),
            prompt,
            sampling: Sampling::default(),
            tools: Vec::new(),
            tool_choice: None,
            class: None,
            slo: Slo::default(),
            tenant: None,
            deadline: None,
            first_token_within: None,
            name: None,
            trace_parent: None,
        }
    }

    /// One more message of the conversation, if it is one.
    #[must_use]
    pub fn message(mut self, role: impl Into<String>, content: impl Into<String>) -> Self {
        if let Prompt::Chat(messages) = &mut self.prompt {
            let (role, content) = (role.into(), content.into());
            messages.push(Message { role, content, ..Message::default() });
        }
        self
    }

    #[must_use]
    pub fn system(self, content: impl Into<String>) -> Self {
        self.message("system", content)
    }

    #[must_use]
    pub fn user(self, content: impl Into<String>) -> Self {
        self.message("user", content)
    }

    #[must_use]
    pub fn assistant(self, content: impl Into<String>) -> Self {
        self.message("assistant", content)
    }

    /// The most tokens of each answer.
    #[must_use]
    pub fn max_tokens(mut self, tokens: u32) -> Self {
        self.sampling.max_tokens = Some(tokens);
        self
    }

    /// 0 is greedy.
    #[must_use]
    pub fn temperature(mut self, temperature: f32) -> Self {
        self.sampling.temperature = Some(temperature);
        self
    }

    /// The same seed gives the same answer.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.sampling.seed = Some(seed);
        self
    }

    /// How many answers.
    #[must_use]
    pub fn choices(mut self, choices: u32) -> Self {
        self.sampling.n = Some(choices);
        self
    }

    /// Ends the answer, and isn't part of it.
    #[must_use]
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.sampling.stop.push(text.into());
        self
    }

    /// Tells log-probabilities of each token and of so many of the likeliest.
    #[must_use]
    pub fn logprobs(mut self, likeliest: u32) -> Self {
        self.sampling.logprobs = Some(likeliest);
        self
    }

    /// The answer matches a JSON schema.
    #[must_use]
    pub fn json_schema(mut self, schema: impl Into<String>) -> Self {
        self.sampling.grammar = Some(Grammar { source: Some(Source::JsonSchema(schema.into())) });
        self
    }

    /// A function the model may call.
    #[must_use]
    pub fn tool(mut self, tool: Tool) -> Self {
        self.tools.push(tool);
        self
    }

    /// Whether it must call one.
    #[must_use]
    pub fn tool_choice(mut self, choice: ToolChoice) -> Self {
        self.tool_choice = Some(chat_request::Choice::ToolChoice(choice.into()));
        self
    }

    #[must_use]
    pub fn class(mut self, class: impl Into<String>) -> Self {
        self.class = Some(class.into());
        self
    }

    #[must_use]
    pub fn slo(mut self, slo: Slo) -> Self {
        self.slo = slo;
        self
    }

    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    #[must_use]
    pub fn first_token_within(mut self, within: Duration) -> Self {
        self.first_token_within = Some(within);
        self
    }

    /// The client's name for it: printable, without spaces, at most 128 characters.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    #[must_use]
    pub fn trace_parent(mut self, trace: impl Into<String>) -> Self {
        self.trace_parent = Some(trace.into());
        self
    }

    pub(crate) fn choices_asked(&self) -> usize {
        self.sampling.n.unwrap_or(1) as usize
    }

    /// As it is sent, behind what has come of it.
    pub(crate) fn wire(&self, seed: Option<u64>, resume: Option<Resume>) -> Wire {
        let mut sampling = self.sampling.clone();
        sampling.seed = seed.or(sampling.seed);
        let (model, sampling) = (self.model.clone(), Some(sampling));
        let class = self.class.clone().unwrap_or_default();
        let prompt = match &self.prompt {
            Prompt::Chat(messages) => {
                return Wire::Chat(ChatRequest {
                    model,
                    messages: messages.clone(),
                    sampling,
                    tools: self.tools.clone(),
                    choice: self.tool_choice.clone(),
                    class,
                    resume,
                    ..ChatRequest::default()
                });
            }
            Prompt::Text(text) => generate_request::Prompt::Text(text.clone()),
            Prompt::Tokens(ids) => {
                generate_request::Prompt::TokenIds(TokenIds { ids: ids.clone() })
            }
        };
        Wire::Generate(GenerateRequest { model, prompt: Some(prompt), sampling, class, resume })
    }
}

/// A request as the protocol has it.
pub(crate) enum Wire {
    Generate(GenerateRequest),
    Chat(ChatRequest),
}
