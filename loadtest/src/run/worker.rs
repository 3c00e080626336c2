//! Plays sessions: one thread with a runtime of its own, so that workers share no locks.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Class, Side, pacer::Job, records::Records};
use crate::{
    heard::Heard,
    measure::{Histogram, Recorder, Window},
    outcome::{End, Outcome, Why},
    schedule::{Load, Schedule, Session},
    target::{Ask, Message, Target},
};

/// What a worker shares with nobody, but for those who look at it.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) begin: Instant,
    pub(super) sides: Arc<[Side]>,
    /// By side.
    pub(super) targets: Vec<Target>,
    pub(super) classes: Arc<[Class]>,
    /// By side.
    pub(super) recorders: Vec<Mutex<Recorder>>,
    pub(super) health: Mutex<Health>,
    pub(super) records: Option<Arc<Records>>,
    pub(super) most_in_flight: usize,
    /// What counts.
    pub(super) window: Window,
    pub(super) run: String,
    pub(super) seed: u64,
    pub(super) stop: CancellationToken,
}

/// How the client itself is.
#[derive(Clone, Debug)]
pub struct Health {
    /// By how much requests that count were sent late.
    pub late: Histogram,
    /// How long a worker's thread took to hear of something.
    pub lag: Histogram,
    /// Of the busiest worker's time.
    pub cpu: f64,
    /// Cut off when the run was stopped.
    pub unfinished: u64,
    pub most_in_flight: usize,
}

impl Default for Health {
    fn default() -> Self {
        let empty = Histogram::fine;
        Health { late: empty(), lag: empty(), cpu: 0.0, unfinished: 0, most_in_flight: 0 }
    }
}

impl Health {
    pub(super) fn add(&mut self, other: &Health) {
        self.late.add(&other.late);
        self.lag.add(&other.lag);
        self.cpu = self.cpu.max(other.cpu);
        self.unfinished += other.unfinished;
        self.most_in_flight += other.most_in_flight;
    }
}

impl Worker {
    /// Plays what comes, to its end.
    pub(super) async fn work(self: Arc<Self>, mut jobs: mpsc::Receiver<Job>) {
        let mut playing = JoinSet::new();
        loop {
            tokio::select! {
                job = jobs.recv() => match job {
                    None => break,
                    Some(Job::Tick(sent)) => {
                        self.health().lag.record(sent.elapsed());
                        self.targets.iter().for_each(Target::tick);
                    }
                    Some(Job::Session(session)) => {
                        for side in 1..self.sides.len() {
                            playing.spawn(Arc::clone(&self).play(side, session.clone()));
                        }
                        playing.spawn(Arc::clone(&self).play(0, session));
                    }
                },
                Some(_ended) = playing.join_next() => {}
            }
        }
        while playing.join_next().await.is_some() {}
    }

    /// Users who each wait for their answers. `schedules` are by side.
    pub(super) async fn users(
        self: Arc<Self>,
        users: u32,
        schedules: Vec<Arc<Mutex<Schedule>>>,
        until: Option<Duration>,
    ) {
        let mut playing = JoinSet::new();
        for (side, schedule) in schedules.iter().enumerate() {
            for _ in 0..users {
                let (worker, schedule) = (Arc::clone(&self), Arc::clone(schedule));
                playing.spawn(async move {
                    loop {
                        let due = worker.begin.elapsed();
                        let is_over =
                            until.is_some_and(|until| due >= until) || worker.stop.is_cancelled();
                        let next =
                            || schedule.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some(session) = (!is_over).then(next).flatten() else { return };
                        Arc::clone(&worker).play(side, Session { due, ..session }).await;
                    }
                });
            }
        }
        while playing.join_next().await.is_some() {}
    }

    /// One user's turns at one target.
    async fn play(self: Arc<Self>, side: usize, session: Session) {
        let of = &self.sides[side];
        let mut messages: Vec<Message> = Vec::new();
        let mut due = session.due;
        let turns = session.turns.len();
        for (nth, turn) in session.turns.iter().enumerate() {
            let spoken = of.speaker.speak(turn, nth);
            messages.push(of.speaker.user(spoken.text));
            let is_last = nth + 1 == turns;
            let ask = Ask {
                messages: if is_last { std::mem::take(&mut messages) } else { messages.clone() },
                output: spoken.output,
                seed: self.seed ^ session.number,
                class: self.classes[session.class].name.clone(),
                objectives: self.classes[session.class].objectives,
                name: format!("{}-{}.{nth}", self.run, session.number),
            };
            let blank = self.blank(&session, nth as u32, due, ask.output, spoken.prompt_tokens);
            let said = self.ask(side, ask, blank, !is_last).await;
            // Nobody thinks about what isn't gone on with.
            let Some(said) = said.filter(|_| !is_last) else { return };
            messages.push(Message { role: "assistant", content: said });
            tokio::time::sleep(session.think).await;
            due = self.begin.elapsed();
        }
    }

    fn blank(
        &self,
        session: &Session,
        turn: u32,
        due: Duration,
        output: u32,
        prompt: Option<u32>,
    ) -> Outcome {
        let now = self.begin.elapsed();
        Outcome {
            number: session.number,
            session: session.due,
            turn,
            class: session.class,
            due,
            sent: now,
            first: None,
            last: None,
            ended: now,
            longest_gap: None,
            end: End::NotSent,
            prompt_asked: prompt,
            output_asked: output,
            prompt_told: None,
            output_tokens: 0,
            cached_tokens: 0,
            timings: None,
            request_id: None,
            resumed: 0,
        }
    }

    /// Asks, and records what came of it. What was said, if there is to be another turn.
    async fn ask(
        &self,
        side: usize,
        ask: Ask,
        mut outcome: Outcome,
        is_followed: bool,
    ) -> Option<String> {
        let of = &self.sides[side];
        let guard = InFlight::enter(&of.in_flight);
        self.note(side, &outcome, guard.count);
        if guard.count > self.most_in_flight {
            self.record(side, &outcome);
            return None;
        }
        let keeps = is_followed || of.transcript.is_some();
        let mut heard =
            Heard::new(&self.recorders[side], self.begin, outcome.session, outcome.class, keeps);
        let answered = tokio::select! {
            biased;
            answered = self.targets[side].ask(ask, &mut heard) => answered,
            () = self.stop.cancelled() => {
                self.health().unfinished += 1;
                return None;
            }
        };
        drop(guard);
        outcome.ended = self.begin.elapsed();
        outcome.end = match answered {
            Ok(()) if heard.first.is_none() => {
                let detail = "the answer has no tokens".to_owned();
                End::Failed(Why { reason: "no tokens".to_owned(), detail })
            }
            Ok(()) => End::Completed,
            Err(failure) => failure.end(),
        };
        let said = outcome.hear(heard);
        if self.window.contains(outcome.session) {
            self.health().late.record(outcome.sent.saturating_sub(outcome.due));
        }
        self.record(side, &outcome);
        let said = said?;
        if let Some(transcript) = &of.transcript {
            transcript.hear(&outcome, &said);
        }
        outcome.is_completed().then_some(said.text)
    }

    /// It is about to be sent.
    fn note(&self, side: usize, outcome: &Outcome, in_flight: usize) {
        let mut health = self.health();
        health.most_in_flight = health.most_in_flight.max(in_flight);
        drop(health);
        self.recorder(side).began(outcome.sent);
    }

    fn record(&self, side: usize, outcome: &Outcome) {
        self.recorder(side).ended(outcome);
        if let Some(records) = &self.records {
            records.write(
                &self.sides[side].name,
                self.classes[outcome.class].name.as_deref(),
                outcome,
            );
        }
    }

    fn recorder(&self, side: usize) -> std::sync::MutexGuard<'_, Recorder> {
        self.recorders[side].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One more on its way, until it is dropped.
struct InFlight<'a> {
    all: &'a AtomicUsize,
    count: usize,
}

impl<'a> InFlight<'a> {
    fn enter(all: &'a AtomicUsize) -> Self {
        InFlight { all, count: all.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many users each of so many workers has.
pub(super) fn share(load: &Load, worker: u32, workers: u32) -> Option<u32> {
    let Load::Closed { users } = load else { return None };
    Some(users / workers + u32::from(worker < users % workers))
}
