//! Tensors as they travel: typed contents or raw bytes in, raw bytes out. Raw bytes are little
//! endian, row by row; each element of BYTES stands behind its length in 4 bytes, BOOL is one byte.

mod error;

use std::fmt;

use baton_proto::oip::{InferTensorContents, model_infer_request::InferInputTensor};
use baton_types::TokenId;
use prost::bytes::{BufMut, Bytes, BytesMut};

pub(super) use self::error::{TensorError, quoted};

/// The most token ids of a prompt.
pub(super) const MAX_IDS: usize = 1 << 20;

/// The tensors a request may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Text,
    Ids,
    Messages,
    Stream,
    SamplingParameters,
    ExcludeInputInOutput,
}

impl Input {
    pub(super) const ALL: [Input; 6] = [
        Input::Text,
        Input::Ids,
        Input::Messages,
        Input::Stream,
        Input::SamplingParameters,
        Input::ExcludeInputInOutput,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Input::Text => "text_input",
            Input::Ids => "input_ids",
            Input::Messages => "messages",
            Input::Stream => "stream",
            Input::SamplingParameters => "sampling_parameters",
            Input::ExcludeInputInOutput => "exclude_input_in_output",
        }
    }

    /// The first one is what metadata tells.
    pub(super) fn datatypes(self) -> &'static [&'static str] {
        match self {
            Input::Text | Input::Messages | Input::SamplingParameters => &["BYTES"],
            Input::Ids => &["INT32", "INT64"],
            Input::Stream | Input::ExcludeInputInOutput => &["BOOL"],
        }
    }

    /// −1 is any length.
    pub(super) fn shape(self) -> i64 {
        if self == Input::Ids { -1 } else { 1 }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One input whose datatype and shape are right, and whose elements are still to be read.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) input: Input,
    shape: Vec<i64>,
    elements: usize,
    wide: bool,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Raw(Bytes),
    Typed(InferTensorContents),
}

/// The inputs of a request, each known and there once.
pub(super) fn tensors(
    inputs: Vec<InferInputTensor>,
    raw: Vec<Bytes>,
) -> Result<Vec<Tensor>, TensorError> {
    if !raw.is_empty() && raw.len() != inputs.len() {
        return Err(TensorError::RawCount { given: raw.len(), inputs: inputs.len() });
    }
    let mut raw = raw.into_iter();
    let mut tensors: Vec<Tensor> = Vec::new();
    for input in inputs {
        let tensor = Tensor::new(input, raw.next())?;
        if tensors.iter().any(|other| other.input == tensor.input) {
            return Err(TensorError::Twice { input: tensor.input });
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

impl Tensor {
    fn new(tensor: InferInputTensor, raw: Option<Bytes>) -> Result<Self, TensorError> {
        let InferInputTensor { name, datatype, shape, parameters, contents } = tensor;
        let input = Input::ALL.into_iter().find(|input| input.name() == name);
        let input = input.ok_or_else(|| TensorError::Unknown { given: quoted(&name) })?;
        if parameters.contains_key("shared_memory_region") {
            return Err(TensorError::SharedMemory { input });
        }
        if !input.datatypes().contains(&datatype.as_str()) {
            return Err(TensorError::Datatype { input, given: quoted(&datatype) });
        }
        let elements = elements(input, &shape)?;
        let data = match (raw, contents) {
            (Some(_), Some(contents)) if contents != InferTensorContents::default() => {
                return Err(TensorError::Both { input });
            }
            (Some(raw), _) => Data::Raw(raw),
            (None, contents) => Data::Typed(contents.unwrap_or_default()),
        };
        Ok(Tensor { input, shape, elements, wide: datatype == "INT64", data })
    }

    /// The only element of a BYTES tensor, which is text.
    pub(super) fn text(self) -> Result<String, TensorError> {
        let input = self.input;
        let element = match self.data {
            Data::Typed(contents) => one(input, contents.bytes_contents)?,
            Data::Raw(mut raw) => {
                let given = raw.len();
                let Some(length) = raw.first_chunk() else {
                    return Err(TensorError::NoLength { input, given });
                };
                let said = u32::from_le_bytes(*length);
                let element = raw.split_off(size_of::<u32>());
                if element.len() != said as usize {
                    return Err(TensorError::Element { input, given: element.len(), said });
                }
                element
            }
        };
        String::from_utf8(element.into())
            .map_err(|error| TensorError::Text { input, source: error.utf8_error() })
    }

    /// The only element of a BOOL tensor.
    pub(super) fn flag(self) -> Result<bool, TensorError> {
        let input = self.input;
        match self.data {
            Data::Typed(contents) => one(input, contents.bool_contents),
            Data::Raw(raw) => match *raw {
                [flag] => Ok(flag != 0),
                _ => Err(TensorError::RawBytes { input, given: raw.len(), expected: 1 }),
            },
        }
    }

    /// The elements of an INT32 or INT64 tensor, which are token ids.
    pub(super) fn ids(self) -> Result<Vec<TokenId>, TensorError> {
        let (input, elements) = (self.input, self.elements);
        if elements > MAX_IDS {
            return Err(TensorError::shape(input, &self.shape));
        }
        let id = |id: i64| {
            let token = u32::try_from(id).map(TokenId);
            token.map_err(|_| TensorError::NoToken { input, given: id })
        };
        match (self.data, self.wide) {
            (Data::Typed(contents), false) => {
                counted(input, contents.int_contents.len(), elements)?;
                contents.int_contents.into_iter().map(|value| id(value.into())).collect()
            }
            (Data::Typed(contents), true) => {
                counted(input, contents.int64_contents.len(), elements)?;
                contents.int64_contents.into_iter().map(id).collect()
            }
            (Data::Raw(raw), false) => {
                let values = chunks::<4>(input, &raw, elements)?;
                values.iter().map(|value| id(i32::from_le_bytes(*value).into())).collect()
            }
            (Data::Raw(raw), true) => {
                let values = chunks::<8>(input, &raw, elements)?;
                values.iter().map(|value| id(i64::from_le_bytes(*value))).collect()
            }
        }
    }
}

/// How many elements a shape has: `[1]`, or `[n]` for token ids, where a batch of one may stand
/// before it.
fn elements(input: Input, shape: &[i64]) -> Result<usize, TensorError> {
    let last = match shape {
        [last] | [1, last] => usize::try_from(*last).ok(),
        _ => None,
    };
    let fits = |&elements: &usize| input == Input::Ids || elements == 1;
    last.filter(fits).ok_or_else(|| TensorError::shape(input, shape))
}

fn counted(input: Input, given: usize, expected: usize) -> Result<(), TensorError> {
    if given == expected { Ok(()) } else { Err(TensorError::Count { input, given, expected }) }
}

fn one<T>(input: Input, elements: Vec<T>) -> Result<T, TensorError> {
    let given = elements.len();
    let mut elements = elements.into_iter();
    match (elements.next(), given) {
        (Some(element), 1) => Ok(element),
        _ => Err(TensorError::Count { input, given, expected: 1 }),
    }
}

fn chunks<const N: usize>(
    input: Input,
    raw: &[u8],
    elements: usize,
) -> Result<&[[u8; N]], TensorError> {
    let (given, expected) = (raw.len(), elements * N);
    match raw.as_chunks() {
        (values, []) if given == expected => Ok(values),
        _ => Err(TensorError::RawBytes { input, given, expected }),
    }
}

/// One element of BYTES.
pub(super) fn raw_text(text: &str) -> Bytes {
    let mut raw = BytesMut::with_capacity(size_of::<u32>() + text.len());
    // An answer's text is bounded by its tokens, far below 4 GiB.
    raw.put_u32_le(text.len() as u32);
    raw.put_slice(text.as_bytes());
    raw.freeze()
}

/// INT32, which holds every token id there is.
pub(super) fn raw_ids(ids: impl ExactSizeIterator<Item = TokenId>) -> Bytes {
    let mut raw = BytesMut::with_capacity(size_of::<i32>() * ids.len());
    ids.for_each(|id| raw.put_u32_le(id.0));
    raw.freeze()
}

#[cfg(test)]
mod tests;
