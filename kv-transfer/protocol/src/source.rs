//! The node that has the pages.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use baton_types::{Capability, Epoch, KvLayout, SequenceKey, Time, blocks_for};

use crate::{Ending, FirstToken, GROWING, MAX_RUN, NackReason, PullRequest};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceConfig {
    /// How long finished pages wait for their puller's next sign of life.
    pub lease: Duration,
    /// How long a pull waits for its offer,
    pub park: Duration,
    /// and how many may.
    pub max_parked: usize,
}

impl Default for SourceConfig {
    fn default() -> Self {
        SourceConfig {
            lease: Duration::from_secs(30),
            park: Duration::from_secs(120),
            max_parked: 4096,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OfferId(pub u64);

/// One connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// What is offered: the pages of `tokens` tokens, still being computed; of [`GROWING`] tokens while a
/// sequence runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfferSpec {
    pub key: SequenceKey,
    pub epoch: Epoch,
    pub capability: Capability,
    pub tokens: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    #[error("{key} was offered already under this capability; capabilities are used once")]
    CapabilityInUse { key: SequenceKey },
    #[error("{key}: {tokens} tokens take {needed} blocks, {given} were given")]
    Blocks { key: SequenceKey, tokens: u32, needed: usize, given: usize },
}

/// How an offer ended. Its pages are free from then on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Released { pages: u64, bytes: u64 },
    Expired,
    Aborted { reason: AbortReason },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AbortReason {
    #[error("the puller gave up")]
    Puller,
    #[error("the offer was withdrawn")]
    Withdrawn,
    #[error("this node no longer hands pages over")]
    Closed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub offer: OfferId,
    pub outcome: Outcome,
}

/// What a stream sends next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// Pages of `layer`: `count` blocks of the offer's table from `first_block`.
    Pages {
        offer: OfferId,
        layer: u32,
        first_block: u32,
        count: u32,
    },
    Ending(Ending),
    Nack(NackReason),
}

/// All offers of a node and all streams that pull them.
///
/// Invariants: a page is sent only when its layer says it is final (`no-stale-page`); every offer
/// ends in exactly one [`Event`] (`no-leak`); a pull of another epoch gets no page (`one-owner`).
#[derive(Debug)]
pub struct Source {
    config: SourceConfig,
    layout: KvLayout,
    offers: BTreeMap<OfferId, Offer>,
    by_capability: HashMap<Capability, OfferId>,
    streams: BTreeMap<StreamId, Stream>,
    events: VecDeque<Event>,
    next_offer: u64,
}

#[derive(Debug)]
struct Offer {
    spec: OfferSpec,
    /// What the pages will hold, as far as it is known: at most `spec.tokens`.
    tokens: u32,
    /// Tokens whose keys and values are final, by layer.
    done: Vec<u32>,
    state: OfferState,
    pages_sent: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OfferState {
    Computing,
    Held { ending: Ending, expires: Time },
}

#[derive(Debug)]
enum Stream {
    Idle,
    /// With the blocks there is room for, as a pull says it.
    Parked {
        pull: PullRequest,
        room: u32,
        until: Time,
    },
    Pulling(Pulling),
    Refused(NackReason),
}

#[derive(Debug)]
struct Pulling {
    offer: OfferId,
    stride: u32,
    /// Next block to send, of layers `first_layer, first_layer + stride, …`.
    cursors: Vec<(u32, u32)>,
    credits: u32,
    /// Blocks there is room for, where the offer grows.
    room: u32,
    ending_sent: bool,
}

impl Source {
    pub fn new(config: SourceConfig, layout: KvLayout) -> Self {
        Source {
            config,
            layout,
            offers: BTreeMap::new(),
            by_capability: HashMap::new(),
            streams: BTreeMap::new(),
            events: VecDeque::new(),
            next_offer: 0,
        }
    }

    /// Offers pages under a capability. Pulls that came before it begin.
    pub fn offer(&mut self, spec: OfferSpec) -> Result<OfferId, OfferError> {
        if self.by_capability.contains_key(&spec.capability) {
            return Err(OfferError::CapabilityInUse { key: spec.key });
        }
        let id = OfferId(self.next_offer);
        self.next_offer += 1;
        let done = vec![0; self.layout.layers as usize];
        let (tokens, state) = (spec.tokens, OfferState::Computing);
        self.offers.insert(id, Offer { spec, tokens, done, state, pages_sent: 0 });
        self.by_capability.insert(spec.capability, id);
        let parked: Vec<_> = self
            .streams
            .iter()
            .filter_map(|(&stream, state)| match state {
                Stream::Parked { pull, room, .. } if pull.capability == spec.capability => {
                    Some((stream, *pull, *room))
                }
                _ => None,
            })
            .collect();
        for (stream, pull, room) in parked {
            self.begin(stream, id, pull);
            self.extended(stream, room);
        }
        Ok(id)
    }

    /// Keys and values of the first `tokens` tokens are final in `layer`.
    pub fn layer_done(&mut self, id: OfferId, layer: u32, tokens: u32) {
        if let Some(offer) = self.offers.get_mut(&id)
            && let Some(done) = offer.done.get_mut(layer as usize)
        {
            *done = (*done).max(tokens.min(offer.tokens));
        }
    }

    /// The whole prompt is computed; the lease begins.
    pub fn finished(&mut self, now: Time, id: OfferId, first: FirstToken) {
        self.hold(now, id, Ending::First(first));
    }

    /// Keys and values of the first `tokens` tokens are final in every layer, of an offer that grows.
    pub fn grown(&mut self, id: OfferId, tokens: u32) {
        for layer in 0..self.layout.layers {
            self.layer_done(id, layer, tokens);
        }
    }

    /// The offer has grown to `tokens` and grows no more; the lease begins.
    pub fn last(&mut self, now: Time, id: OfferId, tokens: u32) {
        if let Some(offer) = self.offers.get_mut(&id) {
            offer.tokens = tokens;
        }
        self.hold(now, id, Ending::Last { tokens });
    }

    fn hold(&mut self, now: Time, id: OfferId, ending: Ending) {
        let expires = now + self.config.lease;
        if let Some(offer) = self.offers.get_mut(&id) {
            offer.done.fill(offer.tokens);
            offer.state = OfferState::Held { ending, expires };
        }
    }

    /// The node takes the offer back.
    pub fn withdraw(&mut self, id: OfferId) {
        let reason = AbortReason::Withdrawn;
        self.end(id, Outcome::Aborted { reason }, NackReason::Withdrawn);
    }

    /// The node stops handing pages over: every offer ends.
    pub fn close(&mut self) {
        for id in self.offers.keys().copied().collect::<Vec<_>>() {
            let reason = AbortReason::Closed;
            self.end(id, Outcome::Aborted { reason }, NackReason::Withdrawn);
        }
    }

    /// A connection was made.
    pub fn stream_opened(&mut self, stream: StreamId) {
        self.streams.insert(stream, Stream::Idle);
    }

    /// A connection broke. Its offer waits for another pull, or for the lease.
    pub fn stream_lost(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    /// A stream asks for pages.
    pub fn pull(&mut self, now: Time, stream: StreamId, pull: PullRequest) {
        if let Some(&offer) = self.by_capability.get(&pull.capability) {
            return self.begin(stream, offer, pull);
        }
        // The same hand-over under another capability: there is nothing to wait for. A newer epoch's
        // offer may still come.
        let key = pull.key;
        let refuses = |offer: &Offer| offer.spec.key == key && pull.epoch <= offer.spec.epoch;
        if self.offers.values().any(refuses) {
            let reason = NackReason::Capability { key };
            self.streams.insert(stream, Stream::Refused(reason));
            return;
        }
        let state = if self.parked() < self.config.max_parked {
            Stream::Parked { pull, room: 0, until: now + self.config.park }
        } else {
            Stream::Refused(NackReason::Busy)
        };
        self.streams.insert(stream, state);
    }

    /// Pages have arrived, and as many more may be on their way. The lease begins again: a slow
    /// link isn't a puller that went away.
    pub fn credit(&mut self, now: Time, stream: StreamId, pages: u32) {
        let Some(Stream::Pulling(pulling)) = self.streams.get_mut(&stream) else { return };
        pulling.credits = pulling.credits.saturating_add(pages);
        if let Some(offer) = self.offers.get_mut(&pulling.offer)
            && let OfferState::Held { expires, .. } = &mut offer.state
        {
            *expires = now + self.config.lease;
        }
    }

    /// There is room for so many blocks, where the offer grows.
    pub fn extended(&mut self, stream: StreamId, blocks: u32) {
        match self.streams.get_mut(&stream) {
            Some(Stream::Pulling(pulling)) => pulling.room = pulling.room.max(blocks),
            Some(Stream::Parked { room, .. }) => *room = blocks.max(*room),
            _ => {}
        }
    }

    /// Leading blocks whose pages have been sent, of all layers, those that needn't be included; None while
    /// the puller isn't there with all its streams.
    pub fn sent_blocks(&self, id: OfferId) -> Option<u32> {
        let mut layers = 0;
        let mut least = u32::MAX;
        for stream in self.streams.values() {
            if let Stream::Pulling(pulling) = stream
                && pulling.offer == id
            {
                layers += pulling.cursors.len();
                least = pulling.cursors.iter().map(|&(_, next)| next).fold(least, u32::min);
            }
        }
        (layers >= self.layout.layers as usize).then_some(least)
    }

    /// The puller has everything.
    pub fn released(&mut self, stream: StreamId) {
        let Some(id) = self.pulled_by(stream) else { return };
        let Some(offer) = self.offers.get(&id) else { return };
        let pages = offer.pages_sent;
        let bytes = pages * self.layout.page_bytes() as u64;
        self.end(id, Outcome::Released { pages, bytes }, NackReason::Withdrawn);
    }

    /// The puller gave up.
    pub fn aborted(&mut self, stream: StreamId) {
        let Some(id) = self.pulled_by(stream) else { return };
        let reason = AbortReason::Puller;
        self.end(id, Outcome::Aborted { reason }, NackReason::Withdrawn);
    }

    /// What `stream` sends next, if anything now.
    pub fn poll_transmit(&mut self, stream: StreamId) -> Option<Transmit> {
        let state = self.streams.get_mut(&stream)?;
        if let Stream::Refused(reason) = *state {
            *state = Stream::Idle;
            return Some(Transmit::Nack(reason));
        }
        let Stream::Pulling(pulling) = state else { return None };
        let offer = self.offers.get_mut(&pulling.offer)?;
        if let OfferState::Held { ending, .. } = offer.state
            && !pulling.ending_sent
        {
            pulling.ending_sent = true;
            return Some(Transmit::Ending(ending));
        }
        let block_tokens = self.layout.block_tokens;
        for (layer, next) in &mut pulling.cursors {
            let done = offer.done[*layer as usize];
            // A block is final when it is full, or when the prompt ends in it.
            let last = done == offer.tokens;
            let ready = if last { done.div_ceil(block_tokens) } else { done / block_tokens };
            let ready = ready.min(pulling.room);
            let count = ready.saturating_sub(*next).min(pulling.credits).min(MAX_RUN as u32);
            if count > 0 {
                let (offer_id, layer, first_block) = (pulling.offer, *layer, *next);
                *next += count;
                pulling.credits -= count;
                offer.pages_sent += u64::from(count);
                return Some(Transmit::Pages { offer: offer_id, layer, first_block, count });
            }
        }
        None
    }

    /// An offer that ended.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Time> {
        let leases = self.offers.values().filter_map(|offer| match offer.state {
            OfferState::Held { expires, .. } => Some(expires),
            OfferState::Computing => None,
        });
        let parked = self.streams.values().filter_map(|stream| match stream {
            Stream::Parked { until, .. } => Some(*until),
            _ => None,
        });
        leases.chain(parked).min()
    }

    pub fn handle_timeout(&mut self, now: Time) {
        let expired: Vec<_> = self
            .offers
            .iter()
            .filter(|(_, offer)| {
                matches!(offer.state, OfferState::Held { expires, .. } if expires <= now)
            })
            .map(|(&id, _)| id)
            .collect();
        for id in expired {
            self.end(id, Outcome::Expired, NackReason::Expired);
        }
        for stream in self.streams.values_mut() {
            if matches!(stream, Stream::Parked { until, .. } if *until <= now) {
                *stream = Stream::Refused(NackReason::Unknown);
            }
        }
    }

    /// Whose pages are offered, until the offer ends.
    pub fn key(&self, id: OfferId) -> Option<SequenceKey> {
        self.offers.get(&id).map(|offer| offer.spec.key)
    }

    /// Pulls that wait for their offers.
    pub fn parked(&self) -> usize {
        self.streams.values().filter(|stream| matches!(stream, Stream::Parked { .. })).count()
    }

    /// Offers that haven't ended.
    pub fn offers(&self) -> usize {
        self.offers.len()
    }

    /// Whose pages `stream` pulls, while they are offered.
    pub fn pulled_by(&self, stream: StreamId) -> Option<OfferId> {
        match self.streams.get(&stream) {
            Some(Stream::Pulling(pulling)) => Some(pulling.offer),
            _ => None,
        }
    }

    fn begin(&mut self, stream: StreamId, id: OfferId, pull: PullRequest) {
        let state = match self.check(id, &pull) {
            Err(reason) => Stream::Refused(reason),
            Ok(()) => Stream::Pulling(Pulling {
                offer: id,
                stride: pull.stride,
                cursors: (pull.first_layer..self.layout.layers)
                    .step_by(pull.stride as usize)
                    .map(|layer| (layer, pull.skip_blocks))
                    .collect(),
                credits: pull.credits,
                room: if pull.tokens == GROWING { 0 } else { u32::MAX },
                ending_sent: false,
            }),
        };
        debug_assert!(!matches!(&state, Stream::Pulling(pulling) if pulling.stride == 0));
        self.streams.insert(stream, state);
    }

    fn check(&self, id: OfferId, pull: &PullRequest) -> Result<(), NackReason> {
        let spec = self.offers.get(&id).ok_or(NackReason::Unknown)?.spec;
        if pull.key != spec.key {
            return Err(NackReason::Key { given: pull.key, current: spec.key });
        }
        if pull.epoch != spec.epoch {
            return Err(NackReason::Epoch { given: pull.epoch, current: spec.epoch });
        }
        if pull.tokens != spec.tokens {
            return Err(NackReason::Tokens { given: pull.tokens, current: spec.tokens });
        }
        let blocks = blocks_for(spec.tokens as usize, self.layout.block_tokens) as u32;
        let outside =
            pull.stride == 0 || pull.first_layer >= self.layout.layers || pull.skip_blocks > blocks;
        if outside { Err(NackReason::Range) } else { Ok(()) }
    }

    /// Ends an offer, from any state; a second time changes nothing.
    fn end(&mut self, id: OfferId, outcome: Outcome, tell: NackReason) {
        let Some(offer) = self.offers.remove(&id) else { return };
        self.by_capability.remove(&offer.spec.capability);
        let released = matches!(outcome, Outcome::Released { .. });
        for stream in self.streams.values_mut() {
            if matches!(stream, Stream::Pulling(pulling) if pulling.offer == id) {
                *stream = if released { Stream::Idle } else { Stream::Refused(tell) };
            }
        }
        self.events.push_back(Event { offer: id, outcome });
    }
}
