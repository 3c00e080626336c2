//! What a request asks for: inputs and parameters as one [`Ask`], and how to answer it.

use baton_proto::oip::{
    InferParameter, ModelInferRequest,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
};
use baton_types::TokenId;
use prost::bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    answer::Output,
    error::InferError,
    metadata,
    parameters::Parameters,
    tensor::{Input, TensorError, quoted, tensors},
};
use crate::{
    error::RequestError,
    http,
    request::{Ask, Caller},
};

/// The longest model name that is looked up; a longer one would not fit into a status.
const MAX_NAME_BYTES: usize = 512;

/// A request that is well formed.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) ask: Ask,
    /// The input the prompt came in.
    pub(super) prompt: Input,
    pub(super) outputs: Vec<Output>,
    /// Whether to answer piece by piece; unset if the client didn't say.
    pub(super) stream: Option<bool>,
    /// What the answer's text begins with: the prompt, if the client wants it there.
    pub(super) prefix: Option<String>,
}

/// Reads a request, but for the id, which is the answer's matter.
pub(super) fn read(request: ModelInferRequest, caller: Caller) -> Result<Wanted, InferError> {
    let ModelInferRequest { model_name, model_version, parameters, outputs, .. } = request;
    metadata::check_version(&model_version)?;
    if model_name.len() > MAX_NAME_BYTES {
        return Err(RequestError::UnknownModel { model: quoted(&model_name) }.into());
    }
    let outputs = requested(outputs)?;
    let inputs = Inputs::read(request.inputs, request.raw_input_contents)?;
    let mut parameters = Parameters::read(parameters, inputs.sampling.as_deref())?;
    let in_parameters = parameters.flag("stream")?;
    let stream = inputs.stream.or(in_parameters);
    let in_parameters = parameters.flag("exclude_input_in_output")?;
    let excludes = inputs.excludes.or(in_parameters).unwrap_or(true);
    let timeout = parameters.timeout()?;
    parameters.refuse_unsupported()?;

    let prompt = inputs.prompt.input();
    let prefix = match &inputs.prompt {
        _ if excludes => None,
        Prompt::Text(text) => Some(text.clone()),
        Prompt::Ids(_) | Prompt::Messages(_) => return Err(InferError::Prefix),
    };
    let mut asked = parameters.0;
    asked.insert("model".to_owned(), model_name.into());
    let ask = inputs.prompt.ask(asked, caller);
    let ask = ask.map_err(|error| InferError::Request { prompt: Some(prompt), error })?;
    Ok(Wanted { ask: Ask { deadline: timeout, ..ask }, prompt, outputs, stream, prefix })
}

/// What the tensors say.
struct Inputs {
    prompt: Prompt,
    stream: Option<bool>,
    excludes: Option<bool>,
    sampling: Option<String>,
}

enum Prompt {
    Text(String),
    Ids(Vec<TokenId>),
    Messages(Value),
}

impl Inputs {
    fn read(inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> Result<Self, InferError> {
        let mut prompts = Vec::new();
        let (mut stream, mut excludes, mut sampling) = (None, None, None);
        for tensor in tensors(inputs, raw)? {
            match tensor.input {
                Input::Text => prompts.push(Prompt::Text(tensor.text()?)),
                Input::Ids => prompts.push(Prompt::Ids(tensor.ids()?)),
                Input::Messages => prompts.push(Prompt::Messages(json(&tensor.text()?)?)),
                Input::Stream => stream = Some(tensor.flag()?),
                Input::ExcludeInputInOutput => excludes = Some(tensor.flag()?),
                Input::SamplingParameters => sampling = Some(tensor.text()?),
            }
        }
        let given = prompts.len();
        match (prompts.pop(), given) {
            (Some(prompt), 1) => Ok(Inputs { prompt, stream, excludes, sampling }),
            _ => Err(InferError::Prompts { given }),
        }
    }
}

impl Prompt {
    fn input(&self) -> Input {
        match self {
            Prompt::Text(_) => Input::Text,
            Prompt::Ids(_) => Input::Ids,
            Prompt::Messages(_) => Input::Messages,
        }
    }

    /// The same as a body of the HTTP interface.
    fn ask(self, mut asked: Map<String, Value>, caller: Caller) -> Result<Ask, RequestError> {
        let prompt: Value = match self {
            Prompt::Messages(messages) => {
                asked.insert("messages".to_owned(), messages);
                return http::chat_ask(caller, asked);
            }
            Prompt::Text(text) => text.into(),
            Prompt::Ids(ids) => ids.iter().map(|id| id.0).collect(),
        };
        asked.insert("prompt".to_owned(), prompt);
        http::completion_ask(caller, asked)
    }
}

fn json(text: &str) -> Result<Value, TensorError> {
    let input = Input::Messages;
    let parsed = serde_json::from_str(text);
    parsed.map_err(|error| TensorError::Json { input, problem: error.to_string() })
}

/// The outputs to send, in the client's order; without one, all.
fn requested(outputs: Vec<InferRequestedOutputTensor>) -> Result<Vec<Output>, InferError> {
    if outputs.is_empty() {
        return Ok(Output::ALL.to_vec());
    }
    let output = |InferRequestedOutputTensor { name, parameters }| {
        let output = Output::ALL.into_iter().find(|output| output.name() == name);
        let output = output.ok_or_else(|| InferError::Output { given: quoted(&name) })?;
        for asked in ["shared_memory_region", "classification"] {
            let is_set = |parameter: &InferParameter| parameter.parameter_choice.is_some();
            if parameters.get(asked).is_some_and(is_set) {
                return Err(InferError::OutputParameter { output: name, asked });
            }
        }
        Ok(output)
    };
    outputs.into_iter().map(output).collect()
}
