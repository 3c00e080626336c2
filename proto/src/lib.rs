//! Baton's wire types, generated from `proto/`, and their conversion to and from the domain.

#[cfg(feature = "domain")]
pub mod convert;
pub mod status;

#[cfg(feature = "domain")]
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

/// What clients of KServe and Triton speak: the Open Inference Protocol.
#[allow(missing_debug_implementations, unreachable_pub, clippy::all)]
pub mod oip {
    tonic::include_proto!("inference");
}

/// The encoded `FileDescriptorSet` of everything above, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// That of `google.rpc`: the details in every status, which clients can't read without it.
pub const STATUS_DESCRIPTORS: &[u8] = tonic_types::pb::FILE_DESCRIPTOR_SET;

/// Version of the protocol between routers and nodes. Versions N and N−1 talk to each other.
pub const PROTOCOL_VERSION: u32 = 1;
