//! What one target's requests amount to, as they end. Its memory doesn't grow with their number.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    histogram::Histogram,
    slices::{Slice, Slices},
    slowest::Slowest,
};
use crate::{
    outcome::{End, Outcome, Timings, Why},
    slo::{Latency, Objectives},
};

/// What counts: requests whose sessions were due in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub from: Duration,
    pub to: Duration,
}

impl Window {
    pub fn contains(&self, due: Duration) -> bool {
        (self.from..self.to).contains(&due)
    }

    pub fn length(&self) -> Duration {
        self.to.saturating_sub(self.from)
    }
}

#[derive(Clone, Debug)]
pub struct Recorder {
    /// By class.
    objectives: Arc<[Objectives]>,
    window: Window,
    pub slices: Slices,
    /// By class.
    pub classes: Vec<Totals>,
    pub parts: Parts,
    pub slowest: Slowest,
    /// Due before or after what counts.
    pub outside: u64,
    pub lengths: Lengths,
}

/// Of one class's requests, or of all.
#[derive(Clone, Debug)]
pub struct Totals {
    pub offered: u64,
    pub completed: u64,
    pub met: u64,
    pub met_ttft: u64,
    pub met_tpot: u64,
    pub met_e2e: u64,
    pub not_sent: u64,
    pub refused: BTreeMap<String, u64>,
    pub failed: BTreeMap<String, u64>,
    /// What was said the first time, by reason.
    pub examples: BTreeMap<String, String>,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub output_tokens: u64,
    pub resumed: u64,
    pub ttft: Histogram,
    pub tpot: Histogram,
    pub itl: Histogram,
    pub e2e: Histogram,
    pub longest_gap: Histogram,
}

/// Where the server says the time went, of those that it says it of.
#[derive(Clone, Debug)]
pub struct Parts {
    pub late: Histogram,
    pub network: Histogram,
    pub router_queue: Histogram,
    pub prefill_queue: Histogram,
    pub prefill: Histogram,
    pub rest: Histogram,
    pub exposed_transfer: Histogram,
    pub decode_admission: Histogram,
    pub first_decode_step: Histogram,
}

/// Whether prompts and outputs were as long as they were to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// Prompts whose tokens the server told, and that were to have a certain number,
    pub prompts: u64,
    /// those that had it,
    pub exact: u64,
    /// and by how many tokens the worst was off.
    pub worst: u32,
    /// Outputs that were shorter than they were to be.
    pub short: u64,
}

/// Reasons that are told apart; what else there is, is one.
const REASONS: usize = 32;

impl Recorder {
    pub fn new(objectives: Arc<[Objectives]>, window: Window) -> Self {
        let classes = objectives.iter().map(|_| Totals::default()).collect();
        Recorder {
            objectives,
            window,
            slices: Slices::default(),
            classes,
            parts: Parts::default(),
            slowest: Slowest::default(),
            outside: 0,
            lengths: Lengths::default(),
        }
    }

    /// One is on its way.
    pub fn began(&mut self, at: Duration) {
        self.slices.at(at).began += 1;
    }

    /// A message with tokens came, so long after the one before it.
    pub fn heard(
        &mut self,
        at: Duration,
        tokens: u32,
        gap: Option<Duration>,
        class: usize,
        session: Duration,
    ) {
        self.slices.at(at).tokens += u64::from(tokens);
        if let Some(gap) = gap.filter(|_| self.window.contains(session)) {
            self.classes[class].itl.record(gap);
        }
    }

    pub fn ended(&mut self, outcome: &Outcome) {
        self.slices.at(outcome.ended).ended += 1;
        let objectives = self.objectives[outcome.class];
        self.slices.at(outcome.due).hear(outcome, &objectives);
        if !self.window.contains(outcome.session) {
            self.outside += 1;
            return;
        }
        self.classes[outcome.class].hear(outcome, &objectives);
        if outcome.is_completed() {
            self.lengths.hear(outcome);
            self.slowest.hear(outcome);
            if let (Some(timings), Some(ttft)) = (outcome.timings, outcome.ttft()) {
                let late = outcome.sent.saturating_sub(outcome.due);
                self.parts.hear(&timings, ttft, late);
            }
        }
    }

    /// All of the other's, too.
    pub fn add(&mut self, other: Recorder) {
        self.slices.add(other.slices);
        self.classes.iter_mut().zip(&other.classes).for_each(|(own, other)| own.add(other));
        self.parts.add(&other.parts);
        self.slowest.add(other.slowest);
        self.outside += other.outside;
        self.lengths.add(other.lengths);
    }

    /// Of all classes.
    pub fn totals(&self) -> Totals {
        let mut all = Totals::default();
        self.classes.iter().for_each(|class| all.add(class));
        all
    }

    /// The run ended by then.
    pub fn close(&mut self, at: Duration) {
        self.window.to = self.window.to.min(at);
    }

    pub fn window(&self) -> Window {
        self.window
    }
}

impl Slice {
    fn hear(&mut self, outcome: &Outcome, objectives: &Objectives) {
        self.offered += 1;
        self.met += u64::from(objectives.met(outcome));
        self.met_ttft += u64::from(objectives.met_ttft(outcome));
        self.met_tpot += u64::from(objectives.met_tpot(outcome));
        match &outcome.end {
            End::Completed => self.completed += 1,
            End::Refused(_) => self.refused += 1,
            End::Failed(_) | End::NotSent => self.failed += 1,
        }
        if outcome.is_completed() {
            let took = [
                (&mut self.ttft, outcome.ttft()),
                (&mut self.tpot, outcome.tpot()),
                (&mut self.e2e, outcome.e2e()),
            ];
            for (histogram, took) in took {
                took.into_iter().for_each(|took| histogram.record(took));
            }
        }
    }
}

impl Default for Totals {
    fn default() -> Self {
        Totals {
            offered: 0,
            completed: 0,
            met: 0,
            met_ttft: 0,
            met_tpot: 0,
            met_e2e: 0,
            not_sent: 0,
            refused: BTreeMap::new(),
            failed: BTreeMap::new(),
            examples: BTreeMap::new(),
            prompt_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            resumed: 0,
            ttft: Histogram::fine(),
            tpot: Histogram::fine(),
            itl: Histogram::fine(),
            e2e: Histogram::fine(),
            longest_gap: Histogram::fine(),
        }
    }
}

impl Totals {
    fn hear(&mut self, outcome: &Outcome, objectives: &Objectives) {
        self.offered += 1;
        self.met += u64::from(objectives.met(outcome));
        self.met_ttft += u64::from(objectives.met_ttft(outcome));
        self.met_tpot += u64::from(objectives.met_tpot(outcome));
        self.met_e2e += u64::from(objectives.met_e2e(outcome));
        self.output_tokens += u64::from(outcome.output_tokens);
        self.resumed += u64::from(outcome.resumed);
        match &outcome.end {
            End::Completed => {}
            End::Refused(why) => return self.count(true, why),
            End::Failed(why) => return self.count(false, why),
            End::NotSent => {
                self.not_sent += 1;
                return;
            }
        }
        self.completed += 1;
        self.prompt_tokens += u64::from(outcome.prompt_told.or(outcome.prompt_asked).unwrap_or(0));
        self.cached_tokens += u64::from(outcome.cached_tokens);
        let took = [
            (&mut self.ttft, outcome.ttft()),
            (&mut self.tpot, outcome.tpot()),
            (&mut self.e2e, outcome.e2e()),
            (&mut self.longest_gap, outcome.longest_gap),
        ];
        for (histogram, took) in took {
            took.into_iter().for_each(|took| histogram.record(took));
        }
    }

    fn count(&mut self, is_refused: bool, why: &Why) {
        let reasons = if is_refused { &mut self.refused } else { &mut self.failed };
        *place(reasons, &why.reason) += 1;
        if self.examples.len() < REASONS && !self.examples.contains_key(&why.reason) {
            self.examples.insert(why.reason.clone(), why.detail.clone());
        }
    }

    pub fn histogram(&self, latency: Latency) -> &Histogram {
        match latency {
            Latency::Ttft => &self.ttft,
            Latency::Tpot => &self.tpot,
            Latency::Itl => &self.itl,
            Latency::E2e => &self.e2e,
        }
    }

    fn add(&mut self, other: &Totals) {
        let Totals { offered, completed, met, met_ttft, met_tpot, met_e2e, not_sent, .. } = other;
        self.offered += offered;
        self.completed += completed;
        self.met += met;
        self.met_ttft += met_ttft;
        self.met_tpot += met_tpot;
        self.met_e2e += met_e2e;
        self.not_sent += not_sent;
        for (own, other) in [(&mut self.refused, &other.refused), (&mut self.failed, &other.failed)]
        {
            other.iter().for_each(|(reason, times)| *place(own, reason) += times);
        }
        for (reason, example) in &other.examples {
            self.examples.entry(reason.clone()).or_insert_with(|| example.clone());
        }
        self.prompt_tokens += other.prompt_tokens;
        self.cached_tokens += other.cached_tokens;
        self.output_tokens += other.output_tokens;
        self.resumed += other.resumed;
        self.ttft.add(&other.ttft);
        self.tpot.add(&other.tpot);
        self.itl.add(&other.itl);
        self.e2e.add(&other.e2e);
        self.longest_gap.add(&other.longest_gap);
    }
}

fn place<'a>(reasons: &'a mut BTreeMap<String, u64>, reason: &str) -> &'a mut u64 {
    let is_told = reasons.contains_key(reason) || reasons.len() < REASONS;
    reasons.entry(if is_told { reason } else { "others" }.to_owned()).or_default()
}

impl Default for Parts {
    fn default() -> Self {
        Parts {
            late: Histogram::fine(),
            network: Histogram::fine(),
            router_queue: Histogram::fine(),
            prefill_queue: Histogram::fine(),
            prefill: Histogram::fine(),
            rest: Histogram::fine(),
            exposed_transfer: Histogram::fine(),
            decode_admission: Histogram::fine(),
            first_decode_step: Histogram::fine(),
        }
    }
}

impl Parts {
    fn hear(&mut self, timings: &Timings, ttft: Duration, late: Duration) {
        let Split { network, rest } = timings.split(ttft, late);
        for (histogram, took) in [
            (&mut self.late, late),
            (&mut self.network, network),
            (&mut self.router_queue, timings.router_queue),
            (&mut self.prefill_queue, timings.prefill_queue),
            (&mut self.prefill, timings.prefill),
            (&mut self.rest, rest),
            (&mut self.exposed_transfer, timings.exposed_transfer),
            (&mut self.decode_admission, timings.decode_admission),
            (&mut self.first_decode_step, timings.first_decode_step),
        ] {
            histogram.record(took);
        }
    }

    fn add(&mut self, other: &Parts) {
        let Parts { late, network, router_queue, prefill_queue, prefill, rest, .. } = other;
        self.late.add(late);
        self.network.add(network);
        self.router_queue.add(router_queue);
        self.prefill_queue.add(prefill_queue);
        self.prefill.add(prefill);
        self.rest.add(rest);
        self.exposed_transfer.add(&other.exposed_transfer);
        self.decode_admission.add(&other.decode_admission);
        self.first_decode_step.add(&other.first_decode_step);
    }
}

/// What of a time to first token the server's named parts don't explain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Between client and server, both ways.
    pub network: Duration,
    /// In the server, between its parts.
    pub rest: Duration,
}

impl Timings {
    /// Of a time to first token that the client saw, and by which it was sent late.
    pub fn split(&self, ttft: Duration, late: Duration) -> Split {
        let named = self.router_queue + self.prefill_queue + self.prefill;
        Split {
            network: ttft.saturating_sub(late).saturating_sub(self.ttft),
            rest: self.ttft.saturating_sub(named),
        }
    }
}

impl Lengths {
    fn hear(&mut self, outcome: &Outcome) {
        self.short += u64::from(outcome.output_tokens < outcome.output_asked);
        let Some((asked, told)) = outcome.prompt_asked.zip(outcome.prompt_told) else { return };
        self.prompts += 1;
        self.exact += u64::from(asked == told);
        self.worst = self.worst.max(asked.abs_diff(told));
    }

    fn add(&mut self, other: Lengths) {
        self.prompts += other.prompts;
        self.exact += other.exact;
        self.worst = self.worst.max(other.worst);
        self.short += other.short;
    }
}
