//! `baton.v1.Inference`, answering at once.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use baton_proto::v1::{
    CancelRequest, CancelResponse, ChatRequest, ChatResponse, Chunk, Complete, DetokenizeRequest,
    DetokenizeResponse, GenerateRequest, GenerateResponse, ListModelsRequest, ListModelsResponse,
    Model, Sampling, Started, TokenizeRequest, TokenizeResponse, Usage, chat_response,
    generate_response,
    inference_server::{Inference, InferenceServer},
};
use futures::stream::{self, BoxStream, StreamExt};
use tonic::{
    Request, Response, Status,
    transport::server::{Server as Tonic, TcpIncoming},
};

pub(crate) struct Server(TcpIncoming, Mock);

/// Its chunks come so far apart.
struct Mock(Duration);

impl Server {
    pub(crate) async fn bind(apart: Duration) -> anyhow::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let incoming = TcpIncoming::bind(address).map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(Server(incoming.with_nodelay(Some(true)), Mock(apart)))
    }

    pub(crate) fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.0.local_addr()?)
    }

    pub(crate) async fn serve(self) -> anyhow::Result<()> {
        Ok(Tonic::builder()
            .add_service(InferenceServer::new(self.1))
            .serve_with_incoming(self.0)
            .await?)
    }
}

type Said<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Inference for Mock {
    type GenerateStream = Said<GenerateResponse>;
    type ChatStream = Said<ChatResponse>;

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Said<GenerateResponse>>, Status> {
        use generate_response::Event::{Chunk, Complete, Started};
        let tokens = tokens(request.get_ref().sampling.as_ref());
        let chunks = (0..tokens).map(|index| Chunk(chunk(index)));
        let all =
            [Started(started())].into_iter().chain(chunks).chain([Complete(complete(tokens))]);
        Ok(Response::new(self.said(all.map(|event| GenerateResponse { event: Some(event) }))))
    }

    async fn chat(
        &self,
        request: Request<ChatRequest>,
    ) -> Result<Response<Said<ChatResponse>>, Status> {
        use chat_response::Event::{Chunk, Complete, Started};
        let tokens = tokens(request.get_ref().sampling.as_ref());
        let chunks = (0..tokens).map(|index| Chunk(chunk(index)));
        let all =
            [Started(started())].into_iter().chain(chunks).chain([Complete(complete(tokens))]);
        Ok(Response::new(self.said(all.map(|event| ChatResponse { event: Some(event) }))))
    }

    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        Ok(Response::new(CancelResponse { cancelled: false }))
    }

    async fn list_models(
        &self,
        _: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        let model = Model { id: "mock".to_owned(), ..Model::default() };
        Ok(Response::new(ListModelsResponse { models: vec![model] }))
    }

    async fn tokenize(
        &self,
        _: Request<TokenizeRequest>,
    ) -> Result<Response<TokenizeResponse>, Status> {
        Err(Status::unimplemented("it has no tokens"))
    }

    async fn detokenize(
        &self,
        _: Request<DetokenizeRequest>,
    ) -> Result<Response<DetokenizeResponse>, Status> {
        Err(Status::unimplemented("it has no tokens"))
    }
}

impl Mock {
    fn said<T: Send + 'static>(&self, all: impl Iterator<Item = T> + Send + 'static) -> Said<T> {
        let apart = self.0;
        let all = stream::iter(all);
        if apart.is_zero() {
            return all.map(Ok).boxed();
        }
        all.then(move |event| async move {
            tokio::time::sleep(apart).await;
            Ok(event)
        })
        .boxed()
    }
}

fn tokens(sampling: Option<&Sampling>) -> u32 {
    sampling.and_then(|sampling| sampling.max_tokens).unwrap_or(1)
}

fn started() -> Started {
    let (request_id, model) = ("req-0123456789abcdef".to_owned(), "mock".to_owned());
    Started { request_id, model, seed: 1, prompt_tokens: 128 }
}

fn chunk(index: u32) -> Chunk {
    Chunk { index, token_ids: vec![7], text: " word".to_owned(), ..Chunk::default() }
}

fn complete(tokens: u32) -> Complete {
    let usage = Usage { prompt_tokens: 128, completion_tokens: tokens, cached_tokens: 0 };
    Complete { finish_reason: 2, usage: Some(usage), ..Complete::default() }
}
