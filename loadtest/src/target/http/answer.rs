//! What an answer's events say.

use std::{borrow::Cow, sync::OnceLock, time::Duration};

use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::Value;

use super::refusal::{Refusal, protocol};
use crate::{
    heard::Heard,
    outcome::Timings,
    target::{Failure, failure::Kind},
};

/// An answer's events.
pub(super) struct Stream<'a, 'b> {
    pub(super) heard: &'a mut Heard<'b>,
    pub(super) is_over: bool,
}

/// One event's data. Other servers say more, which nobody asks for.
#[derive(Debug, Deserialize)]
struct Piece<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    usage: Option<Usage>,
    error: Option<Value>,
    baton: Option<Told>,
}

#[derive(Debug, Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
}

#[derive(Debug, Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, alias = "reasoning")]
    reasoning_content: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
struct Usage {
    prompt_tokens: u32,
    completion_tokens: Option<u32>,
    prompt_tokens_details: Option<Details>,
}

#[derive(Debug, Deserialize)]
struct Details {
    cached_tokens: Option<u32>,
}

/// Baton's own object.
#[derive(Debug, Deserialize)]
struct Told {
    router_queue_us: u64,
    prefill_queue_us: u64,
    prefill_us: u64,
    exposed_transfer_us: u64,
    decode_admission_us: u64,
    first_decode_step_us: u64,
    ttft_us: u64,
}

impl Choice<'_> {
    fn text(&self) -> Option<&str> {
        let delta = || {
            let delta = self.delta.as_ref()?;
            let said =
                |text: &Option<Cow<'_, str>>| text.as_ref().is_some_and(|text| !text.is_empty());
            match said(&delta.content) {
                true => delta.content.as_deref(),
                false => delta.reasoning_content.as_deref(),
            }
        };
        self.text.as_deref().or_else(delta).filter(|text| !text.is_empty())
    }
}

impl Stream<'_, '_> {
    pub(super) fn hear(&mut self, data: &[u8]) -> Result<(), Failure> {
        if data == b"[DONE]" {
            self.is_over = true;
            return Ok(());
        }
        // Between the first token and the last an event is a token, and that is all there is to know of it.
        if self.heard.first.is_some() && self.heard.said.is_none() && !says_more(data) {
            self.heard.tokens(1);
            return Ok(());
        }
        let piece: Piece<'_> = serde_json::from_slice(data).map_err(|error| {
            let shown = String::from_utf8_lossy(&data[..data.len().min(200)]);
            protocol(format!("an event can't be read ({error}): {shown}"))
        })?;
        self.hear_piece(piece)
    }

    fn hear_piece(&mut self, piece: Piece<'_>) -> Result<(), Failure> {
        if let Some(error) = piece.error.filter(|error| !error.is_null()) {
            let told = Refusal::of(&error);
            return Err(Failure::new(
                Kind::Server,
                format!("error in the stream{}", told.code()),
                told.message,
            ));
        }
        for text in piece.choices.iter().filter_map(Choice::text) {
            self.heard.tokens(1);
            if let Some(said) = &mut self.heard.said {
                said.text += text;
            }
        }
        if let Some(usage) = piece.usage {
            self.heard.prompt_told = Some(usage.prompt_tokens);
            self.heard.output_told = usage.completion_tokens;
            let cached = usage.prompt_tokens_details.and_then(|details| details.cached_tokens);
            self.heard.cached_tokens = cached.unwrap_or(0);
        }
        self.heard.timings = piece.baton.map(|told| told.timings()).or(self.heard.timings);
        if let Some(id) = piece.id.filter(|id| self.heard.request_id.as_deref() != Some(id)) {
            self.heard.request_id = Some(id.into_owned());
        }
        Ok(())
    }
}

impl Told {
    fn timings(&self) -> Timings {
        let us = Duration::from_micros;
        Timings {
            router_queue: us(self.router_queue_us),
            prefill_queue: us(self.prefill_queue_us),
            prefill: us(self.prefill_us),
            ttft: us(self.ttft_us),
            exposed_transfer: us(self.exposed_transfer_us),
            decode_admission: us(self.decode_admission_us),
            first_decode_step: us(self.first_decode_step_us),
        }
    }
}

/// Whether an event may be another thing than one more token: the usage, an error, Baton's object, or the choice's end,
/// which most servers tell without a token.
fn says_more(data: &[u8]) -> bool {
    static WORDS: OnceLock<[Finder<'static>; 4]> = OnceLock::new();
    let words = WORDS.get_or_init(|| {
        ["\"usage\":{", "\"error\":", "\"finish_reason\":\"", "\"baton\":"].map(Finder::new)
    });
    words.iter().any(|word| word.find(data).is_some())
}
