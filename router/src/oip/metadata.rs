//! What the server and its models say of themselves.

use baton_proto::oip::{
    ModelMetadataResponse, ServerMetadataResponse, model_metadata_response::TensorMetadata,
};

use super::{
    answer::Output,
    error::InferError,
    tensor::{Input, quoted},
};

/// Models here have no versions; the protocol wants one.
pub(super) const VERSION: &str = "1";

pub(super) fn server() -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: "baton".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: vec!["parameters".to_owned()],
    }
}

/// The same for every model, but for its name.
pub(super) fn model(name: String) -> ModelMetadataResponse {
    let tensor = |name: &str, datatype: &str, length: i64| TensorMetadata {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: vec![length],
    };
    let input = |input: Input| tensor(input.name(), input.datatypes()[0], input.shape());
    let output = |output: Output| tensor(output.name(), output.datatype(), output.shape());
    ModelMetadataResponse {
        name,
        versions: vec![VERSION.to_owned()],
        platform: "baton".to_owned(),
        inputs: Input::ALL.map(input).into(),
        outputs: Output::ALL.map(output).into(),
    }
}

/// No version is any.
pub(super) fn check_version(version: &str) -> Result<(), InferError> {
    if version.is_empty() || version == VERSION {
        return Ok(());
    }
    Err(InferError::Version { given: quoted(version) })
}
