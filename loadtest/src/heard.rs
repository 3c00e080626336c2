//! What a client hears of one answer, and when.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{measure::Recorder, outcome::Timings};

/// Gathers one answer as it comes.
#[derive(Debug)]
pub struct Heard<'a> {
    recorder: &'a Mutex<Recorder>,
    begin: Instant,
    session: Duration,
    class: usize,
    pub sent: Option<Duration>,
    pub first: Option<Duration>,
    pub last: Option<Duration>,
    pub longest_gap: Option<Duration>,
    /// Messages with tokens, or their tokens where they are told.
    pub tokens: u32,
    pub prompt_told: Option<u32>,
    pub output_told: Option<u32>,
    pub cached_tokens: u32,
    pub timings: Option<Timings>,
    pub request_id: Option<String>,
    pub resumed: u32,
    /// What was said, if somebody wants to know.
    pub said: Option<Said>,
}

/// An answer's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub text: String,
    /// Where the protocol tells them.
    pub tokens: Vec<u32>,
}

impl<'a> Heard<'a> {
    /// Of a request whose session was due so long after `begin`. `keeps`: somebody wants to know the words.
    pub fn new(
        recorder: &'a Mutex<Recorder>,
        begin: Instant,
        session: Duration,
        class: usize,
        keeps: bool,
    ) -> Self {
        Heard {
            recorder,
            begin,
            session,
            class,
            sent: None,
            first: None,
            last: None,
            longest_gap: None,
            tokens: 0,
            prompt_told: None,
            output_told: None,
            cached_tokens: 0,
            timings: None,
            request_id: None,
            resumed: 0,
            said: keeps.then(Said::default),
        }
    }

    /// It goes off just now, for the first time.
    pub fn sending(&mut self) {
        self.sent.get_or_insert_with(|| self.begin.elapsed());
    }

    /// A message with so many tokens came just now.
    pub fn tokens(&mut self, tokens: u32) {
        let now = self.begin.elapsed();
        let gap = self.last.map(|last| now.saturating_sub(last));
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.longest_gap = self.longest_gap.max(gap);
        self.tokens += tokens;
        let mut recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        recorder.heard(now, tokens, gap, self.class, self.session);
    }

    /// So many in all, as the server counts them if it does.
    pub fn output_tokens(&self) -> u32 {
        self.output_told.unwrap_or(self.tokens)
    }
}
