//! What became of one request, as its client saw it.

use std::time::Duration;

/// Times are since the run's begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// In order of the schedule; turns of one session share it.
    pub number: u64,
    /// When its session was due: whether it counts depends on that.
    pub session: Duration,
    /// Of its session, from 0.
    pub turn: u32,
    /// Index of its class.
    pub class: usize,
    /// When it was to be sent. All latencies count from here: whatever the client was late is the request's.
    pub due: Duration,
    /// When it was.
    pub sent: Duration,
    pub first: Option<Duration>,
    pub last: Option<Duration>,
    pub ended: Duration,
    /// Between two messages with tokens.
    pub longest_gap: Option<Duration>,
    pub end: End,
    /// Tokens that were asked for: of the prompt, if it could be counted, and of the output.
    pub prompt_asked: Option<u32>,
    pub output_asked: u32,
    /// As the server counts them.
    pub prompt_told: Option<u32>,
    /// As the server counts them, or else messages that had some.
    pub output_tokens: u32,
    pub cached_tokens: u32,
    pub timings: Option<Timings>,
    /// The server's name for it.
    pub request_id: Option<String>,
    /// How often its stream went on at another connection.
    pub resumed: u32,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Completed,
    /// The server said no, for want of room.
    Refused(Why),
    /// Anything else.
    Failed(Why),
    /// The client had too many others on their way.
    NotSent,
}

/// Why a request wasn't answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// One of few.
    pub reason: String,
    /// Whatever else is known.
    pub detail: String,
}

/// Where the server says the time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    pub router_queue: Duration,
    pub prefill_queue: Duration,
    pub prefill: Duration,
    /// At the router, of all this.
    pub ttft: Duration,
    /// What is left of the pages' way after the first token.
    pub exposed_transfer: Duration,
    pub decode_admission: Duration,
    pub first_decode_step: Duration,
}

impl Outcome {
    /// From when it was due.
    pub fn ttft(&self) -> Option<Duration> {
        Some(self.first?.saturating_sub(self.due))
    }

    /// The mean time between tokens after the first; none of one alone.
    pub fn tpot(&self) -> Option<Duration> {
        let between = self.output_tokens.checked_sub(1).filter(|between| *between > 0)?;
        Some(self.last?.saturating_sub(self.first?) / between)
    }

    /// From when it was due to its end.
    pub fn e2e(&self) -> Option<Duration> {
        (self.end == End::Completed).then(|| self.ended.saturating_sub(self.due))
    }

    pub fn is_completed(&self) -> bool {
        self.end == End::Completed
    }
}

impl Outcome {
    /// What was heard of it; gives back what was said, if that was kept.
    pub fn hear(&mut self, heard: crate::heard::Heard<'_>) -> Option<crate::heard::Said> {
        self.sent = heard.sent.unwrap_or(self.sent);
        self.first = heard.first;
        self.last = heard.last;
        self.longest_gap = heard.longest_gap;
        self.prompt_told = heard.prompt_told;
        self.output_tokens = heard.output_tokens();
        self.cached_tokens = heard.cached_tokens;
        self.timings = heard.timings;
        self.request_id = heard.request_id;
        self.resumed = heard.resumed;
        heard.said
    }
}
