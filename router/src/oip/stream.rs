//! `ModelStreamInfer`: many requests on one stream, each answered piece by piece.
//!
//! # Who is slowed down by whom?
//!
//! Nobody is read ahead of: a client that doesn't take its answers isn't asked for more requests,
//! and one that has [`MOST`] requests running waits with the next. Requests of one stream don't
//! wait for each other. A request that fails says so and costs the others nothing; the stream
//! itself ends when the client goes, which cancels all that runs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use baton_proto::{
    oip::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse},
    status::status,
};
use baton_types::RequestId;
use futures::{
    FutureExt, Stream, StreamExt,
    stream::{self, BoxStream},
};
use rand::Rng;
use tonic::{Request, Status, Streaming};

use super::{
    answer::{self, Head, Part},
    ask,
    error::InferError,
    submit,
};
use crate::{
    error::RequestError,
    grpc,
    request::{Answer, Caller},
    router::Router,
};

/// The most requests of one stream that run at the same time.
const MOST: usize = 256;

/// What a call brings beside its message.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) caller: Caller,
    /// When the call's own deadline passes.
    until: Option<Instant>,
}

impl Context {
    pub(super) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| {
            status(&InferError::from(RequestError::Internal("no request id".to_owned())))
        })?;
        let until = grpc::deadline(request.metadata()).and_then(|d| Instant::now().checked_add(d));
        Ok(Context { caller, until })
    }

    /// What is left of the call's time, or `own` if that is less.
    pub(super) fn deadline(&self, own: Option<Duration>) -> Option<Duration> {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        own.into_iter().chain(left).min()
    }

    /// The same call for one of its requests, by the client's name for it.
    fn for_request(&self, id: &str) -> Self {
        let tag = Caller::name(id).or_else(|| self.caller.tag.clone());
        let id = RequestId(rand::rng().random());
        let caller = Caller { id, tag, ..self.caller.clone() };
        Context { caller, until: self.until }
    }
}

type Answers = BoxStream<'static, Result<ModelStreamInferResponse, Status>>;

/// The answers to all requests of a stream. It ends with the last of them once the client sends no
/// more or the router takes no more, or when the client's side breaks.
pub(super) fn answers(
    router: Arc<Router>,
    context: Context,
    requests: Streaming<ModelInferRequest>,
) -> Answers {
    requests
        .take_until(router.inside.closed())
        .map(move |request| match request {
            Ok(request) => {
                let context = context.for_request(&request.id);
                respond(Arc::clone(&router), context, request).map(Ok).boxed()
            }
            Err(broken) => stream::iter([Err(broken)]).boxed(),
        })
        .flatten_unordered(MOST)
        .boxed()
}

/// The answers to one request. The last one is marked, also when it tells of an error.
fn respond(
    router: Arc<Router>,
    context: Context,
    request: ModelInferRequest,
) -> impl Stream<Item = ModelStreamInferResponse> + Send {
    let (model, id) = (request.model_name.clone(), request.id.clone());
    let begun = async move {
        match begin(&router, &context, request).await {
            Ok(Begun::Parts(head, answer)) => parts(head, answer).boxed(),
            Ok(Begun::Whole(response)) => stream::iter([good(response, true)]).boxed(),
            Err(error) => stream::iter([bad(model, id, &error)]).boxed(),
        }
    };
    begun.into_stream().flatten()
}

enum Begun {
    Parts(Head, Answer),
    Whole(ModelInferResponse),
}

async fn begin(
    router: &Arc<Router>,
    context: &Context,
    request: ModelInferRequest,
) -> Result<Begun, InferError> {
    let id = request.id.clone();
    let wanted = ask::read(request, context.caller.clone())?;
    let in_parts = wanted.stream.unwrap_or(true);
    if in_parts && wanted.prefix.is_some() {
        return Err(InferError::Prefix);
    }
    let (mut answer, head, prefix) = submit(router, context, wanted, id).await?;
    if in_parts {
        return Ok(Begun::Parts(head, answer));
    }
    let whole = Part::whole(&mut answer, prefix.unwrap_or_default()).await?;
    Ok(Begun::Whole(head.response(whole)))
}

fn parts(head: Head, answer: Answer) -> impl Stream<Item = ModelStreamInferResponse> + Send {
    stream::unfold(Some((head, answer)), |running| async {
        let (head, mut answer) = running?;
        Some(match answer.next().await {
            Ok(said) => {
                let is_final = answer.is_over();
                let response = good(head.response(Part::new(said)), is_final);
                (response, (!is_final).then_some((head, answer)))
            }
            Err(error) => (bad(head.model, head.id, &InferError::from(error)), None),
        })
    })
}

fn good(mut response: ModelInferResponse, is_final: bool) -> ModelStreamInferResponse {
    answer::mark(&mut response, is_final);
    ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }
}

fn bad(model: String, id: String, error: &InferError) -> ModelStreamInferResponse {
    ModelStreamInferResponse {
        error_message: error.to_string(),
        infer_response: Some(answer::failed(model, id, error)),
    }
}
