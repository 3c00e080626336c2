use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use baton_proto::v1::{
    CancelRequest, Conversation, DetokenizeRequest, ListModelsRequest, TokenizeRequest,
    inference_client::InferenceClient, tokenize_request,
};
use tonic::{
    Request as Call, Response, Status,
    metadata::{AsciiMetadataValue, MetadataMap},
    transport::Channel,
};

use crate::{
    Answer, ClientBuilder, Error, Hedge, Model, Prompt, Request, Retry, Stream,
    endpoints::{Endpoint, Endpoints},
    retry::{Budget, pause},
};

/// The largest message taken: a long prompt's log-probabilities.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A client of one cluster, through any of its routers. Cloning it is cheap and shares the connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    endpoints: Endpoints,
    retry: Retry,
    hedge: Option<Hedge>,
    budget: Mutex<Budget>,
    /// What each call carries.
    metadata: MetadataMap,
}

impl Client {
    /// How long a router may leave a ping without an answer, unless it is said otherwise; and after how long without a
    /// word it is pinged.
    pub const KEEP_ALIVE: Duration = Duration::from_secs(2);

    /// A client of these routers, each like `http://host:8000`. It connects when it is first used.
    ///
    /// # Errors
    ///
    /// An endpoint that is none.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, Error> {
        ClientBuilder::new(endpoints).build()
    }

    /// With more to be said than the routers' addresses.
    pub fn builder(endpoints: impl IntoIterator<Item = impl Into<String>>) -> ClientBuilder {
        ClientBuilder::new(endpoints)
    }

    pub(crate) fn from_builder(builder: ClientBuilder) -> Result<Self, Error> {
        let endpoints = Endpoints::new(&builder)?;
        let mut metadata = MetadataMap::new();
        if let Some(token) = &builder.token {
            let mut value = header("the token", &format!("Bearer {token}"))
                .map_err(|_| Error::Header { what: "the token", given: "…".to_owned() })?;
            value.set_sensitive(true);
            metadata.insert("authorization", value);
        }
        if let Some(tenant) = &builder.tenant {
            metadata.insert("x-tenant-id", header("the tenant", tenant)?);
        }
        let (hedge, retry) = (builder.hedge, builder.retry);
        let budget = Mutex::new(Budget::new(&retry));
        Ok(Client { inner: Arc::new(Inner { endpoints, retry, hedge, budget, metadata }) })
    }

    /// Asks, and tells the answer as it comes. Returns once a router has taken the request. Dropping the stream
    /// cancels it.
    ///
    /// # Errors
    ///
    /// What the router refused, or that there was none to be had.
    pub async fn stream(&self, request: Request) -> Result<Stream, Error> {
        Stream::begin(self.clone(), request).await
    }

    /// Asks, and waits for the whole answer. It goes on elsewhere as a stream does.
    ///
    /// # Errors
    ///
    /// What the router refused, or that there was none to be had.
    pub async fn answer(&self, request: Request) -> Result<Answer, Error> {
        self.stream(request).await?.answer().await
    }

    /// Ends a running request by the id that its `Started` told. False when no router that was asked runs it.
    ///
    /// # Errors
    ///
    /// No router could be asked.
    pub async fn cancel(&self, request_id: &str) -> Result<bool, Error> {
        let mut last = None;
        // Only its own router knows it.
        for _ in 0..self.inner.endpoints.len() {
            let endpoint = self.inner.endpoints.pick();
            let request = CancelRequest { request_id: request_id.to_owned() };
            match self.inference(&endpoint).cancel(self.call(request)).await {
                Ok(said) if said.get_ref().cancelled => return Ok(true),
                Ok(_) => last = None,
                Err(status) => last = Some(Error::refused(&status, request_id)),
            }
        }
        last.map_or(Ok(false), Err)
    }

    /// What is served.
    ///
    /// # Errors
    ///
    /// No router could be asked.
    pub async fn models(&self) -> Result<Vec<Model>, Error> {
        let ask = async |mut client: InferenceClient<Channel>| {
            client.list_models(self.call(ListModelsRequest {})).await
        };
        Ok(self.unary(ask).await?.models)
    }

    /// A prompt's tokens, as the model would be asked.
    ///
    /// # Errors
    ///
    /// A model that isn't served, or no router that could be asked.
    pub async fn tokenize(&self, model: &str, prompt: Prompt) -> Result<Vec<u32>, Error> {
        let prompt = match prompt {
            Prompt::Tokens(tokens) => return Ok(tokens),
            Prompt::Text(text) => tokenize_request::Prompt::Text(text),
            Prompt::Chat(messages) => {
                let conversation = Conversation { messages, ..Conversation::default() };
                tokenize_request::Prompt::Conversation(conversation)
            }
        };
        let request = TokenizeRequest { model: model.to_owned(), prompt: Some(prompt) };
        let ask = async |mut client: InferenceClient<Channel>| {
            client.tokenize(self.call(request.clone())).await
        };
        Ok(self.unary(ask).await?.token_ids)
    }

    /// The text of tokens, control tokens too.
    ///
    /// # Errors
    ///
    /// A model that isn't served, tokens it doesn't have, or no router that could be asked.
    pub async fn detokenize(&self, model: &str, tokens: &[u32]) -> Result<String, Error> {
        let request = DetokenizeRequest { model: model.to_owned(), token_ids: tokens.to_vec() };
        let ask = async |mut client: InferenceClient<Channel>| {
            client.detokenize(self.call(request.clone())).await
        };
        Ok(self.unary(ask).await?.text)
    }
}

impl Client {
    pub(crate) fn endpoint(&self) -> Arc<Endpoint> {
        self.inner.endpoints.pick()
    }

    pub(crate) fn inference(&self, endpoint: &Endpoint) -> InferenceClient<Channel> {
        InferenceClient::new(endpoint.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// A message with what each call carries.
    pub(crate) fn call<T>(&self, message: T) -> Call<T> {
        let mut call = Call::new(message);
        *call.metadata_mut() = self.inner.metadata.clone();
        #[cfg(feature = "opentelemetry")]
        crate::trace::inject(call.metadata_mut());
        call
    }

    /// One more call is begun.
    pub(crate) fn earn(&self) {
        self.inner.budget.lock().unwrap_or_else(PoisonError::into_inner).earn();
    }

    /// How long to wait before it is tried again after `failures` in a row, if it may be. The first retry is every
    /// call's right: all of a router's streams break at once.
    pub(crate) fn retry(&self, error: &Error, failures: u32) -> Option<Duration> {
        let Inner { retry, budget, .. } = &*self.inner;
        let is_free = failures == 1 && !error.is_overload();
        let may = error.is_transient()
            && failures <= retry.attempts
            && (is_free || budget.lock().unwrap_or_else(PoisonError::into_inner).spend());
        may.then(|| pause(retry, failures, error.retry_after(), rand::random()))
    }

    /// Asks until it is answered, or trying again is of no use.
    async fn unary<T>(
        &self,
        ask: impl AsyncFn(InferenceClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        self.earn();
        let mut failures = 0;
        loop {
            let error = match self.hedged(&ask).await {
                Ok(said) => return Ok(said),
                Err(error) => error,
            };
            failures += 1;
            let Some(pause) = self.retry(&error, failures) else { return Err(error) };
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks one, and after a while another, whoever answers first.
    async fn hedged<T>(
        &self,
        ask: &impl AsyncFn(InferenceClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        let Some(Hedge { after }) = self.inner.hedge else { return self.once(ask).await };
        let first = self.once(ask);
        let second = async {
            tokio::time::sleep(after).await;
            self.once(ask).await
        };
        tokio::pin!(first, second);
        let (said, other_is_second) = tokio::select! {
            said = &mut first => (said, true),
            said = &mut second => (said, false),
        };
        match said {
            // The other one may still know.
            Err(error) if error.is_transient() => match other_is_second {
                true => second.await,
                false => first.await,
            },
            said => said,
        }
    }

    async fn once<T>(
        &self,
        ask: &impl AsyncFn(InferenceClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        let endpoint = self.endpoint();
        match ask(self.inference(&endpoint)).await {
            Ok(said) => {
                endpoint.succeeded();
                Ok(said.into_inner())
            }
            Err(status) => {
                let error = Error::refused(&status, "");
                if error.is_transient() {
                    endpoint.failed();
                }
                Err(error)
            }
        }
    }
}

pub(crate) fn header(what: &'static str, text: &str) -> Result<AsciiMetadataValue, Error> {
    text.parse().map_err(|_| Error::Header { what, given: text.to_owned() })
}
