//! Answers in OpenAI's shapes: whole, or as server-sent events that end in `[DONE]`.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    Json,
    http::HeaderMap,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use baton_proto::v1::{Timings, Usage};
use baton_types::FinishReason;
use futures::stream;
use serde_json::{Value, json};

use super::{Asked, error, logprobs::Told};
use crate::{
    error::RequestError,
    request::{Answer, Ask, End, Said},
};

/// How often a silent stream says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What differs between the interfaces.
pub(super) trait Shape: Copy + Send + 'static {
    /// Beginning of the answer's id.
    const ID: &'static str;
    const OBJECT: &'static str;
    const CHUNK: &'static str;

    /// The choice that begins a stream, if one does;
    fn opening(&self) -> Option<Value>;
    /// one with more text,
    fn piece(&self, text: &str, told: &Told<'_>) -> Value;
    /// and the last one.
    fn closing(&self, reason: FinishReason) -> Value;
    /// The only choice of an answer that isn't streamed.
    fn whole(&self, text: &str, told: &Told<'_>, reason: FinishReason) -> Value;
}

/// What is the same in all messages of an answer.
struct Head {
    id: String,
    model: String,
    created: u64,
    /// Whether the client asked where the time went.
    timings: bool,
}

/// Answers `ask`. `streaming` says whether to stream and, if so, whether the usage is wanted too.
pub(super) async fn answer<S: Shape>(
    asked: &Asked<'_>,
    ask: Ask,
    streaming: Option<bool>,
    shape: S,
) -> Result<Response, RequestError> {
    let answer = asked.router.submit(ask).await?;
    let head = Head {
        id: format!("{}{:032x}", S::ID, answer.id.0),
        model: answer.model.to_string(),
        created: std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs()),
        timings: wants_timings(asked.headers),
    };
    match streaming {
        None => whole(head, answer, shape).await,
        Some(usage) => streamed(head, answer, shape, usage).await,
    }
}

fn wants_timings(headers: &HeaderMap) -> bool {
    headers.get("x-baton-timings").is_some_and(|value| value == "1")
}

impl Head {
    fn message(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": null,
            "choices": choices,
        })
    }
}

async fn whole<S: Shape>(
    head: Head,
    mut answer: Answer,
    shape: S,
) -> Result<Response, RequestError> {
    let (mut text, mut tokens) = (String::new(), Vec::new());
    let End { reason, usage, timings } = loop {
        match answer.next().await? {
            Said::Chunk(chunk) => {
                text.push_str(&chunk.text);
                tokens.extend(chunk.tokens);
            }
            Said::End(end) => break end,
        }
    };
    let told = Told::new(&answer.text, &tokens, 0);
    let mut message = head.message(S::OBJECT, vec![shape.whole(&text, &told, reason)]);
    message["usage"] = usage_json(&usage);
    if head.timings {
        message["baton"] = timings_json(&timings);
    }
    Ok(Json(message).into_response())
}

/// A stream that has been begun: refusals before the first token still have their status.
async fn streamed<S: Shape>(
    head: Head,
    mut answer: Answer,
    shape: S,
    usage: bool,
) -> Result<Response, RequestError> {
    let first = answer.next().await?;
    let ready = VecDeque::new();
    let mut events = Events { head, answer, shape, usage, ready, characters: 0, ended: false };
    if let Some(opening) = shape.opening() {
        events.chunk(vec![opening]);
    }
    events.take(Ok(first));
    let events = stream::unfold(events, |mut events| async {
        let data = events.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(data)), events))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    // Proxies that gather answers would hold back the tokens.
    let unbuffered = [("x-accel-buffering", "no")];
    Ok((unbuffered, Sse::new(events).keep_alive(keep_alive)).into_response())
}

struct Events<S> {
    head: Head,
    answer: Answer,
    shape: S,
    usage: bool,
    ready: VecDeque<String>,
    /// Of the answer so far.
    characters: usize,
    ended: bool,
}

impl<S: Shape> Events<S> {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                return Some(data);
            }
            if self.ended {
                return None;
            }
            let said = self.answer.next().await;
            self.take(said);
        }
    }

    fn take(&mut self, said: Result<Said, RequestError>) {
        match said {
            Ok(Said::Chunk(chunk)) => {
                let told = Told::new(&self.answer.text, &chunk.tokens, self.characters);
                let piece = self.shape.piece(&chunk.text, &told);
                self.characters += chunk.text.chars().count();
                self.chunk(vec![piece]);
            }
            Ok(Said::End(end)) => self.end(&end),
            Err(error) => {
                self.ready.push_back(error::value(&error).to_string());
                self.ended = true;
            }
        }
    }

    fn chunk(&mut self, choices: Vec<Value>) {
        let message = self.message(choices);
        self.ready.push_back(message.to_string());
    }

    fn message(&self, choices: Vec<Value>) -> Value {
        let mut message = self.head.message(S::CHUNK, choices);
        if self.usage {
            message["usage"] = Value::Null;
        }
        message
    }

    fn end(&mut self, end: &End) {
        let mut messages = vec![self.message(vec![self.shape.closing(end.reason)])];
        if self.usage {
            let mut last = self.message(Vec::new());
            last["usage"] = usage_json(&end.usage);
            messages.push(last);
        }
        if let (true, Some(last)) = (self.head.timings, messages.last_mut()) {
            last["baton"] = timings_json(&end.timings);
        }
        self.ready.extend(messages.iter().map(Value::to_string));
        self.ready.push_back("[DONE]".to_owned());
        self.ended = true;
    }
}

fn usage_json(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": u64::from(usage.prompt_tokens) + u64::from(usage.completion_tokens),
        "prompt_tokens_details": { "cached_tokens": usage.cached_tokens },
    })
}

fn timings_json(timings: &Timings) -> Value {
    json!({
        "prefill_node": timings.prefill_node,
        "decode_node": timings.decode_node,
        "router_queue_us": timings.router_queue_us,
        "prefill_queue_us": timings.prefill_queue_us,
        "prefill_us": timings.prefill_us,
        "exposed_transfer_us": timings.exposed_transfer_us,
        "decode_admission_us": timings.decode_admission_us,
        "first_decode_step_us": timings.first_decode_step_us,
        "ttft_us": timings.ttft_us,
        "tpot_us": timings.tpot_us,
        "pages_moved": timings.pages_moved,
        "bytes_moved": timings.bytes_moved,
    })
}
