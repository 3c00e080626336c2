//! `baton.v1.Inference`, health and reflection, on the port HTTP is on.

use baton_node::config::Span;
use baton_proto::{
    status::Refused,
    v1::{
        CancelRequest, ChatRequest, Conversation, DetokenizeRequest, GenerateRequest,
        GenerateResponse, ListModelsRequest, Message, Sampling, TokenIds, TokenizeRequest,
        chat_response, generate_request::Prompt, generate_response::Event,
        inference_client::InferenceClient, tokenize_request,
    },
};
use tokio_stream::StreamExt;
use tonic::{Code, Request, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    cluster::{Cluster, PROMPT, eventually},
    fake::{MAX_CONTEXT, MODEL, Step, text},
};

async fn client(cluster: &Cluster) -> InferenceClient<Channel> {
    InferenceClient::connect(cluster.url.clone()).await.unwrap()
}

fn generate(max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        model: MODEL.into(),
        prompt: Some(Prompt::Text(PROMPT.into())),
        sampling: Some(Sampling { max_tokens: Some(max_tokens), ..Sampling::default() }),
        ..GenerateRequest::default()
    }
}

async fn next(stream: &mut Streaming<GenerateResponse>) -> Event {
    stream.message().await.unwrap().unwrap().event.unwrap()
}

#[tokio::test]
async fn a_stream_starts_runs_and_completes() {
    let cluster = Cluster::start(1, 1).await;
    let mut client = client(&cluster).await;
    let response = client.generate(generate(8)).await.unwrap();
    let id = response.metadata().get("x-request-id").unwrap().to_str().unwrap().to_owned();
    let mut stream = response.into_inner();
    let Event::Started(started) = next(&mut stream).await else { panic!("Started comes first") };
    assert_eq!((started.request_id, started.prompt_tokens), (id, PROMPT.len() as u32));
    let (mut said, mut indexes) = (String::new(), Vec::new());
    let complete = loop {
        match next(&mut stream).await {
            Event::Chunk(chunk) => {
                indexes.extend((chunk.index..).take(chunk.token_ids.len()));
                let digests = chunk.logits_digests.iter().map(|digest| digest - 1000);
                assert!(digests.eq((u64::from(chunk.index)..).take(chunk.token_ids.len())));
                said += &chunk.text;
            }
            Event::Complete(complete) => break complete,
            Event::Started(_) => panic!("once"),
        }
    };
    assert!(stream.message().await.unwrap().is_none());
    assert_eq!((said, indexes), (text(PROMPT, 8), (0..8).collect()));
    let timings = complete.timings.unwrap();
    assert_eq!((timings.prefill_node.as_str(), timings.decode_node.as_str()), ("p0", "d0"));
    assert_eq!(complete.usage.unwrap().completion_tokens, 8);
    let seed = cluster.prefill[0].shared.calls()[0].sampling.clone().unwrap().seed;
    assert_eq!(seed, started.seed, "the drawn seed is told");
}

#[tokio::test]
async fn a_conversation_is_answered_too() {
    let cluster = Cluster::start(1, 1).await;
    let message = Message { role: "user".into(), content: "hi".into(), ..Message::default() };
    let sampling = Some(Sampling { max_tokens: Some(4), ..Sampling::default() });
    let request = ChatRequest {
        model: MODEL.into(),
        messages: vec![message],
        sampling,
        ..ChatRequest::default()
    };
    let stream = client(&cluster).await.chat(request).await.unwrap().into_inner();
    let said: String = stream
        .filter_map(|response| match response.unwrap().event {
            Some(chat_response::Event::Chunk(chunk)) => Some(chunk.text),
            _ => None,
        })
        .collect()
        .await;
    assert_eq!(said, text("user: hi\nassistant: ", 4));
}

#[tokio::test]
async fn cancelling_ends_the_stream_and_frees_the_nodes() {
    let cluster = Cluster::start(1, 1).await;
    cluster.decode[0].shared.script(vec![Step::Honest(Some(3)), Step::Hang]);
    let mut client = client(&cluster).await;
    let mut stream = client.generate(generate(8)).await.unwrap().into_inner();
    let Event::Started(started) = next(&mut stream).await else { panic!("Started comes first") };
    next(&mut stream).await;
    let request = CancelRequest { request_id: started.request_id };
    assert!(client.cancel(request.clone()).await.unwrap().into_inner().cancelled);
    let status = loop {
        match stream.message().await {
            Ok(message) => assert!(message.is_some(), "the stream ended well"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Cancelled);
    assert!(!client.cancel(request).await.unwrap().into_inner().cancelled);
    eventually("the node's stream is dropped", || cluster.decode[0].shared.open() == 0).await;
    let nonsense = CancelRequest { request_id: "x".into() };
    assert_eq!(client.cancel(nonsense).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn deadlines_are_kept() {
    let cluster = Cluster::start(1, 1).await;
    cluster.prefill[0].shared.script(vec![Step::Hang]);
    let mut request = Request::new(generate(8));
    request.metadata_mut().insert("grpc-timeout", "150m".parse().unwrap());
    let mut stream = client(&cluster).await.generate(request).await.unwrap().into_inner();
    next(&mut stream).await;
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let told = cluster.prefill[0].shared.calls()[0].deadline_us.unwrap();
    assert!(told <= 150_000, "{told}");
    eventually("the node's stream is dropped", || cluster.prefill[0].shared.open() == 0).await;
}

#[tokio::test]
async fn refusals_have_google_details() {
    let cluster = Cluster::start(1, 1).await;
    let mut client = client(&cluster).await;
    let hot = Sampling { temperature: Some(9.0), ..Sampling::default() };
    let ids = Prompt::TokenIds(TokenIds { ids: Vec::new() });
    for (request, code, reason, field) in [
        (
            GenerateRequest { model: "other".into(), ..generate(8) },
            Code::NotFound,
            "MODEL_NOT_FOUND",
            "model",
        ),
        (
            GenerateRequest { sampling: Some(hot), ..generate(8) },
            Code::InvalidArgument,
            "INVALID_SAMPLING",
            "sampling.temperature",
        ),
        (
            GenerateRequest { class: "gold".into(), ..generate(8) },
            Code::InvalidArgument,
            "INVALID_REQUEST",
            "class",
        ),
        (generate(0), Code::InvalidArgument, "INVALID_REQUEST", "sampling.max_tokens"),
        (generate(600), Code::OutOfRange, "CONTEXT_TOO_LONG", "prompt"),
        (
            GenerateRequest { prompt: Some(ids), ..generate(8) },
            Code::InvalidArgument,
            "EMPTY_PROMPT",
            "prompt",
        ),
    ] {
        let status = client.generate(request).await.unwrap_err();
        let refused = Refused::from(&status);
        assert_eq!((refused.code, refused.reason.as_str()), (code, reason), "{status:?}");
        assert_eq!(refused.field.as_deref(), Some(field), "{status:?}");
    }
}

#[tokio::test]
async fn models_and_health_are_told() {
    let mut cluster = Cluster::start(1, 2).await;
    let models = client(&cluster).await.list_models(ListModelsRequest {}).await.unwrap();
    let model = models.into_inner().models.pop().unwrap();
    assert_eq!((model.id.as_str(), model.max_context), (MODEL, 512));
    assert_eq!((model.prefill_nodes, model.decode_nodes), (1, 2));
    assert_eq!(model.numerics_id, format!("{:032x}", 7));

    let channel = Channel::from_shared(cluster.url.clone()).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel);
    let service = HealthCheckRequest { service: "baton.v1.Inference".into() };
    let mut watch = health.watch(service).await.unwrap().into_inner();
    let mut until = async |expected: ServingStatus| {
        while watch.message().await.unwrap().unwrap().status() != expected {}
    };
    until(ServingStatus::Serving).await;
    cluster.decode.clear();
    until(ServingStatus::NotServing).await;
    let process = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(process.status(), ServingStatus::Serving);
}

#[tokio::test]
async fn a_router_that_is_told_to_stop_finishes_what_is_inside() {
    let cluster = Cluster::start(1, 1).await;
    let mut client = client(&cluster).await;
    let mut stream = client.generate(generate(300)).await.unwrap().into_inner();
    next(&mut stream).await;
    cluster.shutdown.cancel();
    let mut tokens = 0;
    while let Some(message) = stream.message().await.unwrap() {
        if let Some(Event::Chunk(chunk)) = message.event {
            tokens += chunk.token_ids.len();
        }
    }
    assert_eq!(tokens, 300);
    drop(client);
    cluster.serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn texts_become_tokens_and_tokens_texts() {
    let cluster = Cluster::start(1, 1).await;
    let mut client = client(&cluster).await;
    let ask = |prompt| TokenizeRequest { model: MODEL.into(), prompt };
    let text = tokenize_request::Prompt::Text(PROMPT.into());
    let told = client.tokenize(ask(Some(text))).await.unwrap().into_inner();
    assert_eq!(told.token_ids.len(), PROMPT.len());
    assert_eq!(told.max_context, MAX_CONTEXT);
    let tokens = |token_ids| DetokenizeRequest { model: MODEL.into(), token_ids };
    let back = client.detokenize(tokens(told.token_ids)).await.unwrap().into_inner();
    assert_eq!(back.text, PROMPT);

    let message = Message { role: "user".into(), content: "Hi".into(), ..Message::default() };
    let conversation = Conversation { messages: vec![message], ..Conversation::default() };
    let conversation = tokenize_request::Prompt::Conversation(conversation);
    let told = client.tokenize(ask(Some(conversation))).await.unwrap().into_inner();
    assert!(told.token_ids.len() > 2, "the template adds to it");

    let refused = client.tokenize(ask(None)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let refused = client.detokenize(tokens(vec![u32::MAX])).await.unwrap_err();
    assert!(refused.message().contains("4294967295"), "{refused}");
    let unknown = TokenizeRequest { model: "other".into(), ..ask(None) };
    assert_eq!(client.tokenize(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn who_is_left_at_a_router_that_ends_is_told_to_ask_another() {
    let mut cluster = Cluster::alone(|config| config.timeouts.drain = Span::from_millis(50)).await;
    cluster.join(1, 1).await;
    cluster.decode[0].shared.script(vec![Step::Honest(Some(4)), Step::Hang]);
    let mut client = client(&cluster).await;
    let mut stream = client.generate(generate(8)).await.unwrap().into_inner();
    next(&mut stream).await;
    cluster.shutdown.cancel();
    let refused = loop {
        if let Err(status) = stream.message().await {
            break Refused::from(&status);
        }
    };
    assert_eq!((refused.code, &*refused.reason), (Code::Unavailable, "SHUTTING_DOWN"));
}
