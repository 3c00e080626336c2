//! A node's step thread: mail is taken, a step composed and run, its end delivered; then again.

use std::time::Duration;

use baton_scheduler::{Event as Said, Sampled};
use baton_types::{Generation, StepReport, Time, TokenId};
use baton_workload::{
    random::{mix, unit},
    word,
};

use super::{
    Simulation,
    event::{Event, ToRouter},
};
use crate::node::{Command, Followed, Node, Step, Work};

/// How often a step loop that has sequences waiting for memory looks whether somebody gave some
/// back; as in `baton-node`.
const WAITING_FOR_BLOCKS: Duration = Duration::from_millis(2);
/// Steps told of in one heartbeat; as there.
const MAX_REPORTS: usize = 256;

impl Simulation<'_> {
    /// There is mail: an idle step loop takes it at once.
    pub(super) fn mail(&mut self, node: usize, command: Command) {
        self.nodes[node].mailbox.push_back(command);
        self.wake_at(node, self.now);
    }

    /// Blocks were given back outside the step loop.
    pub(super) fn blocks_freed(&mut self, node: usize) {
        let Node { starved, step, .. } = &self.nodes[node];
        let (Some(since), None) = (*starved, step) else { return };
        let period = WAITING_FOR_BLOCKS.as_nanos() as u64;
        let looks = self.now.since(since).as_nanos() as u64 / period + 1;
        self.wake_at(node, since + Duration::from_nanos(looks * period));
    }

    pub(super) fn wake(&mut self, node: usize, generation: Generation) {
        if !self.is_alive(node, generation) || self.nodes[node].wakes_at != Some(self.now) {
            return;
        }
        self.nodes[node].wakes_at = None;
        if self.nodes[node].step.is_none() {
            self.go_round(node);
        }
    }

    pub(super) fn step_end(&mut self, node: usize, generation: Generation) {
        if !self.is_alive(node, generation) {
            return;
        }
        let Some(Step { duration, shape, .. }) = self.nodes[node].step.take() else { return };
        self.pages_done(node);
        let Node { stats, reports, .. } = &mut self.nodes[node];
        stats.steps += 1;
        stats.busy += duration;
        if reports.len() == MAX_REPORTS {
            reports.pop_front();
        }
        reports.push_back(StepReport { shape, duration });
        let mut said = std::mem::take(&mut self.said);
        let mut sampled = std::mem::take(&mut self.sampled);
        self.sample(node, &mut sampled);
        self.nodes[node].scheduler.complete(self.now, &sampled, &mut said);
        self.sampled = sampled;
        self.deliver(node, &mut said, duration);
        self.said = said;
        self.go_round(node);
    }

    /// Takes mail, composes a step and begins it.
    fn go_round(&mut self, node: usize) {
        let now = self.now;
        while let Some(command) = self.nodes[node].mailbox.pop_front() {
            match command {
                Command::Submit(submission) => {
                    let (key, epoch) = (submission.spec.key, submission.spec.epoch);
                    let taken = self.nodes[node].scheduler.submit(self.now, *submission);
                    if let Err(refusal) = taken {
                        self.not_taken(node, key, epoch, &refusal);
                    }
                }
                Command::Cancel { key, epoch } => {
                    self.nodes[node].scheduler.cancel(key, epoch);
                }
                Command::Look(moving) => self.look(node, moving),
                Command::Freeze(moving) => self.freeze(node, moving),
                Command::Thaw { key, epoch } => self.thaw(node, key, epoch),
                Command::Leave(moving) => {
                    let at = now + self.links.router_latency;
                    self.queue.push(at, Event::ToRouter(Box::new(ToRouter::Left { moving })));
                }
                Command::Release { moving, epoch } => {
                    let scheduler = &mut self.nodes[node].scheduler;
                    scheduler.release(moving.key, epoch, moving.attempt);
                }
            }
        }
        let mut said = std::mem::take(&mut self.said);
        let composed = self.nodes[node].scheduler.compose(now, &mut said);
        self.deliver(node, &mut said, Duration::ZERO);
        self.said = said;
        let state = &mut self.nodes[node];
        state.load = state.scheduler.load();
        state.stats.holds(now, state.cache.usage().held);
        if composed {
            self.begin_step(node);
        } else {
            self.sleep(node);
        }
    }

    fn begin_step(&mut self, node: usize) {
        let now = self.now;
        let spread = self.nodes[node].noise;
        let factor =
            if spread > 0.0 { self.noise(spread) } else { 1.0 } * self.nodes[node].slowness;
        let state = &mut self.nodes[node];
        let shape = state.scheduler.step_shape();
        let mut duration = state.profile.step(&shape);
        if factor != 1.0 {
            duration = duration.mul_f64(factor);
        }
        state.starved = None;
        state.step = Some(Step { number: state.stats.steps, started: now, duration, shape });
        let Node { scheduler, followed, prefills, work, generation, .. } = state;
        followed.clear();
        if *work == Work::Prefill {
            scheduler.with_sequences(|sequences| {
                let follow = sequences
                    .iter()
                    .filter(|s| prefills.get(&s.key).is_some_and(|p| p.offer.is_some()));
                followed.extend(
                    follow.map(|s| Followed { key: s.key, after: s.start + s.tokens.len() as u32 }),
                );
            });
        }
        self.queue.push(now + duration, Event::StepEnd { node, generation: *generation });
        self.follow_step(node);
    }

    /// Nothing can be computed: until a message, a deadline, or blocks come back.
    fn sleep(&mut self, node: usize) {
        let now = self.now;
        let state = &mut self.nodes[node];
        state.starved = (state.scheduler.load().waiting > 0).then_some(now);
        if let Some(deadline) = state.scheduler.next_deadline() {
            self.wake_at(node, deadline.max(now));
        }
    }

    fn wake_at(&mut self, node: usize, at: Time) {
        let state = &mut self.nodes[node];
        if state.step.is_some() || state.wakes_at.is_some_and(|other| other <= at) {
            return;
        }
        state.wakes_at = Some(at);
        self.queue.push(at, Event::Wake { node, generation: state.generation });
    }

    /// What the engine would have sampled: made up, but for the last token of each output.
    fn sample(&mut self, node: usize, sampled: &mut Vec<Sampled>) {
        sampled.clear();
        let (live, vocab) = (&self.live, self.scenario.cluster.model.vocab);
        self.nodes[node].scheduler.with_sequences(|sequences| {
            sampled.extend(sequences.iter().filter_map(|sequence| {
                let index = sequence.sample?.index;
                let number = sequence.key.request.0 as u64;
                let last = live.get(&number).is_none_or(|live| live.is_last(index));
                let token =
                    if last { stop_token(vocab) } else { output_token(number, index, vocab) };
                Some(Sampled { key: sequence.key, token, logits_digest: 0, logprobs: None })
            }));
        });
    }

    fn deliver(&mut self, node: usize, said: &mut Vec<Said>, step: Duration) {
        let work = self.nodes[node].work;
        for event in said.drain(..) {
            match work {
                Work::Prefill => self.prefill_said(node, event),
                Work::Decode | Work::Both => self.decode_said(node, event, step),
            }
        }
    }

    /// By how much a step's duration is multiplied; 1 in the mean.
    fn noise(&mut self, spread: f64) -> f64 {
        // The sum of three uniforms: bell-shaped and bounded, so no step is negative or endless.
        let bell: f64 = (0..3).map(|_| unit(&mut self.noise_draws) * 2.0 - 1.0).sum();
        (1.0 + spread * bell).max(0.05)
    }
}

/// Ends a sequence.
pub(super) fn stop_token(vocab: u32) -> TokenId {
    TokenId(vocab - 1)
}

/// What `number`'s request says at `index`.
pub(super) fn output_token(number: u64, index: u32, vocab: u32) -> TokenId {
    word(mix(number ^ (1 << 63)).wrapping_add(u64::from(index)), vocab)
}
