//! The gRPC client behind `chat`, `status`, `explain`, `profile` and the first answer of `up`.

use std::time::Duration;

use baton_proto::v1::{
    Advice, AdviseRequest, ChatRequest, Complete, Decision, DrainRequest, ExplainRequest,
    GenerateRequest, ListModelsRequest, Message, MigrateRequest, Migration, Model, Phase, Sampling,
    SetRoleRequest, SetRoleResponse, Timings, Usage, WatchNodesRequest, WatchNodesResponse,
    chat_response::Event, generate_response, inference_client::InferenceClient,
    operations_client::OperationsClient,
};
use baton_types::Role;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("{url:?} is not an address; expected something like http://127.0.0.1:8000")]
    Address { url: String },
    #[error("nothing answers at {url}; start a cluster with `baton up`, or name one with --url")]
    Unreachable { url: String },
    #[error("the cluster at {url} serves no model yet")]
    NoModel { url: String },
    #[error("the cluster refused: {message} ({code:?})")]
    Refused { message: String, code: Code },
    #[error("the answer ended before it was complete")]
    Incomplete,
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        ClientError::Refused { message: status.message().to_owned(), code: status.code() }
    }
}

/// A connection to a cluster's public port.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    url: String,
    inference: InferenceClient<Channel>,
    operations: OperationsClient<Channel>,
}

/// One answer on its way. Dropping it cancels the request.
#[derive(Debug)]
pub(crate) struct Answer {
    stream: Streaming<baton_proto::v1::ChatResponse>,
}

/// What an answer says next.
#[derive(Debug)]
pub(crate) enum Said {
    Text(String),
    Complete(Complete),
}

impl Client {
    pub(crate) async fn connect(url: &str) -> Result<Self, ClientError> {
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|_| ClientError::Address { url: url.to_owned() })?;
        let channel = endpoint
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(|_| ClientError::Unreachable { url: url.to_owned() })?;
        Ok(Client {
            url: url.to_owned(),
            inference: InferenceClient::new(channel.clone()),
            operations: OperationsClient::new(channel),
        })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) async fn models(&mut self) -> Result<Vec<Model>, ClientError> {
        Ok(self.inference.list_models(ListModelsRequest {}).await?.into_inner().models)
    }

    /// What nodes are recommended; nothing by a router that doesn't tell.
    pub(crate) async fn advice(&mut self) -> Result<Vec<Advice>, ClientError> {
        match self.operations.advise(AdviseRequest {}).await {
            Ok(response) => Ok(response.into_inner().models),
            Err(status) if status.code() == Code::Unimplemented => Ok(Vec::new()),
            Err(status) => Err(status.into()),
        }
    }

    /// Moves a request's sequences to another decode node, or to the best.
    pub(crate) async fn migrate(
        &mut self,
        request: &str,
        node: Option<&str>,
    ) -> Result<Vec<Migration>, ClientError> {
        let node = node.unwrap_or_default().to_owned();
        let request = MigrateRequest { request_id: request.to_owned(), node };
        Ok(self.operations.migrate(request).await?.into_inner().migrations)
    }

    /// Requests that are left on a node after it was to be emptied; with `cancel` it takes new ones again.
    pub(crate) async fn drain(
        &mut self,
        node: &str,
        wait: Duration,
        cancel: bool,
    ) -> Result<u64, ClientError> {
        let wait_us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        let request = DrainRequest { node: node.to_owned(), wait_us, cancel };
        Ok(self.operations.drain(request).await?.into_inner().left)
    }

    /// Has a node take a role; whether it has, and the requests that it must be rid of before.
    pub(crate) async fn set_role(
        &mut self,
        node: &str,
        role: Role,
        wait: Duration,
    ) -> Result<(bool, u64), ClientError> {
        let wait_us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        let role = Phase::from(role).into();
        let request = SetRoleRequest { node: node.to_owned(), role, wait_us };
        let SetRoleResponse { done, left } = self.operations.set_role(request).await?.into_inner();
        Ok((done, left))
    }

    /// How a request was placed.
    pub(crate) async fn explain(&mut self, request: &str) -> Result<Vec<Decision>, ClientError> {
        let request = ExplainRequest { request_id: request.to_owned() };
        Ok(self.operations.explain(request).await?.into_inner().decisions)
    }

    /// What a model's nodes say from now on.
    pub(crate) async fn watch_nodes(
        &mut self,
        model: &str,
    ) -> Result<Streaming<WatchNodesResponse>, ClientError> {
        let request = WatchNodesRequest { model: model.to_owned() };
        Ok(self.operations.watch_nodes(request).await?.into_inner())
    }

    /// Generates to the end, and says what it took.
    pub(crate) async fn generate(
        &self,
        request: GenerateRequest,
    ) -> Result<(Usage, Timings), ClientError> {
        let mut answer = self.inference.clone().generate(request).await?.into_inner();
        loop {
            let response = answer.message().await?.ok_or(ClientError::Incomplete)?;
            if let Some(generate_response::Event::Complete(complete)) = response.event {
                let Complete { usage, timings, .. } = complete;
                return Ok((usage.unwrap_or_default(), timings.unwrap_or_default()));
            }
        }
    }

    /// The model called `wanted`, or the first one.
    pub(crate) async fn model(&mut self, wanted: Option<String>) -> Result<String, ClientError> {
        if let Some(name) = wanted {
            return Ok(name);
        }
        let first = self.models().await?.into_iter().next();
        first.map(|model| model.id).ok_or_else(|| ClientError::NoModel { url: self.url.clone() })
    }

    pub(crate) async fn chat(
        &mut self,
        model: &str,
        messages: Vec<Message>,
        sampling: Sampling,
    ) -> Result<Answer, ClientError> {
        let request = ChatRequest {
            model: model.to_owned(),
            messages,
            sampling: Some(sampling),
            ..ChatRequest::default()
        };
        Ok(Answer { stream: self.inference.chat(request).await?.into_inner() })
    }
}

impl Answer {
    /// The next thing said. `Complete` is the last; an end without it is an error.
    pub(crate) async fn next(&mut self) -> Result<Said, ClientError> {
        loop {
            match self.stream.message().await?.ok_or(ClientError::Incomplete)?.event {
                Some(Event::Chunk(chunk)) => return Ok(Said::Text(chunk.text)),
                Some(Event::Complete(complete)) => return Ok(Said::Complete(complete)),
                Some(Event::Started(_)) | None => {}
            }
        }
    }
}

pub(crate) fn message(role: &str, content: &str) -> Message {
    Message { role: role.to_owned(), content: content.to_owned(), ..Message::default() }
}
