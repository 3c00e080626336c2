//! Answers in OpenAI's shapes: whole, or as server-sent events that end in `[DONE]`.

use std::{collections::VecDeque, sync::Arc};

use axum::{
    Json,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use baton_proto::{
    convert::Sampled,
    v1::{Timings, Usage},
};
use baton_text::CallPiece;
use baton_types::{ChoiceIndex, FinishReason, TokenLogprobs};
use futures::stream;
use serde::Serialize;
use serde_json::{Value, json, value::to_raw_value};

use super::{
    Asked,
    echo::Echo,
    error,
    event::Event,
    form::Form,
    handle::{Origin, Seen, Take, TakenUp, progress},
    identity,
    logprobs::Told,
    tools,
};
use crate::{
    error::RequestError,
    request::{Answer, Ask, End, PromptIndex, Said},
};

/// What differs between the interfaces.
pub(super) trait Shape: Copy + Send + 'static {
    /// Beginning of the answer's id.
    const ID: &'static str;
    const OBJECT: &'static str;
    const CHUNK: &'static str;

    /// The choice that begins a stream, if one does;
    fn opening(&self) -> Option<Value>;
    /// one with more text,
    fn piece(&self, piece: &Piece<'_>) -> Value;
    /// and the last one.
    fn closing(&self, reason: &str) -> Value;
    /// A choice of an answer that isn't streamed.
    fn whole(&self, whole: &Piece<'_>, reason: &str) -> Value;
}

/// A part of a choice, or all of it.
pub(super) struct Piece<'a> {
    pub(super) text: &'a str,
    /// Calls of tools, in OpenAI's shape.
    pub(super) calls: Vec<Value>,
    pub(super) told: Told<'a>,
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
    let (choices, keep, echo) = (ask.choices as usize, ask.keep as usize, ask.echo);
    let taken_up = asked.taken_up.as_ref();
    let (ask, take) = match taken_up {
        Some(taken_up) => taken_up.again(asked.router, ask, streaming.is_some()).await?,
        None => (ask, Take::FIRST),
    };
    let mut answer = asked.router.submit(ask).await?;
    let made_as = answer.id;
    if let Some(TakenUp { origin, .. }) = taken_up {
        answer.id = origin.id;
    }
    let echoes = if echo { Echo::all(&answer) } else { Vec::new() };
    let wanted = Wanted { choices, keep, echoes };
    let head = Head {
        id: format!("{}{:032x}", S::ID, answer.id.0),
        model: answer.model.to_string(),
        created: taken_up.map_or_else(now, |taken_up| taken_up.origin.created.into()),
        timings: wants_timings(asked.headers),
    };
    let Some(usage) = streaming else { return whole(head, answer, wanted, shape).await };
    let stream = streamed(asked, take, head, answer, wanted, shape, usage).await?;
    Ok(identity::name(stream, &asked.caller, made_as))
}

/// Seconds since 1970.
fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs())
}

/// What is made of the choices. Those of all prompts are in one row, prompt by prompt.
struct Wanted {
    /// That are drawn for each prompt,
    choices: usize,
    /// and how many of them are told.
    keep: usize,
    /// Of each prompt, if it is part of the answer.
    echoes: Vec<Echo>,
}

impl Wanted {
    /// Where a choice has its place in the row.
    fn slot(&self, prompt: PromptIndex, choice: ChoiceIndex) -> usize {
        usize::from(prompt.0) * self.choices + usize::from(choice.0)
    }

    fn hear(&mut self, prompt: PromptIndex, logprobs: Vec<TokenLogprobs>) {
        if let Some(echo) = self.echoes.get_mut(usize::from(prompt.0)) {
            echo.hear(logprobs);
        }
    }
}

fn wants_timings(headers: &HeaderMap) -> bool {
    headers.get("x-baton-timings").is_some_and(|value| value == "1")
}

/// A message: an answer, or a chunk of one.
#[derive(Serialize)]
struct Message<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: (),
    choices: Vec<C>,
    /// Null in a stream's chunks before the one that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    baton: Option<Value>,
}

impl Head {
    fn message<C: Serialize>(&self, object: &'static str, choices: Vec<C>) -> Message<'_, C> {
        let (id, created, model) = (&self.id, self.created, &self.model);
        let system_fingerprint = ();
        let (usage, baton) = (None, None);
        Message { id, object, created, model, system_fingerprint, choices, usage, baton }
    }
}

impl<C: Serialize> Message<'_, C> {
    fn text(&self) -> String {
        serde_json::to_string(self).expect("what JSON was made of can be written as JSON")
    }
}

/// One choice, gathered.
#[derive(Clone, Debug, Default)]
struct Choice {
    text: String,
    calls: Vec<CallPiece>,
    tokens: Vec<Sampled>,
    end: Option<End>,
}

/// A choice of a message under its index.
fn indexed(mut choice: Value, index: usize) -> Value {
    choice["index"] = index.into();
    choice
}

/// In OpenAI's words.
fn finish_reason(end: &End) -> &'static str {
    match (end.reason, end.called) {
        (FinishReason::Stop, true) => "tool_calls",
        (FinishReason::Stop, false) => "stop",
        (FinishReason::Length, _) => "length",
    }
}

/// Each prompt counts once.
fn total(ends: &[End]) -> Usage {
    let firsts = || ends.iter().filter(|end| end.choice.0 == 0).map(|end| end.usage);
    Usage {
        prompt_tokens: firsts().map(|usage| usage.prompt_tokens).sum(),
        completion_tokens: ends.iter().map(|end| end.usage.completion_tokens).sum(),
        cached_tokens: firsts().map(|usage| usage.cached_tokens).sum(),
    }
}

/// Where the time of the first prompt's first choice went.
fn first_timings(ends: &[End]) -> Option<&Timings> {
    let first = ends.iter().find(|end| (end.prompt.0, end.choice.0) == (0, 0));
    first.map(|end| &end.timings)
}

/// The likeliest `keep` choices by the mean of their tokens' log-probabilities, the likeliest first;
/// all of them in their own order if nothing is left out.
fn best(choices: &[Choice], keep: usize) -> Vec<&Choice> {
    let mut best: Vec<&Choice> = choices.iter().collect();
    if keep < best.len() {
        let mean = |choice: &Choice| {
            let told = choice.tokens.iter().filter_map(|sampled| sampled.logprobs.as_ref());
            let sum: f64 = told.map(|told| f64::from(told.logprob)).sum();
            sum / choice.tokens.len().max(1) as f64
        };
        best.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        best.truncate(keep);
    }
    best
}

async fn whole<S: Shape>(
    head: Head,
    mut answer: Answer,
    mut wanted: Wanted,
    shape: S,
) -> Result<Response, RequestError> {
    let mut choices = vec![Choice::default(); answer.prompts.len() * wanted.choices];
    while !answer.is_over() {
        match answer.next().await? {
            Said::Chunk(chunk) => {
                let choice = &mut choices[wanted.slot(chunk.prompt, chunk.choice)];
                choice.text.push_str(&chunk.text);
                choice.calls.extend(chunk.calls);
                choice.tokens.extend(chunk.tokens);
                wanted.hear(chunk.prompt, chunk.prompt_logprobs);
            }
            Said::End(end) => {
                let choice = &mut choices[wanted.slot(end.prompt, end.choice)];
                choice.end = Some(end);
            }
        }
    }
    let ends: Vec<End> = choices.iter().filter_map(|choice| choice.end.clone()).collect();
    let best = choices.chunks(wanted.choices).flat_map(|prompt| best(prompt, wanted.keep));
    let whole = (0..).zip(best).filter_map(|(index, choice)| {
        let end = choice.end.as_ref()?;
        let told = Told::new(&answer.text, &choice.tokens, 0);
        let calls = tools::whole(answer.id, end.choice, &choice.calls);
        let echo = wanted.echoes.get(usize::from(end.prompt.0));
        let (text, told) = Echo::before(echo, &choice.text, told);
        let piece = Piece { text: &text, calls, told };
        let whole = indexed(shape.whole(&piece, finish_reason(end)), index);
        // Written at once: as text they are far smaller.
        Some(to_raw_value(&whole).expect("a value can be written"))
    });
    let mut message = head.message(S::OBJECT, whole.collect());
    message.usage = Some(usage_json(&total(&ends)));
    message.baton = first_timings(&ends).filter(|_| head.timings).map(timings_json);
    Ok(Json(message).into_response())
}

/// A stream that has been begun: refusals before the first token still have their status.
async fn streamed<S: Shape>(
    asked: &Asked<'_>,
    take: Take,
    head: Head,
    mut answer: Answer,
    wanted: Wanted,
    shape: S,
    usage: bool,
) -> Result<Response, RequestError> {
    let first = answer.next().await?;
    let (ready, ends) = (VecDeque::new(), Vec::new());
    let slots = answer.prompts.len() * wanted.choices;
    let characters = vec![None; slots];
    let forms = (0..slots).map(|_| None).collect();
    let origin = Origin {
        id: answer.id,
        seed: answer.seed,
        created: u32::try_from(head.created).unwrap_or(u32::MAX),
        digest: asked.digest,
    };
    let name = origin.name(&head.id, take);
    let taken_up = asked.taken_up.as_ref();
    let had = taken_up.map_or_else(|| vec![Seen::default(); slots], |one| one.seen.clone());
    let number = taken_up.map_or(0, |taken_up| taken_up.number);
    let mut events = Events {
        head,
        answer,
        shape,
        usage,
        wanted,
        ready,
        characters,
        forms,
        seen: had.clone(),
        had,
        ends,
        ended: false,
    };
    // They were the first events.
    for index in usize::try_from(number).unwrap_or(slots).min(slots)..slots {
        if let Some(opening) = shape.opening() {
            events.chunk(vec![indexed(opening, index)]);
        }
    }
    events.take(Ok(first));
    let events = stream::unfold(events, |mut events| async {
        let event = events.next().await?;
        Some((event, events))
    });
    let grace = asked.router.config.timeouts.resume.0;
    let tenant = asked.caller.tenant.clone()?;
    Ok(asked.router.streams.open(name, tenant, Box::pin(events), grace, number))
}

struct Events<S> {
    head: Head,
    answer: Answer,
    shape: S,
    usage: bool,
    ready: VecDeque<Event>,
    wanted: Wanted,
    /// Of each choice's tokens about which something was told; none has come at first.
    characters: Vec<Option<usize>>,
    forms: Vec<Option<Arc<Form>>>,
    /// How far its client is with each choice once it has the events that are ready,
    seen: Vec<Seen>,
    /// and how far it was at first.
    had: Vec<Seen>,
    /// Of the choices that have ended.
    ends: Vec<End>,
    ended: bool,
}

impl<S: Shape> Events<S> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
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
                let index = self.wanted.slot(chunk.prompt, chunk.choice);
                self.wanted.hear(chunk.prompt, chunk.prompt_logprobs);
                let characters = &mut self.characters[index];
                let is_first = characters.is_none();
                let told = Told::new(&self.answer.text, &chunk.tokens, characters.unwrap_or(0));
                let echo = self.wanted.echoes.get(usize::from(chunk.prompt.0));
                let echo = echo.filter(|_| is_first);
                let (text, told) = Echo::before(echo, &chunk.text, told);
                *characters = Some(told.end());
                // What is left at the end is as if it were of one token more.
                let is_rest = chunk.tokens.is_empty();
                let upto = chunk.index + chunk.tokens.len() as u32 + u32::from(is_rest);
                if upto <= self.had[index].tokens() {
                    return;
                }
                self.seen[index].advance(upto);
                let calls = tools::deltas(self.answer.id, chunk.choice, &chunk.calls);
                if calls.is_empty() && told.is_empty() {
                    // Text that is held back says nothing yet.
                    if !text.is_empty() {
                        self.plain(index, text.into());
                    }
                    return;
                }
                let piece = self.shape.piece(&Piece { text: &text, calls, told });
                self.chunk(vec![indexed(piece, index)]);
            }
            Ok(Said::End(end)) => self.end(end),
            Err(error) => {
                self.push(error::value(&error).to_string().into());
                self.ended = true;
            }
        }
    }

    /// A piece of nothing but text: written into the form all of its choice's pieces have.
    fn plain(&mut self, index: usize, text: Box<str>) {
        if self.forms[index].is_none() {
            let piece = Piece {
                text: Form::MARK,
                calls: Vec::new(),
                told: Told::nothing(&self.answer.text),
            };
            let piece = indexed(self.shape.piece(&piece), index);
            let form = Form::of(&self.message(vec![piece]).text());
            self.forms[index] = form.map(Arc::new);
        }
        if let Some(form) = &self.forms[index] {
            self.push(Event::text(Arc::clone(form), text));
        }
    }

    fn push(&mut self, event: Event) {
        self.ready.push_back(event.at(progress(&self.seen)));
    }

    fn chunk(&mut self, choices: Vec<Value>) {
        let text = self.message(choices).text();
        self.push(text.into());
    }

    fn message(&self, choices: Vec<Value>) -> Message<'_, Value> {
        let mut message = self.head.message(S::CHUNK, choices);
        message.usage = self.usage.then_some(Value::Null);
        message
    }

    fn end(&mut self, end: End) {
        let index = self.wanted.slot(end.prompt, end.choice);
        let closing = indexed(self.shape.closing(finish_reason(&end)), index);
        self.ends.push(end);
        let is_last = self.answer.is_over();
        self.seen[index].close();
        if !self.had[index].is_closed() {
            let mut closing = self.message(vec![closing]);
            if is_last && !self.usage {
                closing.baton = self.timings();
            }
            let closing = closing.text();
            self.push(closing.into());
        }
        if !is_last {
            return;
        }
        if self.usage && !self.had[0].is_counted() {
            let mut last = self.message(Vec::new());
            last.usage = Some(usage_json(&total(&self.ends)));
            last.baton = self.timings();
            let last = last.text();
            self.seen[0].count();
            self.push(last.into());
        }
        self.push("[DONE]".to_owned().into());
        self.ended = true;
    }

    /// If the client asked where the time went.
    fn timings(&self) -> Option<Value> {
        first_timings(&self.ends).filter(|_| self.head.timings).map(timings_json)
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
