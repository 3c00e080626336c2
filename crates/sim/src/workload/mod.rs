//! What is asked of the cluster: requests with their arrival, prompt, output length and targets.
//!
//! # Where do requests come from?
//!
//! From a recorded [`Trace`], at its own pace or scaled to another rate, or from [`Arrivals`] and
//! [`Lengths`] drawn from the seed. Either way they come one by one, in order of arrival.
//!
//! # What of requests that are longer than the model's context?
//!
//! [`OverContext`] says: they are offered as they are, and the router refuses them, which counts
//! against attainment (the default: it is what would happen); or their prompts lose their ends until
//! they fit; or they are left out. Reports count how many there were.

mod slo;

use std::{sync::Arc, time::Duration};

use baton_types::{Slo, Time};
use baton_workload::random::{Draws, Purpose, draws, mix, unit};
pub use baton_workload::{
    Arrivals, Lengths, Prompt, Segment, Trace, TraceError, TraceFormat, TraceRequest, WorkloadError,
};
use serde::{Deserialize, Serialize};

pub use self::slo::SloConfig;

/// One request to come.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub at: Time,
    pub prompt: Prompt,
    /// How many tokens it will generate; at least one. The cluster doesn't know.
    pub output_len: u32,
    /// How many it may, as the cluster is told.
    pub max_tokens: u32,
    pub slo: Slo,
    /// Of its class.
    pub priority: u8,
}

/// Requests and when they come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkloadConfig {
    /// Requests offered. A trace that is shorter ends earlier.
    pub requests: u64,
    pub arrivals: Arrivals,
    pub prompt: Lengths,
    pub output: Lengths,
    /// The most tokens requests ask for. Left out: exactly as many as they will generate.
    pub max_tokens: Option<u32>,
    /// So many different beginnings are shared by the prompts; 0: none is.
    pub shared_prefixes: u32,
    /// Tokens of a shared beginning.
    pub shared_tokens: u32,
    pub over_context: OverContext,
    /// The share of requests of a class above the others'.
    pub high_share: f64,
    /// A trace's requests are moved together or apart until they come at this mean rate. Left out:
    /// as recorded.
    pub trace_rate: Option<f64>,
}

/// What becomes of requests over the context limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverContext {
    /// They are offered; the router refuses them.
    #[default]
    Refuse,
    /// The prompt loses its end; if the output alone is too long, it does too.
    Truncate,
    /// They are not offered.
    Skip,
}

impl Default for WorkloadConfig {
    /// ShareGPT's mean lengths.
    fn default() -> Self {
        WorkloadConfig {
            requests: 1000,
            arrivals: Arrivals::Poisson { rate: 4.0 },
            prompt: Lengths::Lognormal { mean: 755.0, cv: 1.0, max: 4096 },
            output: Lengths::Lognormal { mean: 200.0, cv: 1.0, max: 1024 },
            max_tokens: None,
            shared_prefixes: 0,
            shared_tokens: 0,
            over_context: OverContext::Refuse,
            high_share: 0.0,
            trace_rate: None,
        }
    }
}

impl WorkloadConfig {
    /// Refuses numbers nothing can be drawn from.
    pub fn validate(&self) -> Result<(), WorkloadError> {
        if self.requests == 0 {
            let must = "at least 1";
            return Err(WorkloadError::Value { name: "workload.requests", given: 0.0, must });
        }
        self.arrivals.validate()?;
        self.prompt.validate("workload.prompt", "prompt")?;
        self.output.validate("workload.output", "output")?;
        if let Some(given) = self.trace_rate.filter(|rate| !(*rate > 0.0 && rate.is_finite())) {
            let must = "a number above 0";
            return Err(WorkloadError::Value { name: "workload.trace_rate", given, must });
        }
        if !(0.0..=1.0).contains(&self.high_share) {
            let (name, given) = ("workload.high_share", self.high_share);
            return Err(WorkloadError::Value { name, given, must: "a share, from 0 to 1" });
        }
        if self.max_tokens == Some(0) {
            let must = "at least 1";
            return Err(WorkloadError::Value { name: "workload.max_tokens", given: 0.0, must });
        }
        Ok(())
    }
}

/// The requests of a scenario, drawn as they are asked for.
#[derive(Debug)]
pub struct Workload {
    config: WorkloadConfig,
    slo: SloConfig,
    max_context: u32,
    source: Source,
    left: u64,
    over_context: u64,
    classes: Draws,
}

#[derive(Debug)]
enum Source {
    Drawn(Box<Drawn>),
    Replayed { trace: Arc<Trace>, next: usize, stretch: f64 },
}

#[derive(Debug)]
struct Drawn {
    now: Duration,
    arrivals: Draws,
    lengths: Draws,
    contents: Draws,
    number: u64,
}

impl Workload {
    /// Draws from `seed`, or replays `trace`.
    pub fn new(
        config: &WorkloadConfig,
        slo: SloConfig,
        max_context: u32,
        trace: Option<&Arc<Trace>>,
        seed: u64,
    ) -> Result<Self, WorkloadError> {
        config.validate()?;
        let source = match trace {
            None => Source::Drawn(Box::new(Drawn {
                now: Duration::ZERO,
                arrivals: draws(seed, Purpose::Arrivals),
                lengths: draws(seed, Purpose::Lengths),
                contents: draws(seed, Purpose::Contents),
                number: 0,
            })),
            Some(trace) => {
                let used = usize::try_from(config.requests).unwrap_or(usize::MAX);
                let stretch = trace.stretch(used, config.trace_rate)?;
                Source::Replayed { trace: Arc::clone(trace), next: 0, stretch }
            }
        };
        let (left, config) = (config.requests, config.clone());
        let classes = draws(seed, Purpose::Classes);
        Ok(Workload { config, slo, max_context, source, left, over_context: 0, classes })
    }

    /// How many requests so far were longer than the context.
    pub fn over_context(&self) -> u64 {
        self.over_context
    }

    fn draw(&mut self) -> Option<(Time, Prompt, u32)> {
        self.left = self.left.checked_sub(1)?;
        match &mut self.source {
            Source::Drawn(drawn) => Some(drawn.next(&self.config)),
            Source::Replayed { trace, next, stretch } => {
                let request = trace.requests.get(*next)?;
                *next += 1;
                let at = Time::ZERO + request.after.mul_f64(*stretch);
                Some((at, request.prompt.clone(), request.output_len))
            }
        }
    }
}

impl Iterator for Workload {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        loop {
            let (at, mut prompt, mut output_len) = self.draw()?;
            let max_context = u64::from(self.max_context);
            if u64::from(prompt.len()) + u64::from(output_len) > max_context {
                self.over_context += 1;
                match self.config.over_context {
                    OverContext::Refuse => {}
                    OverContext::Skip => continue,
                    OverContext::Truncate => {
                        output_len = output_len.min(self.max_context.saturating_sub(1)).max(1);
                        prompt.truncate(self.max_context.saturating_sub(output_len).max(1));
                    }
                }
            }
            let room = self.max_context.saturating_sub(prompt.len());
            let asked = self.config.max_tokens.map(|max| max.min(room));
            let max_tokens = asked.unwrap_or(output_len).max(output_len);
            let slo = self.slo.of(prompt.len());
            let high = self.config.high_share;
            let priority = u8::from(high > 0.0 && unit(&mut self.classes) < high);
            return Some(Request { at, prompt, output_len, max_tokens, slo, priority });
        }
    }
}

impl Drawn {
    fn next(&mut self, config: &WorkloadConfig) -> (Time, Prompt, u32) {
        self.now += config.arrivals.gap(self.now, &mut self.arrivals);
        let prompt_len = config.prompt.draw(&mut self.lengths);
        let output_len = config.output.draw(&mut self.lengths);
        self.number += 1;
        let shared = match config.shared_prefixes {
            0 => None,
            count => {
                let which = (unit(&mut self.contents) * f64::from(count)) as u64;
                let tokens = config.shared_tokens.min(prompt_len.saturating_sub(1));
                Some(Segment { content: mix(which) | 1, tokens })
            }
        };
        let own = prompt_len - shared.map_or(0, |segment| segment.tokens);
        let own = Segment { content: mix(self.number) & !1, tokens: own };
        let prompt = Prompt::new(shared.into_iter().chain([own]));
        (Time::ZERO + self.now, prompt, output_len)
    }
}

#[cfg(test)]
mod tests;
