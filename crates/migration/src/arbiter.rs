use std::{collections::VecDeque, time::Duration};

use baton_types::{Epoch, RouterId, Time};

use crate::{FromDestination, FromSource, ToDestination, ToSource};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArbiterConfig {
    /// How long an attempt may take until both sides are ready.
    pub attempt: Duration,
    /// How long a new owner may take to its first token. Shorter than the source's lease.
    pub takeover: Duration,
    /// After how long an order that shows no effect is given again. Over a transport that loses
    /// nothing without saying so it changes nothing.
    pub again: Duration,
}

impl Default for ArbiterConfig {
    fn default() -> Self {
        ArbiterConfig {
            attempt: Duration::from_secs(60),
            takeover: Duration::from_secs(2),
            again: Duration::from_millis(500),
        }
    }
}

/// Another attempt is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sequence is migrating already, under epoch {epoch}")]
pub struct Busy {
    pub epoch: Epoch,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Say this to the source of this attempt,
    ToSource(Epoch, ToSource),
    /// to its destination.
    ToDestination(Epoch, ToDestination),
    /// The attempt is over.
    Ended(Epoch, Ended),
    /// The sequence runs nowhere: it must be placed again, under an epoch of
    /// [`Arbiter::draw`].
    Replay,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The destination runs it.
    Moved,
    /// The source runs it as if nothing had happened.
    Stayed,
    /// It had no pages yet: it is placed again, best at the destination.
    Bare,
    /// Neither has it.
    Lost,
}

/// One sequence's record of who owns it.
///
/// Invariants: one epoch is granted at a time, to one node, and never a second time (`one-owner`);
/// it passes to the destination only when the source has stopped and the destination holds everything,
/// and back only when the source still holds everything (never none).
#[derive(Clone, Debug)]
pub struct Arbiter {
    config: ArbiterConfig,
    router: RouterId,
    /// Whose tokens count.
    owner: Epoch,
    /// The latest that was made.
    last: Epoch,
    attempt: Option<Attempt>,
    /// When the owner came to its node: the source of every attempt after it is that node.
    since: Epoch,
    orders: VecDeque<Order>,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    epoch: Epoch,
    frozen: Option<u32>,
    prepared: Option<u32>,
    /// The destination is the owner; the source, if it lives, still holds everything.
    granted: bool,
    source_lives: bool,
    until: Time,
    again: Time,
}

impl Arbiter {
    /// The record of a sequence that `router` is about to place.
    pub fn new(config: ArbiterConfig, router: RouterId) -> Self {
        let first = Epoch::first(router);
        let (attempt, orders) = (None, VecDeque::new());
        Arbiter { config, router, owner: first, last: first, since: first, attempt, orders }
    }

    /// Whose tokens count.
    pub fn owner(&self) -> Epoch {
        self.owner
    }

    /// A fresh owner, for a placement: whoever else had it has nothing any more. An attempt under way is
    /// over.
    pub fn draw(&mut self) -> Epoch {
        if let Some(Attempt { epoch, .. }) = self.attempt {
            self.drop_destination(epoch);
            self.orders.push_back(Order::ToSource(epoch, ToSource::Release));
            self.end(Ended::Lost);
        }
        self.owner = self.fresh();
        self.since = self.owner;
        self.owner
    }

    /// Begins to move the sequence away from its owner, under a fresh epoch that nobody is granted yet.
    pub fn begin(&mut self, now: Time) -> Result<Epoch, Busy> {
        if let Some(Attempt { epoch, .. }) = self.attempt {
            return Err(Busy { epoch });
        }
        let epoch = self.fresh();
        self.attempt = Some(Attempt {
            epoch,
            frozen: None,
            prepared: None,
            granted: false,
            source_lives: true,
            until: now + self.config.attempt,
            again: now + self.config.again,
        });
        self.ask();
        Ok(epoch)
    }

    /// The epoch of the attempt under way.
    pub fn attempt(&self) -> Option<Epoch> {
        self.attempt.map(|attempt| attempt.epoch)
    }

    /// Gives the attempt up, unless the destination is the owner already.
    pub fn give_up(&mut self) {
        if self.attempt.is_some_and(|attempt| !attempt.granted) {
            self.stay();
        }
    }

    /// The source of `epoch` spoke, or whoever watches it did.
    pub fn from_source(&mut self, now: Time, epoch: Epoch, said: FromSource) {
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.epoch == epoch) else {
            return self.settle_source(epoch, said);
        };
        match said {
            FromSource::Frozen { tokens } => {
                if attempt.frozen.is_none() {
                    // Little was left to send.
                    attempt.until = attempt.until.min(now + self.config.takeover);
                }
                attempt.frozen = Some(tokens);
                self.grant_if_ready(now);
            }
            FromSource::Bare if !attempt.granted => {
                self.orders.push_back(Order::ToSource(epoch, ToSource::Release));
                self.drop_destination(epoch);
                self.end(Ended::Bare);
                self.orders.push_back(Order::Replay);
            }
            FromSource::Gone if !attempt.granted => {
                self.drop_destination(epoch);
                self.end(Ended::Lost);
                self.orders.push_back(Order::Replay);
            }
            FromSource::Bare | FromSource::Gone => attempt.source_lives = false,
        }
    }

    /// The destination of `epoch` spoke, or whoever watches it did.
    pub fn from_destination(&mut self, now: Time, epoch: Epoch, said: FromDestination) {
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.epoch == epoch) else {
            return self.settle_destination(epoch, said);
        };
        match said {
            FromDestination::Prepared { tokens } => {
                attempt.prepared = Some(tokens);
                self.grant_if_ready(now);
            }
            FromDestination::Running if attempt.granted => {
                self.since = epoch;
                self.orders.push_back(Order::ToSource(epoch, ToSource::Release));
                self.end(Ended::Moved);
            }
            FromDestination::Running => {}
            FromDestination::Gone => self.stay(),
        }
    }

    /// Who owns the sequence doesn't any more: it must be placed again.
    pub fn owner_lost(&mut self) {
        match self.attempt {
            Some(Attempt { granted: true, .. }) => self.stay(),
            Some(Attempt { epoch, .. }) => {
                self.drop_destination(epoch);
                self.end(Ended::Lost);
                self.orders.push_back(Order::Replay);
            }
            None => self.orders.push_back(Order::Replay),
        }
    }

    pub fn poll_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Time> {
        self.attempt.map(|attempt| attempt.until.min(attempt.again))
    }

    pub fn handle_timeout(&mut self, now: Time) {
        let Some(attempt) = &mut self.attempt else { return };
        if attempt.until <= now {
            return self.stay();
        }
        if attempt.again <= now {
            attempt.again = now + self.config.again;
            self.ask();
        }
    }

    /// Says what shows no effect yet.
    fn ask(&mut self) {
        let Some(Attempt { epoch, frozen, prepared, granted, .. }) = self.attempt else { return };
        if granted {
            return self.orders.push_back(Order::ToDestination(epoch, ToDestination::Own));
        }
        if frozen.is_none() {
            self.orders.push_back(Order::ToSource(epoch, ToSource::Offer));
        }
        if prepared.is_none() {
            self.orders.push_back(Order::ToDestination(epoch, ToDestination::Prepare));
        }
    }

    /// The one place where a sequence changes hands.
    fn grant_if_ready(&mut self, now: Time) {
        let Some(attempt) = &mut self.attempt else { return };
        if attempt.granted || attempt.frozen.is_none() || attempt.prepared.is_none() {
            return;
        }
        if attempt.frozen != attempt.prepared {
            // Somebody lies; the source has everything.
            return self.stay();
        }
        attempt.granted = true;
        (attempt.until, attempt.again) = (now + self.config.takeover, now + self.config.again);
        self.owner = attempt.epoch;
        self.orders.push_back(Order::ToDestination(self.owner, ToDestination::Own));
    }

    /// The attempt comes to nothing: the source goes on, if it can.
    fn stay(&mut self) {
        let Some(Attempt { epoch, granted, source_lives, .. }) = self.attempt else { return };
        self.drop_destination(epoch);
        if !source_lives {
            self.end(Ended::Lost);
            return self.orders.push_back(Order::Replay);
        }
        if granted {
            // What the destination may still say under the attempt's epoch counts no more.
            self.owner = self.fresh();
        }
        let resume = ToSource::Resume { epoch: self.owner };
        self.orders.push_back(Order::ToSource(epoch, resume));
        self.end(Ended::Stayed);
    }

    /// The source of an attempt that is over still waits for a word.
    fn settle_source(&mut self, epoch: Epoch, said: FromSource) {
        if matches!(said, FromSource::Frozen { .. }) {
            let owns = self.since < epoch && epoch <= self.last;
            let resume = ToSource::Resume { epoch: self.owner };
            let word = if owns { resume } else { ToSource::Release };
            self.orders.push_back(Order::ToSource(epoch, word));
        }
    }

    /// The destination of an attempt that is over hasn't heard so.
    fn settle_destination(&mut self, epoch: Epoch, said: FromDestination) {
        if epoch != self.owner && said != FromDestination::Gone {
            self.drop_destination(epoch);
        }
    }

    fn drop_destination(&mut self, epoch: Epoch) {
        self.orders.push_back(Order::ToDestination(epoch, ToDestination::Drop));
    }

    fn end(&mut self, ended: Ended) {
        let Some(attempt) = self.attempt.take() else { return };
        self.orders.push_back(Order::Ended(attempt.epoch, ended));
    }

    /// Never the same one twice.
    fn fresh(&mut self) -> Epoch {
        self.last = self.last.next(self.router);
        self.last
    }
}
