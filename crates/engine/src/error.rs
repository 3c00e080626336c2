use std::{io, path::PathBuf};

use baton_device::{Format, MatrixError};

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error(
        "there is no file or folder {id} here, and {id:?} looks like a model's id on a hub, which \
         Baton doesn't reach; download it (with Hugging Face's tool: \
         `hf download {id} --local-dir FOLDER`) and give the folder, or a GGUF file"
    )]
    HubId { id: String },
    #[error("{} is not a whole GGUF file: {source}", path.display())]
    Gguf { path: PathBuf, source: candle_core::Error },
    #[error("{} is not what a model folder's should be: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{} is not a whole safetensors file: {why}", path.display())]
    Safetensors { path: PathBuf, why: String },
    #[error("{} puts {tensor:?} into {file:?}; expected a file beside it", path.display())]
    OutsideFolder { path: PathBuf, tensor: String, file: String },
    #[error("the model's architecture is {given:?}; this engine runs {supported}")]
    Architecture { given: String, supported: String },
    #[error("the model has no usable {key:?}: {why}")]
    Metadata { key: String, why: String },
    #[error("tensor {name:?} is {given:?}, expected {expected:?}")]
    Shape { name: String, given: Vec<usize>, expected: Vec<usize> },
    #[error("tensor {name:?} is stored as {given}; this engine takes {:?}", Format::ALL)]
    Format { name: String, given: String },
    #[error("tensor {name:?} ends at byte {end} of a file of {len}: some of it is missing")]
    Truncated { name: String, end: u64, len: u64 },
    #[error("tensor {name:?}: {source}")]
    Tensor { name: String, source: io::Error },
    #[error("tensor {name:?}: {source}")]
    Matrix { name: String, source: MatrixError },
    #[error("tensor {name:?} is none that {architecture} has: it computes something else")]
    UnknownTensor { name: String, architecture: &'static str },
    #[error("{key} = {given} is not supported: {why}")]
    Unsupported { key: &'static str, given: String, why: &'static str },
    #[error("the model's tokeniser: {0}")]
    Text(#[from] baton_text::AssetsError),
}

impl LoadError {
    /// A key or a tensor that should be there.
    pub(crate) fn missing(key: impl Into<String>) -> Self {
        LoadError::Metadata { key: key.into(), why: "it is missing".to_owned() }
    }

    pub(crate) fn unsupported(key: &'static str, given: impl ToString, why: &'static str) -> Self {
        LoadError::Unsupported { key, given: given.to_string(), why }
    }
}
