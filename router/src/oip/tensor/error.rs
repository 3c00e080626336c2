//! What can be wrong with a tensor.

use std::str::Utf8Error;

use super::{Input, MAX_IDS};

/// A tensor that can't be taken, by its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::oip) enum TensorError {
    #[error("the input {given} is not known; there are {}", names())]
    Unknown { given: String },
    #[error("the input `{input}` is there twice; send it once")]
    Twice { input: Input },
    #[error("the input `{input}` has the datatype {given}; send {}", input.datatypes().join(" or "))]
    Datatype { input: Input, given: String },
    #[error("the input `{input}` has the shape {given}; send {}", expected(*input))]
    Shape { input: Input, given: String },
    #[error("the input `{input}` lies in shared memory, which is not supported; send its contents")]
    SharedMemory { input: Input },
    #[error(
        "raw_input_contents has {given} entries for {inputs} inputs; send one for each, or none"
    )]
    RawCount { given: usize, inputs: usize },
    #[error(
        "the input `{input}` has contents and an entry of raw_input_contents; send one of them"
    )]
    Both { input: Input },
    #[error("the input `{input}` has {given} elements in its contents; its shape has {expected}")]
    Count { input: Input, given: usize, expected: usize },
    #[error("the input `{input}` has {given} raw bytes; its shape takes {expected}")]
    RawBytes { input: Input, given: usize, expected: usize },
    #[error("the input `{input}` has {given} raw bytes; its element's length alone takes 4")]
    NoLength { input: Input, given: usize },
    #[error("the input `{input}` has an element of {given} raw bytes; its length says {said}")]
    Element { input: Input, given: usize, said: u32 },
    #[error("the input `{input}` is no UTF-8 text: {source}")]
    Text { input: Input, source: Utf8Error },
    #[error("the input `{input}` names token {given}; send ids from 0 to {}", u32::MAX)]
    NoToken { input: Input, given: i64 },
    #[error("the input `{input}` is not the JSON it should be: {problem}")]
    Json { input: Input, problem: String },
}

impl TensorError {
    pub(in crate::oip) fn shape(input: Input, shape: &[i64]) -> Self {
        TensorError::Shape { input, given: quoted_shape(shape) }
    }

    /// The input that is wrong.
    pub(in crate::oip) fn field(&self) -> &'static str {
        match self {
            TensorError::Unknown { .. } => "inputs",
            TensorError::RawCount { .. } => "raw_input_contents",
            TensorError::Twice { input }
            | TensorError::Datatype { input, .. }
            | TensorError::Shape { input, .. }
            | TensorError::SharedMemory { input }
            | TensorError::Both { input }
            | TensorError::Count { input, .. }
            | TensorError::RawBytes { input, .. }
            | TensorError::NoLength { input, .. }
            | TensorError::Element { input, .. }
            | TensorError::Text { input, .. }
            | TensorError::NoToken { input, .. }
            | TensorError::Json { input, .. } => input.name(),
        }
    }
}

fn names() -> String {
    Input::ALL.map(Input::name).join(", ")
}

fn expected(input: Input) -> String {
    match input {
        Input::Ids => format!("[n] or [1, n] with n at most {MAX_IDS}"),
        _ => "[1]".to_owned(),
    }
}

/// What a client wrote, short enough for a status, which travels in headers.
pub(in crate::oip) fn quoted(given: &str) -> String {
    const MOST: usize = 64;
    match given.char_indices().nth(MOST) {
        Some((end, _)) => format!("`{}…`", &given[..end]),
        None => format!("`{given}`"),
    }
}

fn quoted_shape(shape: &[i64]) -> String {
    const MOST: usize = 8;
    match shape.get(..MOST) {
        Some(first) if shape.len() > MOST => format!("{first:?} and {} more", shape.len() - MOST),
        _ => format!("{shape:?}"),
    }
}
