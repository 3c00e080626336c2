//! The plainest relay: each call of `Generate` is a call of a decode node, each of its messages one
//! of the answer's. It knows one node, keeps nothing, checks nothing and survives nothing.

use std::net::SocketAddr;

use baton_node::transport;
use baton_proto::{
    node::v1::{
        DecodeRunRequest, SequenceSpec, decode_client::DecodeClient, decode_run_response::Event,
    },
    v1::{
        self, CancelRequest, CancelResponse, ChatRequest, ChatResponse, Chunk, DetokenizeRequest,
        DetokenizeResponse, GenerateRequest, GenerateResponse, ListModelsRequest,
        ListModelsResponse, TokenizeRequest, TokenizeResponse,
        generate_request::Prompt,
        inference_server::{Inference, InferenceServer},
    },
};
use futures::{StreamExt, stream::BoxStream};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Server},
};

struct Plain {
    node: DecodeClient<Channel>,
}

/// Serves until the process ends.
pub(crate) async fn serve(listen: SocketAddr, source: String) -> anyhow::Result<()> {
    let plain = Plain { node: DecodeClient::new(transport::dial(&source)?) };
    let server = Server::builder().tcp_nodelay(true);
    Ok({ server }.add_service(InferenceServer::new(plain)).serve(listen).await?)
}

type Answers<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Inference for Plain {
    type GenerateStream = Answers<GenerateResponse>;
    type ChatStream = Answers<ChatResponse>;

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let tokens = match request.into_inner().prompt {
            Some(Prompt::Text(text)) => text.bytes().map(u32::from).collect(),
            _ => return Err(Status::invalid_argument("the prompt is no text")),
        };
        let sequence = Some(SequenceSpec { tokens, ..SequenceSpec::default() });
        let request = DecodeRunRequest { sequence, ..DecodeRunRequest::default() };
        let answers = self.node.clone().run(request).await?.into_inner();
        let messages = answers.map(|message| {
            let mut chunk = Chunk::default();
            if let Some(Event::Tokens(tokens)) = message?.event {
                chunk.index = tokens.tokens.first().map_or(0, |token| token.index);
                chunk.token_ids = tokens.tokens.iter().map(|token| token.id).collect();
                chunk.logits_digests = tokens.tokens.iter().map(|t| t.logits_digest).collect();
                chunk.text = tokens.tokens.iter().map(|token| token.id as u8 as char).collect();
            }
            Ok(GenerateResponse { event: Some(v1::generate_response::Event::Chunk(chunk)) })
        });
        Ok(Response::new(messages.boxed()))
    }

    async fn chat(&self, _: Request<ChatRequest>) -> Result<Response<Self::ChatStream>, Status> {
        Err(Status::unimplemented("chat"))
    }

    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        Err(Status::unimplemented("cancel"))
    }

    async fn list_models(
        &self,
        _: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        Err(Status::unimplemented("list_models"))
    }

    async fn tokenize(
        &self,
        _: Request<TokenizeRequest>,
    ) -> Result<Response<TokenizeResponse>, Status> {
        Err(Status::unimplemented("tokenize"))
    }

    async fn detokenize(
        &self,
        _: Request<DetokenizeRequest>,
    ) -> Result<Response<DetokenizeResponse>, Status> {
        Err(Status::unimplemented("detokenize"))
    }
}
