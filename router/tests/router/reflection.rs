//! Reflection, as tools resolve what they don't have: services, then symbols, then the files those
//! files import.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::FileDescriptorProto;
use tonic::transport::Channel;

use crate::cluster::Cluster;

const SERVICES: [&str; 6] = [
    "baton.v1.Inference",
    "baton.v1.Operations",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "inference.GRPCInferenceService",
];

/// What tools look up, and what is in the details of every status.
const SYMBOLS: [&str; 8] = [
    "baton.v1.Inference.Generate",
    "baton.v1.Sampling",
    "inference.GRPCInferenceService.ModelStreamInfer",
    "inference.ModelInferRequest.InferInputTensor",
    "grpc.health.v1.HealthCheckResponse.ServingStatus",
    "google.rpc.ErrorInfo",
    "google.rpc.RetryInfo",
    "google.rpc.BadRequest",
];

/// One version of the protocol; they differ in nothing but the package.
macro_rules! version {
    ($name:ident) => {
        mod $name {
            use tonic_reflection::pb::$name::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest,
                server_reflection_response::MessageResponse,
            };

            use super::*;

            async fn ask(channel: &Channel, message: MessageRequest) -> MessageResponse {
                let mut client = ServerReflectionClient::new(channel.clone());
                let request =
                    ServerReflectionRequest { host: String::new(), message_request: Some(message) };
                let said = client.server_reflection_info(tokio_stream::iter([request])).await;
                let said = said.unwrap().into_inner().message().await.unwrap().unwrap();
                said.message_response.unwrap()
            }

            async fn files(channel: &Channel, message: MessageRequest) -> Vec<FileDescriptorProto> {
                let MessageResponse::FileDescriptorResponse(files) =
                    ask(channel, message.clone()).await
                else {
                    panic!("{message:?} has no file");
                };
                let files = files.file_descriptor_proto.iter();
                files.map(|file| FileDescriptorProto::decode(file.as_slice()).unwrap()).collect()
            }

            #[tokio::test]
            async fn everything_is_listed_and_resolved() {
                let channel = connect(&Cluster::start(0, 0).await).await;
                let list = ask(&channel, MessageRequest::ListServices(String::new())).await;
                let MessageResponse::ListServicesResponse(list) = list else { panic!("{list:?}") };
                let names: BTreeSet<String> = list.service.into_iter().map(|s| s.name).collect();
                assert!(names.iter().eq(SERVICES), "{names:?}");

                for symbol in SERVICES.into_iter().chain(SYMBOLS) {
                    let by_symbol = MessageRequest::FileContainingSymbol(symbol.to_owned());
                    let mut todo = files(&channel, by_symbol).await;
                    while let Some(file) = todo.pop() {
                        for import in file.dependency {
                            todo.extend(
                                files(&channel, MessageRequest::FileByFilename(import)).await,
                            );
                        }
                    }
                }
            }
        }
    };
}

version!(v1);
version!(v1alpha);

async fn connect(cluster: &Cluster) -> Channel {
    Channel::from_shared(cluster.url.clone()).unwrap().connect().await.unwrap()
}
