//! Who asks for what, and when: drawn from a seed, or recorded. Every target gets the same.

use std::{sync::Arc, time::Duration};

use baton_workload::{
    Arrivals, Conversation, Lengths, Prompt, Segment, Trace,
    random::{Draws, Purpose, draws, mix, unit},
};

/// What to offer.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub load: Load,
    /// At most so many sessions,
    pub requests: Option<u64>,
    /// and none that would begin later.
    pub duration: Option<Duration>,
    pub input: Lengths,
    pub output: Lengths,
    /// Beginnings that prompts share.
    pub shared: Option<Shared>,
    /// Sessions have several turns.
    pub turns: Option<Lengths>,
    /// From an answer's end to the session's next turn.
    pub think: Duration,
    /// Shares of the classes; they needn't add up to 1.
    pub classes: Vec<f64>,
    /// What is said, instead of words that mean nothing to each other.
    pub conversations: Option<Arc<Vec<Conversation>>>,
    pub seed: u64,
}

/// When sessions begin.
#[derive(Clone, Debug)]
pub(crate) enum Load {
    /// Whatever becomes of those before.
    Open(Arrivals),
    /// As recorded, times `stretch`; with the recorded lengths.
    Replay { trace: Arc<Trace>, stretch: f64 },
    /// Each of so many users when the last answer is there.
    Closed { users: u32 },
}

/// Each prompt begins with one of `count` beginnings of so many tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    pub count: u32,
    pub tokens: u32,
}

/// One user's turns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Session {
    /// From 0.
    pub number: u64,
    /// Since the run's begin; with users that wait for each other, as soon as one is free.
    pub due: Duration,
    pub class: usize,
    /// At least one.
    pub turns: Vec<Turn>,
    pub think: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turn {
    pub said: Say,
    pub output: u32,
}

/// What a user says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Say {
    /// So many tokens of text.
    Tokens(Prompt),
    /// A turn of a recorded conversation: its number, and the turn's.
    Recorded(usize, usize),
}

/// Sessions in order.
#[derive(Debug)]
pub(crate) struct Schedule {
    workload: Workload,
    now: Duration,
    number: u64,
    arrivals: Draws,
    lengths: Draws,
    contents: Draws,
    classes: Draws,
}

impl Workload {
    /// Its sessions, the same each time.
    pub(crate) fn schedule(&self) -> Schedule {
        let stream = |purpose| draws(self.seed, purpose);
        Schedule {
            workload: self.clone(),
            now: Duration::ZERO,
            number: 0,
            arrivals: stream(Purpose::Arrivals),
            lengths: stream(Purpose::Lengths),
            contents: stream(Purpose::Contents),
            classes: stream(Purpose::Classes),
        }
    }

    /// When nothing more is due, if that is known.
    pub(crate) fn ends(&self) -> Option<Duration> {
        match &self.load {
            Load::Closed { .. } => self.duration,
            _ => {
                let mut last = Duration::ZERO;
                match (self.duration, self.requests) {
                    (Some(duration), None) => return Some(duration),
                    (None, None) if !matches!(self.load, Load::Replay { .. }) => return None,
                    _ => {}
                }
                let mut schedule = self.schedule();
                while let Some((due, _)) = schedule.arrive() {
                    last = due;
                }
                Some(self.duration.map_or(last, |duration| duration.min(last)))
            }
        }
    }

    /// What comes on average, requests a second; of users who wait for each other nobody knows.
    pub(crate) fn rate(&self) -> Option<f64> {
        match &self.load {
            Load::Open(arrivals) => Some(arrivals.rate()),
            Load::Replay { trace, stretch } => {
                Some(trace.stretch(usize::MAX, Some(1.0)).ok()? / stretch)
            }
            Load::Closed { .. } => None,
        }
    }

    /// The same at another rate, requests a second.
    #[must_use]
    pub(crate) fn at_rate(&self, rate: f64) -> Self {
        let load = match &self.load {
            Load::Open(arrivals) => Load::Open(arrivals.at_rate(rate)),
            Load::Replay { trace, .. } => {
                let count = self.requests.map_or(usize::MAX, |requests| requests as usize);
                let stretch = trace.stretch(count, Some(rate)).unwrap_or(1.0);
                Load::Replay { trace: Arc::clone(trace), stretch }
            }
            Load::Closed { users } => Load::Closed { users: *users },
        };
        Workload { load, ..self.clone() }
    }
}

impl Schedule {
    /// When the next one comes, and what was recorded of it.
    fn arrive(&mut self) -> Option<(Duration, Option<(Prompt, u32)>)> {
        let number = self.number;
        if self.workload.requests.is_some_and(|requests| number >= requests) {
            return None;
        }
        let (due, recorded) = match &self.workload.load {
            Load::Closed { .. } => (Duration::ZERO, None),
            Load::Open(arrivals) => {
                self.now += arrivals.gap(self.now, &mut self.arrivals);
                (self.now, None)
            }
            Load::Replay { trace, stretch } => {
                let request = trace.requests.get(number as usize)?;
                (
                    request.after.mul_f64(*stretch),
                    Some((request.prompt.clone(), request.output_len)),
                )
            }
        };
        if self.workload.duration.is_some_and(|duration| due >= duration) {
            return None;
        }
        self.number += 1;
        Some((due, recorded))
    }

    fn class(&mut self) -> usize {
        let all: f64 = self.workload.classes.iter().sum();
        let mut left = unit(&mut self.classes) * all;
        let found = self.workload.classes.iter().position(|share| {
            left -= share;
            left < 0.0
        });
        found.unwrap_or(self.workload.classes.len().saturating_sub(1))
    }

    fn turns(&mut self, number: u64, recorded: Option<(Prompt, u32)>) -> Vec<Turn> {
        if let Some((prompt, output)) = recorded {
            return vec![Turn { said: Say::Tokens(prompt), output }];
        }
        if let Some(conversations) = &self.workload.conversations {
            let which = (unit(&mut self.contents) * conversations.len() as f64) as usize;
            let turns = conversations[which].turns.len();
            // Their outputs' lengths are told by whoever counts tokens.
            return (0..turns)
                .map(|turn| Turn { said: Say::Recorded(which, turn), output: 0 })
                .collect();
        }
        let turns = self.workload.turns.as_ref().map_or(1, |turns| turns.draw(&mut self.lengths));
        (0..turns).map(|turn| self.turn(number, turn)).collect()
    }

    fn turn(&mut self, number: u64, turn: u32) -> Turn {
        let input = self.workload.input.draw(&mut self.lengths);
        let output = self.workload.output.draw(&mut self.lengths);
        let shared = self.workload.shared.filter(|_| turn == 0).map(|shared| {
            let which = (unit(&mut self.contents) * f64::from(shared.count)) as u64;
            // Something of its own is left to each prompt.
            let tokens = shared.tokens.min(input.saturating_sub(1));
            Segment { content: mix(which) | 1, tokens }
        });
        let own = input - shared.map_or(0, |segment| segment.tokens);
        let name = mix(self.workload.seed) ^ number << 16 ^ u64::from(turn);
        let own = Segment { content: mix(name) & !1, tokens: own };
        Turn { said: Say::Tokens(Prompt::new(shared.into_iter().chain([own]))), output }
    }
}

impl Iterator for Schedule {
    type Item = Session;

    fn next(&mut self) -> Option<Session> {
        let number = self.number;
        let (due, recorded) = self.arrive()?;
        let class = self.class();
        let turns = self.turns(number, recorded);
        Some(Session { number, due, class, turns, think: self.workload.think })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> Workload {
        Workload {
            load: Load::Open(Arrivals::Poisson { rate: 10.0 }),
            requests: Some(1000),
            duration: None,
            input: Lengths::Fixed { tokens: 100 },
            output: Lengths::Fixed { tokens: 10 },
            shared: Some(Shared { count: 4, tokens: 60 }),
            turns: None,
            think: Duration::ZERO,
            classes: vec![3.0, 1.0],
            conversations: None,
            seed: 1,
        }
    }

    #[test]
    fn a_seed_is_a_schedule() {
        let sessions: Vec<_> = workload().schedule().collect();
        assert_eq!(sessions, workload().schedule().collect::<Vec<_>>());
        assert_eq!(sessions.len(), 1000);
        assert_ne!(sessions, Workload { seed: 2, ..workload() }.schedule().collect::<Vec<_>>());
        let first = sessions.iter().filter(|session| session.class == 0).count();
        assert!((700..800).contains(&first), "{first}");
        assert_eq!(workload().ends(), Some(sessions[999].due));
    }

    #[test]
    fn it_is_the_same_at_any_rate_but_for_its_pace() {
        let (slow, fast) = (workload(), workload().at_rate(100.0));
        for (slow, fast) in slow.schedule().zip(fast.schedule()) {
            assert!((slow.due.as_secs_f64() - 10.0 * fast.due.as_secs_f64()).abs() < 1e-5);
            assert_eq!((slow.class, slow.turns), (fast.class, fast.turns));
        }
    }

    #[test]
    fn time_ends_it() {
        let workload =
            Workload { requests: None, duration: Some(Duration::from_secs(5)), ..workload() };
        let last = workload.schedule().last().unwrap();
        assert!(last.due < Duration::from_secs(5) && last.number > 20, "{last:?}");
        assert_eq!(workload.ends(), Some(Duration::from_secs(5)));
    }

    #[test]
    fn sessions_share_their_beginnings_and_nothing_else() {
        let turns = Some(Lengths::Fixed { tokens: 3 });
        let sessions: Vec<_> = Workload { turns, ..workload() }.schedule().take(100).collect();
        let mut shared = std::collections::BTreeSet::new();
        let mut own = std::collections::BTreeSet::new();
        for (nth, turn) in sessions.iter().flat_map(|session| session.turns.iter().enumerate()) {
            let Say::Tokens(prompt) = &turn.said else { panic!("{turn:?}") };
            assert_eq!(prompt.len(), 100);
            let contents: Vec<_> =
                prompt.segments().iter().map(|segment| segment.content).collect();
            assert_eq!(contents.len(), if nth == 0 { 2 } else { 1 });
            if nth == 0 {
                shared.insert(contents[0]);
            }
            assert!(own.insert(*contents.last().unwrap()));
        }
        assert_eq!(shared.len(), 4);
    }
}
