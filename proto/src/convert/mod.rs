//! Wire ↔ domain. Whatever comes from the network is checked here, once: presence, sizes, known
//! values. Whether the numbers make sense together is the receiver's to say.

mod chat;
mod inference;
mod node_state;
mod operations;
mod sequence;
mod text;

use std::time::Duration;

use baton_types::{BlockHash, Capability, LayoutError, NumericsId};
use tonic::Code;

pub use self::{
    chat::chat,
    inference::{logprobs, sampling, token_ids},
    node_state::{Heartbeat, from_heartbeat, heartbeat},
    operations::node_report,
    sequence::{Sampled, Source},
};
use crate::status::Refuse;

/// The most tokens a sequence may bring, or a vocabulary have.
const MAX_TOKENS: usize = 1 << 20;
/// The most stop tokens.
const MAX_STOP_TOKENS: usize = 256;
/// The longest name of a node or a model, and the longest address.
const MAX_NAME_BYTES: usize = 512;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    #[error("{field} can't be used: {why}")]
    Unusable { field: &'static str, why: String },
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{field} has {given} bytes, expected {expected}")]
    Length { field: &'static str, given: usize, expected: usize },
    #[error("{field} has {given} entries; at most {max} are allowed")]
    TooMany { field: &'static str, given: usize, max: usize },
    #[error("{field} has {given} bytes; at most {max} are allowed")]
    TooLong { field: &'static str, given: usize, max: usize },
    #[error("{field} is {given}, which is not known here")]
    Unknown { field: &'static str, given: i32 },
    #[error("{field} is {given}; at most {max} is allowed")]
    TooLarge { field: &'static str, given: u64, max: u64 },
    #[error("{field} is {given}; it must be a finite number, not below 0")]
    NotAQuantity { field: &'static str, given: String },
    #[error("layout: {0}")]
    Layout(#[from] LayoutError),
}

impl ConvertError {
    /// The field that is wrong, by its name on the wire.
    pub fn field(&self) -> &'static str {
        match self {
            ConvertError::Missing { field }
            | ConvertError::Unusable { field, .. }
            | ConvertError::Length { field, .. }
            | ConvertError::TooMany { field, .. }
            | ConvertError::TooLong { field, .. }
            | ConvertError::Unknown { field, .. }
            | ConvertError::TooLarge { field, .. }
            | ConvertError::NotAQuantity { field, .. } => field,
            ConvertError::Layout(_) => "layout",
        }
    }
}

/// A request that can't be understood is the sender's mistake.
impl Refuse for ConvertError {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }

    fn reason(&self) -> &'static str {
        "INVALID_REQUEST"
    }

    fn field(&self) -> Option<&'static str> {
        Some(ConvertError::field(self))
    }
}

fn present<T>(field: &'static str, value: Option<T>) -> Result<T, ConvertError> {
    value.ok_or(ConvertError::Missing { field })
}

fn bits(field: &'static str, bytes: &[u8]) -> Result<u128, ConvertError> {
    let array = bytes.try_into().map_err(|_| ConvertError::Length {
        field,
        given: bytes.len(),
        expected: 16,
    })?;
    Ok(u128::from_be_bytes(array))
}

fn at_most(field: &'static str, given: usize, max: usize) -> Result<(), ConvertError> {
    if given > max { Err(ConvertError::TooMany { field, given, max }) } else { Ok(()) }
}

/// 16 bytes, big endian.
pub fn numerics_id(bytes: &[u8]) -> Result<NumericsId, ConvertError> {
    bits("numerics_id", bytes).map(NumericsId)
}

/// 16 bytes, big endian.
pub fn capability(bytes: &[u8]) -> Result<Capability, ConvertError> {
    bits("capability", bytes).map(Capability)
}

/// 16 bytes, big endian.
pub fn block_hash(bytes: &[u8]) -> Result<BlockHash, ConvertError> {
    bits("block_hash", bytes).map(BlockHash)
}

/// 128 bits as the wire has them: big endian.
pub fn to_bytes(bits: u128) -> Vec<u8> {
    bits.to_be_bytes().to_vec()
}

fn short(field: &'static str, value: String) -> Result<String, ConvertError> {
    let (given, max) = (value.len(), MAX_NAME_BYTES);
    if given > max { Err(ConvertError::TooLong { field, given, max }) } else { Ok(value) }
}

/// A duration as the wire has it: whole microseconds.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
