//! Parameters, as the JSON object the HTTP interface reads: it has the names, types and limits.

use std::{collections::HashMap, time::Duration};

use baton_proto::oip::{InferParameter, infer_parameter::ParameterChoice};
use serde_json::{Map, Number, Value};

use super::{
    error::InferError,
    tensor::{Input, TensorError, quoted},
};
use crate::error::RequestError;

/// What Triton's clients write as text, too: `{"temperature": "0.1"}`.
const NOT_TEXT: [&str; 14] = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "max_tokens",
    "max_completion_tokens",
    "min_tokens",
    "ignore_eos",
    "n",
];

/// A request's parameters. `null` is the same as absent.
#[derive(Debug, Default)]
pub(super) struct Parameters(pub(super) Map<String, Value>);

impl Parameters {
    /// Those of the request, and those of the tensor `sampling_parameters`, which count where both
    /// name one.
    pub(super) fn read(
        given: HashMap<String, InferParameter>,
        sampling: Option<&str>,
    ) -> Result<Self, InferError> {
        let mut all = Map::new();
        for (name, parameter) in given {
            let value = value(&name, parameter)?;
            all.insert(name, value);
        }
        if let Some(json) = sampling {
            all.extend(object(json)?);
        }
        for name in NOT_TEXT {
            if let Some(value) = all.get_mut(name) {
                read_text(value);
            }
        }
        Ok(Parameters(all))
    }

    /// Takes a flag out.
    pub(super) fn flag(&mut self, name: &'static str) -> Result<Option<bool>, InferError> {
        match self.0.shift_remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(wrong(name, "a boolean", &other)),
        }
    }

    /// Takes Triton's `timeout` out, which is in microseconds; 0 is none.
    pub(super) fn timeout(&mut self) -> Result<Option<Duration>, InferError> {
        match self.0.shift_remove("timeout") {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(0) => Ok(None),
                Some(micros) => Ok(Some(Duration::from_micros(micros))),
                None => Err(wrong("timeout", "a whole number of microseconds", &value)),
            },
        }
    }

    /// Refuses what asks for more than an answer of this protocol holds.
    pub(super) fn refuse_unsupported(&self) -> Result<(), InferError> {
        let asks = |name: &str, nothing: &[Value]| {
            self.0.get(name).is_some_and(|value| !value.is_null() && !nothing.contains(value))
        };
        let off = [Value::from(0), Value::from(""), Value::from(false)];
        let refused = [
            ("n", asks("n", &[Value::from(1)]), "send one request for each answer"),
            ("best_of", asks("best_of", &[Value::from(1)]), "send one request for each answer"),
            ("echo", asks("echo", &[Value::from(false)]), "set exclude_input_in_output to false"),
            ("logprobs", asks("logprobs", &[]), "ask baton.v1 or HTTP for them"),
            ("tools", asks("tools", &[Value::Array(Vec::new())]), "ask HTTP to call them"),
            ("sequence_id", asks("sequence_id", &off), "every request stands alone"),
        ];
        match refused.into_iter().find(|(_, asked, _)| *asked) {
            None => Ok(()),
            Some((name, _, instead)) => {
                let message = format!("'{name}' is not supported over this protocol; {instead}.");
                Err(RequestError::invalid(name, "unsupported_value", message).into())
            }
        }
    }
}

fn wrong(name: &'static str, expected: &str, value: &Value) -> InferError {
    let message = format!("'{name}' is {}; send {expected}", quoted(&value.to_string()));
    RequestError::invalid(name, "invalid_type", message).into()
}

fn value(name: &str, parameter: InferParameter) -> Result<Value, InferError> {
    Ok(match parameter.parameter_choice {
        None => Value::Null,
        Some(ParameterChoice::BoolParam(flag)) => flag.into(),
        Some(ParameterChoice::Int64Param(number)) => number.into(),
        Some(ParameterChoice::Uint64Param(number)) => number.into(),
        Some(ParameterChoice::StringParam(text)) => text.into(),
        Some(ParameterChoice::DoubleParam(given)) => match Number::from_f64(given) {
            Some(number) => number.into(),
            None => return Err(InferError::NotFinite { name: quoted(name), given }),
        },
    })
}

fn object(json: &str) -> Result<Map<String, Value>, TensorError> {
    let problem = match serde_json::from_str(json) {
        Ok(Value::Object(object)) => return Ok(object),
        Ok(_) => "send an object".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(TensorError::Json { input: Input::SamplingParameters, problem })
}

/// Makes a number or a flag of text that is one; other text is for others to refuse.
fn read_text(value: &mut Value) {
    let read = value.as_str().and_then(|text| serde_json::from_str(text).ok());
    if let Some(read @ (Value::Number(_) | Value::Bool(_))) = read {
        *value = read;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parameter(choice: ParameterChoice) -> InferParameter {
        InferParameter { parameter_choice: Some(choice) }
    }

    #[test]
    fn every_kind_of_parameter_is_read_and_the_tensor_counts() {
        let given = [
            ("max_tokens", ParameterChoice::StringParam("7".to_owned())),
            ("temperature", ParameterChoice::DoubleParam(0.5)),
            ("seed", ParameterChoice::Uint64Param(u64::MAX)),
            ("top_k", ParameterChoice::Int64Param(-1)),
            ("stop", ParameterChoice::StringParam("7".to_owned())),
            ("ignore_eos", ParameterChoice::BoolParam(true)),
        ];
        let given = given.map(|(name, choice)| (name.to_owned(), parameter(choice)));
        let json = r#"{"temperature": "0.25", "top_p": "x"}"#;
        let read = Parameters::read(given.into(), Some(json)).unwrap();
        let expected = json!({
            "max_tokens": 7, "temperature": 0.25, "seed": u64::MAX, "top_k": -1, "stop": "7",
            "ignore_eos": true, "top_p": "x",
        });
        assert_eq!(Value::Object(read.0), expected);
    }

    #[test]
    fn what_is_no_parameter_is_refused() {
        let nan = ("top_p".to_owned(), parameter(ParameterChoice::DoubleParam(f64::NAN)));
        let error = Parameters::read([nan].into(), None).unwrap_err();
        assert!(matches!(error, InferError::NotFinite { .. }), "{error}");
        for json in ["", "[]", "{", "7"] {
            let error = Parameters::read(HashMap::new(), Some(json)).unwrap_err();
            assert!(error.to_string().contains("sampling_parameters"), "{error}");
        }
    }

    #[test]
    fn own_parameters_are_taken_out() {
        let json = r#"{"stream": true, "timeout": 1500, "seed": 3}"#;
        let mut read = Parameters::read(HashMap::new(), Some(json)).unwrap();
        assert_eq!(read.flag("stream").unwrap(), Some(true));
        assert_eq!(read.timeout().unwrap(), Some(Duration::from_micros(1500)));
        assert_eq!(Value::Object(read.0), json!({ "seed": 3 }));
        for json in [r#"{"timeout": -1}"#, r#"{"timeout": 0.5}"#, r#"{"timeout": "soon"}"#] {
            let mut read = Parameters::read(HashMap::new(), Some(json)).unwrap();
            assert!(read.timeout().unwrap_err().to_string().contains("microseconds"));
        }
    }

    #[test]
    fn what_no_answer_holds_is_refused() {
        let check = |json: &str, supported: bool| {
            let read = Parameters::read(HashMap::new(), Some(json)).unwrap();
            assert_eq!(read.refuse_unsupported().is_ok(), supported, "{json}");
        };
        check(r#"{"n": 1, "logprobs": null, "tools": [], "sequence_id": 0}"#, true);
        check(r#"{"n": 2}"#, false);
        check(r#"{"logprobs": 0}"#, false);
        check(r#"{"best_of": 2}"#, false);
        check(r#"{"echo": true}"#, false);
        check(r#"{"tools": [{}]}"#, false);
        check(r#"{"sequence_id": 4}"#, false);
    }
}
