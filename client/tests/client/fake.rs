//! Routers that do as they are told. Honest ones give the same tokens wherever they are asked, and go on behind what was
//! received.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
};

use baton_proto::v1::{
    CancelRequest, CancelResponse, ChatRequest, ChatResponse, Chunk, Complete, DetokenizeRequest,
    DetokenizeResponse, FinishReason, GenerateRequest, GenerateResponse, ListModelsRequest,
    ListModelsResponse, Model, Resume, Sampling, Started, TokenizeRequest, TokenizeResponse, Usage,
    chat_response,
    generate_response::Event,
    inference_server::{Inference, InferenceServer},
};
use futures::{Stream, StreamExt, future, stream};
use tokio::{net::TcpListener, runtime::Runtime};
use tonic::{
    Request, Response, Status,
    metadata::MetadataMap,
    transport::{Server, ServerTlsConfig, server::TcpIncoming},
};

pub(crate) const SEED: u64 = 77;

/// What a router does with a call.
#[derive(Debug)]
pub(crate) enum Act {
    /// It answers to the end.
    Honest,
    /// It says so many messages, and then breaks off.
    Break(usize, Option<Status>),
    /// It says so many messages, and then nothing.
    Hang(usize),
    Refuse(Status),
    /// It says this.
    Say(Vec<Event>),
}

/// What a router was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) resume: Option<Resume>,
    pub(crate) sampling: Sampling,
    pub(crate) metadata: MetadataMap,
}

#[derive(Debug, Default)]
struct Book {
    acts: VecDeque<Act>,
    asked: Vec<Asked>,
    open: usize,
}

/// A router. Dropping it breaks all its connections.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) url: String,
    address: SocketAddr,
    book: Arc<Mutex<Book>>,
    /// Its own, which all its connections end with.
    runtime: Option<Runtime>,
}

impl Drop for Router {
    fn drop(&mut self) {
        self.die();
    }
}

impl Router {
    pub(crate) async fn start() -> Self {
        Router::at("127.0.0.1:0".parse().unwrap(), None, Arc::default()).await
    }

    pub(crate) async fn with_tls(tls: ServerTlsConfig) -> Self {
        Router::at("127.0.0.1:0".parse().unwrap(), Some(tls), Arc::default()).await
    }

    async fn at(address: SocketAddr, tls: Option<ServerTlsConfig>, book: Arc<Mutex<Book>>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = {
            let _inside = runtime.enter();
            TcpIncoming::from(TcpListener::from_std(listener).unwrap())
        };
        let mut server = Server::builder();
        let scheme = if tls.is_some() { "https" } else { "http" };
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<InferenceServer<Service>>().await;
        let service = InferenceServer::new(Service { book: Arc::clone(&book) });
        let serving =
            server.add_service(health_service).add_service(service).serve_with_incoming(incoming);
        runtime.spawn(serving);
        let url = format!("{scheme}://{address}");
        Router { url, address, book, runtime: Some(runtime) }
    }

    /// It is gone, with all its connections.
    pub(crate) fn die(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// It is there again, where it was.
    pub(crate) async fn come_back(&mut self) {
        let book = Arc::clone(&self.book);
        *self = Router::at(self.address, None, book).await;
    }

    /// What it does with its next calls; it is honest with those after.
    pub(crate) fn acts(&self, acts: impl IntoIterator<Item = Act>) {
        self.book.lock().unwrap().acts.extend(acts);
    }

    /// It is honest from now on.
    pub(crate) fn forget_acts(&self) {
        self.book.lock().unwrap().acts.clear();
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.book.lock().unwrap().asked.clone()
    }

    /// Streams that somebody holds.
    pub(crate) fn open(&self) -> usize {
        self.book.lock().unwrap().open
    }
}

/// The token at `index` of a choice.
pub(crate) fn token(choice: u32, index: u32) -> u32 {
    1000 * choice + 7 * index + 3
}

/// What an honest router says of what isn't received.
pub(crate) fn honest(sampling: &Sampling, resume: Option<&Resume>) -> Vec<Event> {
    let choices = sampling.n.unwrap_or(1);
    let tokens = sampling.max_tokens.unwrap_or(8);
    let seed = sampling.seed.unwrap_or(SEED);
    let started = Started {
        request_id: format!("{:032x}", rand::random::<u128>()),
        seed,
        ..Started::default()
    };
    let mut said = vec![Event::Started(started)];
    let received = |choice: u32| resume.and_then(|resume| resume.received.get(choice as usize));
    for index in 0..tokens {
        for choice in 0..choices {
            let had = received(choice).map_or(0, |had| had.token_ids.len() as u32);
            if index < had {
                assert_eq!(
                    received(choice).unwrap().token_ids[index as usize],
                    token(choice, index)
                );
                continue;
            }
            said.push(Event::Chunk(Chunk {
                index,
                choice,
                token_ids: vec![token(choice, index)],
                text: format!("{} ", token(choice, index)),
                logits_digests: vec![u64::from(index)],
                ..Chunk::default()
            }));
        }
    }
    for choice in (0..choices).filter(|choice| !received(*choice).is_some_and(|had| had.complete)) {
        let usage = Usage { prompt_tokens: 5, completion_tokens: tokens, cached_tokens: 0 };
        said.push(Event::Complete(Complete {
            finish_reason: FinishReason::Length.into(),
            usage: Some(usage),
            choice,
            ..Complete::default()
        }));
    }
    said
}

struct Service {
    book: Arc<Mutex<Book>>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Counts as open while it lives.
struct Open(Arc<Mutex<Book>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().unwrap().open -= 1;
    }
}

impl Service {
    fn act(
        &self,
        metadata: MetadataMap,
        sampling: Sampling,
        resume: Option<Resume>,
    ) -> Result<Answers<Event>, Status> {
        let said = honest(&sampling, resume.as_ref());
        let mut book = self.book.lock().unwrap();
        book.asked.push(Asked { resume, sampling, metadata });
        let act = book.acts.pop_front().unwrap_or(Act::Honest);
        let events = |said: Vec<Event>| stream::iter(said.into_iter().map(Ok));
        let stream: Answers<Event> = match act {
            Act::Honest => Box::pin(events(said)),
            Act::Break(at, status) => {
                let end = status.map(Err);
                Box::pin(events(said).take(at).chain(stream::iter(end)))
            }
            Act::Hang(at) => Box::pin(events(said).take(at).chain(stream::pending())),
            Act::Refuse(status) => return Err(status),
            Act::Say(said) => Box::pin(events(said)),
        };
        book.open += 1;
        let open = Open(Arc::clone(&self.book));
        Ok(Box::pin(stream.inspect(move |_| {
            let _ = &open;
        })))
    }

    /// For calls that aren't streams.
    async fn unary<T>(&self, metadata: MetadataMap, answer: T) -> Result<Response<T>, Status> {
        let act = {
            let mut book = self.book.lock().unwrap();
            let sampling = Sampling::default();
            book.asked.push(Asked { resume: None, sampling, metadata });
            book.acts.pop_front()
        };
        match act {
            Some(Act::Refuse(status)) => Err(status),
            Some(Act::Hang(_)) => future::pending().await,
            _ => Ok(Response::new(answer)),
        }
    }
}

#[tonic::async_trait]
impl Inference for Service {
    type GenerateStream = Answers<GenerateResponse>;
    type ChatStream = Answers<ChatResponse>;

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        let said = self.act(metadata, request.sampling.unwrap_or_default(), request.resume)?;
        let said = said.map(|event| Ok(GenerateResponse { event: Some(event?) }));
        Ok(Response::new(Box::pin(said)))
    }

    async fn chat(
        &self,
        request: Request<ChatRequest>,
    ) -> Result<Response<Self::ChatStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        let said = self.act(metadata, request.sampling.unwrap_or_default(), request.resume)?;
        let said = said.map(|event| {
            let event = Some(match event? {
                Event::Started(started) => chat_response::Event::Started(started),
                Event::Chunk(chunk) => chat_response::Event::Chunk(chunk),
                Event::Complete(complete) => chat_response::Event::Complete(complete),
            });
            Ok(ChatResponse { event })
        });
        Ok(Response::new(Box::pin(said)))
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelResponse>, Status> {
        let cancelled = request.get_ref().request_id == "mine";
        self.unary(request.metadata().clone(), CancelResponse { cancelled }).await
    }

    async fn list_models(
        &self,
        request: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        let models = vec![Model { id: "fake".into(), ..Model::default() }];
        self.unary(request.metadata().clone(), ListModelsResponse { models }).await
    }

    async fn tokenize(
        &self,
        request: Request<TokenizeRequest>,
    ) -> Result<Response<TokenizeResponse>, Status> {
        let answer = TokenizeResponse { token_ids: vec![1, 2], max_context: 9 };
        self.unary(request.metadata().clone(), answer).await
    }

    async fn detokenize(
        &self,
        request: Request<DetokenizeRequest>,
    ) -> Result<Response<DetokenizeResponse>, Status> {
        let text = format!("{:?}", request.get_ref().token_ids);
        self.unary(request.metadata().clone(), DetokenizeResponse { text }).await
    }
}
