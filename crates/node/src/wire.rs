//! Requests parsed at the edge, and the small change of answers.

use std::time::Duration;

use baton_proto::{convert, node::v1 as proto};
use baton_types::{Capability, FinishReason, SequenceSpec};
use tonic::metadata::MetadataMap;

use crate::error::RunError;

/// The sequence a request is about.
pub fn sequence_spec(sequence: Option<proto::SequenceSpec>) -> Result<SequenceSpec, RunError> {
    let sequence = sequence.ok_or_else(|| RunError::invalid("sequence", "it is missing"))?;
    let spec =
        SequenceSpec::try_from(sequence).map_err(|error| RunError::invalid("sequence", error))?;
    spec.sampling.validate().map_err(|error| RunError::invalid("sequence.sampling", error))?;
    let tokens = spec.tokens.len();
    if spec.prompt_len == 0 || spec.prompt_len as usize > tokens {
        let why = format!("{} does not lie between 1 and the {tokens} tokens", spec.prompt_len);
        return Err(RunError::invalid("sequence.prompt_len", why));
    }
    Ok(spec)
}

/// The 128 bits of a capability.
pub fn capability(field: &'static str, bytes: &[u8]) -> Result<Capability, RunError> {
    convert::capability(bytes).map_err(|error| RunError::invalid(field, error))
}

/// A duration as the wire has it.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A finish reason as the wire has it.
pub fn finish_reason(reason: FinishReason) -> i32 {
    proto::FinishReason::from(reason).into()
}

/// The trace a call belongs to, for logs (W3C Trace Context).
pub fn trace(metadata: &MetadataMap) -> Option<String> {
    let id = metadata.get("traceparent")?.to_str().ok()?.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
}
