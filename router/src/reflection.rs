//! Reflection: what the API port serves, and every message that can be met there.

use baton_proto::{DESCRIPTORS, STATUS_DESCRIPTORS};
use tonic::service::Routes;
use tonic_reflection::{
    pb::{v1, v1alpha},
    server::{Builder, Error},
};

/// The services on the API's port.
const SERVICES: [&str; 6] = [
    super::serve::INFERENCE,
    super::serve::OPERATIONS,
    super::serve::OPEN_INFERENCE,
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Both versions, which tell the same.
pub(crate) fn add_to(routes: Routes) -> Result<Routes, Error> {
    Ok(routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?))
}

fn builder() -> Builder<'static> {
    let builder = Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(STATUS_DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(v1alpha::FILE_DESCRIPTOR_SET);
    SERVICES.iter().fold(builder, |builder, service| builder.with_service_name(*service))
}
