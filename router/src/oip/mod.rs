//! `inference.GRPCInferenceService`: the Open Inference Protocol that clients of KServe and Triton
//! speak, with Triton's `ModelStreamInfer`.
//!
//! A request becomes the JSON object the HTTP interface would have got, and from there on it is a
//! request like any other: `tensor` and `parameters` read it, `ask` puts it together, `answer`
//! writes what comes of it.

mod answer;
mod ask;
mod error;
mod metadata;
mod parameters;
mod stream;
mod tensor;

use std::sync::Arc;

use baton_node::ops::Operable;
use baton_proto::{
    oip::{
        ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
        ModelReadyRequest, ModelReadyResponse, ModelStreamInferResponse, ServerLiveRequest,
        ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest,
        ServerReadyResponse, grpc_inference_service_server::GrpcInferenceService,
    },
    status::status,
};
use baton_types::ModelId;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use self::{
    answer::{Head, Part},
    ask::Wanted,
    error::InferError,
    stream::Context,
    tensor::quoted,
};
use crate::{error::RequestError, request::Answer, router::Router};

#[derive(Debug)]
pub(crate) struct OpenInferenceService {
    pub(crate) router: Arc<Router>,
}

#[tonic::async_trait]
impl GrpcInferenceService for OpenInferenceService {
    async fn server_live(
        &self,
        _request: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _request: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.router.unready().is_none() }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        let exists = metadata::check_version(&version).is_ok();
        let ready = exists && self.router.cluster.serves(&ModelId::from(name.as_str()));
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _request: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(metadata::server()))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        metadata::check_version(&version).map_err(|error| status(&error))?;
        if self.router.cluster.served(&ModelId::from(name.as_str())).is_none() {
            let error = RequestError::UnknownModel { model: quoted(&name) };
            return Err(status(&InferError::from(error)));
        }
        Ok(Response::new(metadata::model(name)))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let context = Context::of(&request)?;
        let answered = answer(&self.router, &context, request.into_inner()).await;
        answered.map(Response::new).map_err(|error| status(&error))
    }

    type ModelStreamInferStream = BoxStream<'static, Result<ModelStreamInferResponse, Status>>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let context = Context::of(&request)?;
        let answers = stream::answers(Arc::clone(&self.router), context, request.into_inner());
        Ok(Response::new(answers))
    }
}

/// A request of its own, answered once.
async fn answer(
    router: &Arc<Router>,
    context: &Context,
    request: ModelInferRequest,
) -> Result<ModelInferResponse, InferError> {
    let id = request.id.clone();
    let wanted = ask::read(request, context.caller.clone())?;
    if wanted.stream == Some(true) {
        return Err(InferError::StreamOfOne);
    }
    let (mut running, head, prefix) = submit(router, context, wanted, id).await?;
    let whole = Part::whole(&mut running, prefix.unwrap_or_default()).await?;
    Ok(head.response(whole))
}

/// Starts what is wanted; also returns how its answers begin, and what their text begins with.
async fn submit(
    router: &Arc<Router>,
    context: &Context,
    wanted: Wanted,
    id: String,
) -> Result<(Answer, Head, Option<String>), InferError> {
    let Wanted { mut ask, prompt, outputs, prefix, .. } = wanted;
    ask.deadline = context.deadline(ask.deadline);
    let answer = router.submit(ask).await;
    let answer = answer.map_err(|error| InferError::Request { prompt: Some(prompt), error })?;
    let (model, request, seed) = (answer.model.to_string(), answer.id, answer.seed);
    Ok((answer, Head { model, id, request, seed, outputs }, prefix))
}
