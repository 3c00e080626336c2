use std::{collections::VecDeque, time::Duration};

use baton_types::{Epoch, Time};

use crate::{FromSource, ToSource};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceConfig {
    /// Tokens of a block.
    pub block_tokens: u32,
    /// The most full blocks that are sent after the sequence has left the batch.
    pub tail_blocks: u32,
    /// How long its pages are offered while it runs; longer than the arbiter waits.
    pub attempt: Duration,
    /// How long a sequence that has left the batch waits for the arbiter's word.
    pub lease: Duration,
    /// After how long it asks for it again.
    pub again: Duration,
}

impl SourceConfig {
    pub fn new(block_tokens: u32) -> Self {
        SourceConfig {
            block_tokens,
            tail_blocks: 1,
            attempt: Duration::from_secs(90),
            lease: Duration::from_secs(10),
            again: Duration::from_millis(500),
        }
    }
}

/// How the sequence stands at a step's boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It decodes, with so many tokens in the cache.
    Decoding { cached: u32 },
    /// Its prompt is being computed, so far to here; or its tokens are, after a preemption.
    Computing { cached: u32 },
    /// It has no pages.
    Waiting,
    /// It isn't here.
    Gone,
}

impl Standing {
    /// Of a sequence that is here, with so many tokens in the cache if it has a place there.
    pub fn here(has_place: bool, is_decoding: bool, cached: u32) -> Self {
        match (has_place, is_decoding) {
            (false, _) => Standing::Waiting,
            (true, true) => Standing::Decoding { cached },
            (true, false) => Standing::Computing { cached },
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceOrder {
    /// Look how the sequence stands, and tell by [`Source::stands`].
    Look,
    /// The pages of so many tokens are final: offer them, and tell by [`Source::sent`] when they are
    /// sent.
    Offer {
        tokens: u32,
    },
    /// Take the sequence out of the batch at the next boundary, and tell by [`Source::frozen`].
    Freeze,
    /// Offer the last page too: the sequence has so many tokens in the cache.
    Last {
        cached: u32,
    },
    Tell(FromSource),
    /// Put the sequence back into the batch, under this epoch.
    Thaw {
        epoch: Epoch,
    },
    /// End the sequence here and give its blocks back; if it still runs, leave it alone.
    Release,
}

/// One attempt to move a sequence away from this node.
///
/// Invariants: a frozen sequence runs again only by the arbiter's word; it is given up only by the
/// arbiter's word or when that was silent for a lease (`no-leak`).
#[derive(Clone, Debug)]
pub struct Source {
    config: SourceConfig,
    attempt: Epoch,
    state: State,
    /// When it ends, unless the sequence is frozen by then.
    until: Time,
    orders: VecDeque<SourceOrder>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Looking {
        sent: u32,
    },
    /// Full blocks are on their way.
    Sending {
        blocks: u32,
    },
    /// With what the arbiter said meanwhile.
    Freezing {
        word: Option<ToSource>,
    },
    Frozen {
        tokens: u32,
        lease: Time,
        again: Time,
    },
    Over,
}

impl Source {
    pub fn new(config: SourceConfig, now: Time, attempt: Epoch) -> Self {
        let orders = VecDeque::from([SourceOrder::Look]);
        let until = now + config.attempt;
        Source { config, attempt, state: State::Looking { sent: 0 }, until, orders }
    }

    pub fn attempt(&self) -> Epoch {
        self.attempt
    }

    /// Nothing more will happen.
    pub fn is_over(&self) -> bool {
        self.state == State::Over && self.orders.is_empty()
    }

    /// How the sequence stands, after [`SourceOrder::Look`].
    pub fn stands(&mut self, standing: Standing) {
        let State::Looking { sent } = self.state else { return };
        let block_tokens = self.config.block_tokens;
        let offer = |cached: u32| {
            let blocks = cached / block_tokens;
            (State::Sending { blocks }, SourceOrder::Offer { tokens: blocks * block_tokens })
        };
        let (state, order) = match standing {
            Standing::Decoding { cached } => match cached / block_tokens {
                // The puller is there, and little is left.
                blocks if sent > 0 && blocks <= sent - 1 + self.config.tail_blocks => {
                    (State::Freezing { word: None }, SourceOrder::Freeze)
                }
                _ => offer(cached),
            },
            Standing::Computing { cached } => offer(cached),
            Standing::Waiting => (State::Over, SourceOrder::Tell(FromSource::Bare)),
            Standing::Gone => (State::Over, SourceOrder::Tell(FromSource::Gone)),
        };
        self.state = state;
        self.orders.push_back(order);
    }

    /// So many blocks have been sent since the puller came.
    pub fn sent(&mut self, blocks: u32) {
        if matches!(self.state, State::Sending { blocks: wanted } if blocks >= wanted) {
            // One more than the blocks, so that none is something.
            self.state = State::Looking { sent: blocks + 1 };
            self.orders.push_back(SourceOrder::Look);
        }
    }

    /// The sequence has left the batch with so many tokens, all but the last of them in the cache; none if
    /// it couldn't, for it wasn't decoding any more.
    pub fn frozen(&mut self, now: Time, tokens: Option<u32>) {
        let State::Freezing { word } = self.state else { return };
        let Some(tokens) = tokens else {
            self.state = State::Looking { sent: 0 };
            self.orders.push_back(SourceOrder::Look);
            return word.into_iter().for_each(|word| self.hears(self.attempt, word));
        };
        let (lease, again) = (now + self.config.lease, now + self.config.again);
        self.state = State::Frozen { tokens, lease, again };
        if let Some(word) = word {
            return self.hears(self.attempt, word);
        }
        self.orders.push_back(SourceOrder::Last { cached: tokens.saturating_sub(1) });
        self.orders.push_back(SourceOrder::Tell(FromSource::Frozen { tokens }));
    }

    /// The arbiter spoke.
    pub fn hears(&mut self, attempt: Epoch, word: ToSource) {
        if attempt != self.attempt || self.state == State::Over {
            return;
        }
        match word {
            ToSource::Offer => {}
            _ if matches!(self.state, State::Freezing { .. }) => {
                self.state = State::Freezing { word: Some(word) };
            }
            ToSource::Resume { epoch } => self.end(SourceOrder::Thaw { epoch }),
            ToSource::Release => self.end(SourceOrder::Release),
        }
    }

    pub fn poll_order(&mut self) -> Option<SourceOrder> {
        self.orders.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Time> {
        match self.state {
            State::Looking { .. } | State::Sending { .. } => Some(self.until),
            State::Frozen { lease, again, .. } => Some(lease.min(again)),
            State::Freezing { .. } | State::Over => None,
        }
    }

    pub fn handle_timeout(&mut self, now: Time) {
        let is_running = matches!(self.state, State::Looking { .. } | State::Sending { .. });
        if is_running && self.until <= now {
            self.state = State::Over;
            return self.orders.clear();
        }
        let State::Frozen { tokens, lease, again } = &mut self.state else { return };
        if *lease <= now {
            self.end(SourceOrder::Release);
            self.orders.push_back(SourceOrder::Tell(FromSource::Gone));
        } else if *again <= now {
            *again = now + self.config.again;
            let tokens = *tokens;
            self.orders.push_back(SourceOrder::Tell(FromSource::Frozen { tokens }));
        }
    }

    fn end(&mut self, order: SourceOrder) {
        self.state = State::Over;
        self.orders.clear();
        self.orders.push_back(order);
    }
}
