//! Streams over gRPC outlive their routers and nodes (`exact-stream`): a client that tells what it received gets the
//! rest anywhere.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use baton_proto::v1::{
    self, ChatRequest, Complete, FinishReason, GenerateRequest, Grammar, Message, Received, Resume,
    Sampling, Started, Tool, ToolChoice, chat_request::Choice as Tools, chat_response,
    generate_request::Prompt, generate_response::Event, grammar::Source,
    inference_client::InferenceClient,
};
use baton_tests::{Cluster, Engine, Options, get};
use futures::{StreamExt, future::join_all, stream::BoxStream};
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
enum Call {
    Generate(GenerateRequest),
    Chat(ChatRequest),
}

/// What came of one choice. Of logits and log-probabilities each bit counts.
#[derive(Clone, Debug, Default, PartialEq)]
struct Choice {
    tokens: Vec<u32>,
    text: String,
    digests: Vec<u64>,
    logprobs: Vec<v1::TokenLogprobs>,
    prompt_logprobs: Vec<v1::TokenLogprobs>,
    calls: BTreeMap<u32, (String, String)>,
    complete: Option<(FinishReason, u32, u32)>,
}

/// What a client has of a stream, from all its connections.
#[derive(Clone, Debug, Default)]
struct Heard {
    started: Option<Started>,
    choices: BTreeMap<u32, Choice>,
}

impl Call {
    fn sampling(&mut self) -> &mut Sampling {
        let sampling = match self {
            Call::Generate(request) => &mut request.sampling,
            Call::Chat(request) => &mut request.sampling,
        };
        sampling.get_or_insert_default()
    }

    /// The same, to go on behind what was heard.
    fn behind(&self, heard: &Heard) -> Call {
        let mut call = self.clone();
        let Some(started) = &heard.started else { return call };
        call.sampling().seed = Some(started.seed);
        let choices = 0..call.sampling().n.unwrap_or(1);
        let received = choices.map(|choice| {
            let choice = heard.choices.get(&choice).cloned().unwrap_or_default();
            Received { token_ids: choice.tokens, complete: choice.complete.is_some() }
        });
        let request_id = started.request_id.clone();
        let resume = Some(Resume { request_id, received: received.collect() });
        match &mut call {
            Call::Generate(request) => request.resume = resume,
            Call::Chat(request) => request.resume = resume,
        }
        call
    }

    async fn open(
        self,
        url: &str,
    ) -> Result<BoxStream<'static, Result<Option<Event>, Status>>, Status> {
        let client = InferenceClient::connect(url.to_owned()).await;
        let mut client = client.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(match self {
            Call::Generate(request) => {
                let stream = client.generate(request).await?.into_inner();
                stream.map(|message| Ok(message?.event)).boxed()
            }
            Call::Chat(request) => {
                let stream = client.chat(request).await?.into_inner();
                let event = |event| match event {
                    chat_response::Event::Started(started) => Event::Started(started),
                    chat_response::Event::Chunk(chunk) => Event::Chunk(chunk),
                    chat_response::Event::Complete(complete) => Event::Complete(complete),
                };
                stream.map(move |message| Ok(message?.event.map(event))).boxed()
            }
        })
    }
}

impl Heard {
    /// Reads so many messages, or to the end.
    async fn read(&mut self, call: &Call, url: &str, most: usize) -> Result<usize, Status> {
        let mut stream = call.behind(self).open(url).await?.take(most);
        let mut read = 0;
        while let Some(event) = stream.next().await {
            self.hear(event?.expect("a message says something"));
            read += 1;
        }
        Ok(read)
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Started(started) => self.started = Some(started),
            Event::Chunk(chunk) => {
                let choice = self.choices.entry(chunk.choice).or_default();
                assert_eq!(chunk.index as usize, choice.tokens.len(), "a gap, or a repeat");
                assert!(choice.complete.is_none(), "it was complete");
                choice.tokens.extend(chunk.token_ids);
                choice.text += &chunk.text;
                choice.digests.extend(chunk.logits_digests);
                choice.logprobs.extend(chunk.logprobs);
                choice.prompt_logprobs.extend(chunk.prompt_logprobs);
                for call in chunk.tool_calls {
                    let (name, arguments) = choice.calls.entry(call.index).or_default();
                    *name += &call.name;
                    *arguments += &call.arguments;
                }
            }
            Event::Complete(Complete { finish_reason, usage, choice, .. }) => {
                let reason = FinishReason::try_from(finish_reason).unwrap();
                let usage = usage.unwrap();
                let choice = self.choices.entry(choice).or_default();
                assert!(choice.complete.is_none(), "it was complete");
                choice.complete = Some((reason, usage.prompt_tokens, usage.completion_tokens));
            }
        }
    }

    fn is_over(&self, call: &Call) -> bool {
        let choices = call.clone().sampling().n.unwrap_or(1) as usize;
        self.choices.values().filter(|choice| choice.complete.is_some()).count() == choices
    }
}

/// Everything, in one go.
async fn whole(call: &Call, url: &str) -> (Heard, usize) {
    let mut heard = Heard::default();
    let messages = heard.read(call, url, usize::MAX).await.unwrap();
    assert!(heard.is_over(call), "{heard:?}");
    (heard, messages)
}

fn text(sampling: Sampling) -> Call {
    Call::Generate(GenerateRequest {
        model: "sim".into(),
        prompt: Some(Prompt::Text("Once upon a time".into())),
        sampling: Some(sampling),
        ..GenerateRequest::default()
    })
}

/// Streams of every kind.
fn calls(max_tokens: u32) -> Vec<Call> {
    let sampling = |seed| Sampling {
        seed,
        max_tokens: Some(max_tokens),
        ignore_eos: true,
        ..Sampling::default()
    };
    let numbers = r#"{
        "type": "object",
        "properties": {
            "numbers": { "type": "array", "items": { "type": "integer" }, "minItems": 6, "maxItems": 6 }
        },
        "required": ["numbers"], "additionalProperties": false
    }"#;
    let tool = Tool { name: "count".into(), parameters: numbers.into(), ..Tool::default() };
    let calling = Call::Chat(ChatRequest {
        model: "sim".into(),
        messages: vec![Message {
            role: "user".into(),
            content: "Count.".into(),
            ..Message::default()
        }],
        sampling: Some(Sampling {
            max_tokens: Some(max_tokens.max(300)),
            ignore_eos: false,
            ..sampling(Some(9))
        }),
        tools: vec![tool],
        choice: Some(Tools::ToolChoice(ToolChoice::Required.into())),
        ..ChatRequest::default()
    });
    let grammar = Grammar { source: Some(Source::JsonSchema(numbers.into())) };
    vec![
        // The router draws the seed.
        text(sampling(None)),
        text(Sampling {
            logprobs: Some(2),
            prompt_logprobs: Some(1),
            n: Some(3),
            ..sampling(Some(3))
        }),
        text(Sampling { stop: vec!["a".into(), "q".into()], ..sampling(Some(4)) }),
        text(Sampling {
            temperature: Some(0.8),
            top_k: Some(40),
            repetition_penalty: Some(1.2),
            frequency_penalty: Some(0.3),
            min_tokens: Some(3),
            ..sampling(Some(5))
        }),
        text(Sampling { grammar: Some(grammar), ignore_eos: false, ..sampling(Some(6)) }),
        calling,
    ]
}

/// The value of a metric.
fn metric(url: &str, name: &str) -> usize {
    let metrics = get(&format!("{url}/metrics")).unwrap().body;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or("0").parse().unwrap()
}

/// Wherever a stream breaks off, and wherever it does the next time.
#[tokio::test]
async fn a_stream_goes_on_behind_any_message() {
    let options = Options::new(Engine::Sim).set("engine.profile.decode_us=100.0");
    let options = options.set("engine.profile.prefill_us=100.0");
    let cluster = Cluster::start(&Options { routers: 2, ..options }).unwrap();
    let [first, second] = cluster.urls() else { panic!("two routers") };
    for mut call in calls(24) {
        let (expected, messages) = whole(&call, first).await;
        call.sampling().seed = expected.started.as_ref().map(|started| started.seed);
        for cut in 1..messages {
            let mut heard = Heard::default();
            heard.read(&call, first, cut).await.unwrap();
            let url = if cut % 3 == 0 { first } else { second };
            let rest = heard.read(&call, url, 1 + cut % 5).await.unwrap();
            assert!(rest >= 1, "it starts again");
            if !heard.is_over(&call) {
                heard.read(&call, first, usize::MAX).await.unwrap();
            }
            assert_eq!(heard.choices, expected.choices, "{call:?}, cut after {cut}");
        }
    }
    cluster.wait_whole(PATIENCE).unwrap();
}

/// A router and a decode node die at once: what the client holds is enough.
#[tokio::test]
async fn streams_survive_their_router_and_their_decode_node_at_once() {
    let options = Options { routers: 2, ..Options::new(Engine::Sim).nodes(2, 2) };
    let cluster = Cluster::start(&options.set("engine.profile.decode_us=6000.0")).unwrap();
    let [first, second] = cluster.urls() else { panic!("two routers") };
    let mut calls = calls(150);
    for (seed, call) in (40..).zip(&mut calls) {
        call.sampling().seed = Some(seed);
    }
    let dies = async |call: &Call, most: usize| -> anyhow::Result<Heard> {
        let mut heard = Heard::default();
        let mut stream = call.clone().open(first).await?;
        for _ in 0..most {
            let event = stream.next().await.context("it ended")??;
            heard.hear(event.context("nothing")?);
        }
        Ok(heard)
    };
    // All are in the middle, and stay so while the others get there: nobody reads on.
    let heard = join_all(calls.iter().zip(2..).map(|(call, most)| dies(call, 3 * most))).await;
    cluster.router_at(first).unwrap().kill().unwrap();
    cluster.child("decode-1").unwrap().kill().unwrap();
    let mut went_on = 0;
    for (call, heard) in calls.iter().zip(heard) {
        let mut heard = heard.unwrap();
        if !heard.is_over(call) {
            went_on += 1;
            heard.read(call, second, usize::MAX).await.unwrap();
        }
        assert!(heard.is_over(call));
        let (expected, _) = whole(call, second).await;
        assert_eq!(heard.choices, expected.choices, "{call:?}");
    }
    assert!(went_on >= 4, "{went_on} were in the middle");
    let name = r#"baton_router_taken_up_total{tokens="client"}"#;
    assert_eq!(metric(second, name), went_on);
    cluster.wait_whole_without("decode-1", PATIENCE).unwrap();
}

/// A client whose connection is gone before its router knows asks again: there is one of it, not two.
#[tokio::test]
async fn a_stream_that_goes_on_ends_where_it_was_if_it_is_its_tenants() {
    let cluster = Cluster::start(
        &Options::new(Engine::Sim).nodes(1, 1).set("engine.profile.decode_us=5000.0"),
    )
    .unwrap();
    let url = cluster.url();
    let mut call = text(Sampling { max_tokens: Some(400), ..Sampling::default() });
    call.sampling().ignore_eos = true;
    let mut old = call.clone().open(url).await.unwrap();
    let mut heard = Heard::default();
    for _ in 0..6 {
        heard.hear(old.next().await.unwrap().unwrap().unwrap());
    }
    // Somebody else who knows its id can't end it.
    let Call::Generate(theirs) = call.behind(&heard) else { panic!("a text") };
    let mut theirs = tonic::Request::new(theirs);
    theirs.metadata_mut().insert("x-tenant-id", "other".parse().unwrap());
    let mut client = InferenceClient::connect(url.to_owned()).await.unwrap();
    drop(client.generate(theirs).await.unwrap());
    assert!(old.next().await.unwrap().is_ok());

    heard.read(&call, url, 4).await.unwrap();
    let end = loop {
        if let Err(end) = old.next().await.unwrap() {
            break end;
        }
    };
    assert_eq!(end.code(), Code::Cancelled, "{end}");
    heard.read(&call, url, usize::MAX).await.unwrap();
    assert_eq!(heard.choices[&0].tokens.len(), 400);
    cluster.wait_whole(PATIENCE).unwrap();
}

#[tokio::test]
async fn what_can_not_have_been_received_is_refused() {
    let cluster = Cluster::start(&Options::new(Engine::Sim).nodes(1, 1)).unwrap();
    let call = text(Sampling { max_tokens: Some(4), seed: Some(1), ..Sampling::default() });
    let refused = async |change: &dyn Fn(&mut GenerateRequest)| {
        let Call::Generate(mut request) = call.clone() else { panic!("a text") };
        let received = vec![Received { token_ids: vec![40, 41], complete: false }];
        request.resume = Some(Resume { request_id: String::new(), received });
        change(&mut request);
        Call::Generate(request).open(cluster.url()).await.err().map(|status| {
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            status.message().to_owned()
        })
    };
    let received = |tokens: Vec<u32>, choices: usize| Resume {
        request_id: String::new(),
        received: vec![Received { token_ids: tokens, complete: false }; choices],
    };
    assert_eq!(refused(&|_| ()).await, None);
    for (change, part) in [
        (
            &(|request: &mut GenerateRequest| request.sampling.as_mut().unwrap().seed = None)
                as &dyn Fn(&mut GenerateRequest),
            "sampling.seed",
        ),
        (&|request| request.resume = Some(received(vec![1], 2)), "2 choices, and 1"),
        (
            &|request| request.resume = Some(received(vec![1; 5], 1)),
            "5 tokens of a choice; at most 4",
        ),
        (&|request| request.resume = Some(received(vec![u32::MAX], 1)), "4294967295"),
        (&|request| request.resume.as_mut().unwrap().request_id = "x".into(), "x"),
    ] {
        let message = refused(change).await.expect(part);
        assert!(message.contains(part), "{message:?} doesn't say {part:?}");
    }
    cluster.wait_whole(PATIENCE).unwrap();
}
