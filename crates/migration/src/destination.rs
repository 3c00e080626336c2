use std::{collections::VecDeque, time::Duration};

use baton_types::{Epoch, Time};

use crate::{FromDestination, ToDestination};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestinationConfig {
    /// How long the pages may take to come; longer than the arbiter waits.
    pub attempt: Duration,
    /// How long whoever holds everything waits for the arbiter's word.
    pub lease: Duration,
    /// After how long it asks for it again.
    pub again: Duration,
}

impl Default for DestinationConfig {
    fn default() -> Self {
        DestinationConfig {
            attempt: Duration::from_secs(90),
            lease: Duration::from_secs(10),
            again: Duration::from_millis(500),
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationOrder {
    /// Reserve and pull; tell by [`Destination::pulled`].
    Pull,
    Tell(FromDestination),
    /// Put the sequence into the batch; tell by [`Destination::began`].
    Run,
    /// Give everything back; also what already runs.
    Abandon,
}

/// One attempt to move a sequence to this node.
///
/// Invariants: nothing runs before the arbiter's word (`one-owner`), and what is held is given back by
/// its word, or when it was silent for a lease (`no-leak`).
#[derive(Clone, Debug)]
pub struct Destination {
    config: DestinationConfig,
    attempt: Epoch,
    state: State,
    orders: VecDeque<DestinationOrder>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Pulling { until: Time },
    Prepared { tokens: u32, lease: Time, again: Time },
    Running { began: bool },
    Over,
}

impl Destination {
    pub fn new(config: DestinationConfig, now: Time, attempt: Epoch) -> Self {
        let orders = VecDeque::from([DestinationOrder::Pull]);
        let state = State::Pulling { until: now + config.attempt };
        Destination { config, attempt, state, orders }
    }

    pub fn attempt(&self) -> Epoch {
        self.attempt
    }

    /// The sequence runs, or nothing is left of it here.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Running { .. } | State::Over) && self.orders.is_empty()
    }

    /// The pages of so many tokens are here, and the sequence has one more; or they won't come.
    pub fn pulled(&mut self, now: Time, cached: Option<u32>) {
        if !matches!(self.state, State::Pulling { .. }) {
            return;
        }
        let Some(cached) = cached else { return self.end() };
        let tokens = cached + 1;
        let (lease, again) = (now + self.config.lease, now + self.config.again);
        self.state = State::Prepared { tokens, lease, again };
        self.orders.push_back(DestinationOrder::Tell(FromDestination::Prepared { tokens }));
    }

    /// The sequence made its first token here.
    pub fn began(&mut self) {
        if let State::Running { began } = &mut self.state
            && !std::mem::replace(began, true)
        {
            self.orders.push_back(DestinationOrder::Tell(FromDestination::Running));
        }
    }

    /// The arbiter spoke.
    pub fn hears(&mut self, attempt: Epoch, word: ToDestination) {
        if attempt != self.attempt {
            return;
        }
        match (word, self.state) {
            (ToDestination::Own, State::Prepared { .. }) => {
                self.state = State::Running { began: false };
                self.orders.push_back(DestinationOrder::Run);
            }
            // It wasn't heard.
            (ToDestination::Own, State::Running { began: true }) => {
                self.orders.push_back(DestinationOrder::Tell(FromDestination::Running));
            }
            (
                ToDestination::Drop,
                State::Pulling { .. } | State::Prepared { .. } | State::Running { .. },
            ) => {
                self.state = State::Over;
                self.orders.clear();
                self.orders.push_back(DestinationOrder::Abandon);
            }
            _ => {}
        }
    }

    pub fn poll_order(&mut self) -> Option<DestinationOrder> {
        self.orders.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Time> {
        match self.state {
            State::Pulling { until } => Some(until),
            State::Prepared { lease, again, .. } => Some(lease.min(again)),
            State::Running { .. } | State::Over => None,
        }
    }

    pub fn handle_timeout(&mut self, now: Time) {
        match &mut self.state {
            State::Pulling { until } if *until <= now => self.end(),
            State::Prepared { lease, .. } if *lease <= now => self.end(),
            State::Prepared { tokens, again, .. } if *again <= now => {
                *again = now + self.config.again;
                let tokens = *tokens;
                let told = FromDestination::Prepared { tokens };
                self.orders.push_back(DestinationOrder::Tell(told));
            }
            _ => {}
        }
    }

    /// It won't run here.
    fn end(&mut self) {
        self.state = State::Over;
        self.orders.push_back(DestinationOrder::Abandon);
        self.orders.push_back(DestinationOrder::Tell(FromDestination::Gone));
    }
}
