//! Baton's wire types, generated from `proto/`, and their conversion to and from the domain.

pub mod convert;
pub mod status;

pub use convert::ConvertError;

/// What clients speak.
#[allow(missing_debug_implementations, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("baton.v1");
}

/// What routers and nodes speak.
pub mod node {
    #[allow(missing_debug_implementations, unreachable_pub, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("baton.node.v1");
    }
}

/// The encoded `FileDescriptorSet` of everything above, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Version of the protocol between routers and nodes. Versions N and N−1 talk to each other.
pub const PROTOCOL_VERSION: u32 = 1;
