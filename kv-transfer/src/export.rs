//! The node that has the pages.

mod growing;

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use baton_device::Arena;
use baton_kv_cache::BlockRef;
use baton_transfer_protocol::{
    Ending, FirstToken, Frame, OfferError, OfferId, OfferSpec, Outcome, Source, SourceConfig,
    StreamId, Transmit,
};
use baton_types::{Capability, Epoch, SequenceKey, blocks_for};
use tokio::{
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    sync::{Notify, Semaphore, watch},
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use self::growing::Growth;
pub use self::growing::{Growing, GrowingOffer};
use crate::{
    clock::Clock,
    link::{FrameReader, Link, LinkError, send, unexpected},
    pages::send_run,
    peer::SharedIdentity,
};

/// Connections served at a time; more are closed at once.
const MAX_STREAMS: usize = 4096;
/// How long a run of pages may still take once its offer has ended. A puller that stopped reading
/// would otherwise keep the blocks past their lease.
const GRACE: Duration = Duration::from_secs(1);

/// See [`SourceConfig`].
pub type ExporterConfig = SourceConfig;

/// Hands this node's pages over. Clones share the work; the last one's drop ends it.
#[derive(Clone)]
pub struct Exporter {
    shared: Arc<Shared>,
    _stop: Arc<StopOnDrop>,
}

struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        // Whoever waits for an outcome hears of the end, and the blocks are free.
        self.0.update(Source::close);
        self.0.stop.cancel();
    }
}

/// Pages to hand over, while they are still being computed.
#[derive(Debug)]
pub struct Offer {
    pub key: SequenceKey,
    pub epoch: Epoch,
    pub capability: Capability,
    /// The sequence's whole table.
    pub blocks: Vec<BlockRef>,
    pub tokens: u32,
}

struct Shared {
    arena: Arc<Arena>,
    identity: SharedIdentity,
    clock: Clock,
    state: Mutex<State>,
    /// Some stream may have something to send, or a timeout changed.
    changed: Notify,
    timer: Notify,
    next_stream: AtomicU64,
    pages_sent: AtomicU64,
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct State {
    source: Source,
    held: HashMap<OfferId, Held>,
    /// When pages of sequences that run may be sent again.
    paced_until: Instant,
}

/// What an offer keeps from being reused until it ends.
struct Held {
    blocks: Arc<[BlockRef]>,
    growth: Option<Growth>,
    outcome: watch::Sender<Option<Outcome>>,
}

/// One offer under way. Dropping it before it ended withdraws it.
pub struct Offered {
    shared: Arc<Shared>,
    id: OfferId,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Exporter {
    /// Serves pulls on `listener` until every clone is dropped. Must run inside a runtime.
    pub fn start(
        listener: TcpListener,
        arena: Arc<Arena>,
        identity: impl Into<SharedIdentity>,
        config: ExporterConfig,
    ) -> Self {
        let source = Source::new(config, *arena.layout());
        let shared = Arc::new(Shared {
            arena,
            identity: identity.into(),
            clock: Clock::start(),
            state: Mutex::new(State { source, held: HashMap::new(), paced_until: Instant::now() }),
            changed: Notify::new(),
            timer: Notify::new(),
            next_stream: AtomicU64::new(0),
            pages_sent: AtomicU64::new(0),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let stop = Arc::new(StopOnDrop(Arc::clone(&shared)));
        shared.spawn(accept(Arc::clone(&shared), listener));
        shared.spawn(keep_time(Arc::clone(&shared)));
        Exporter { shared, _stop: stop }
    }

    /// Offers pages. Never blocks; may be called outside a runtime.
    pub fn offer(&self, offer: Offer) -> Result<Offered, OfferError> {
        let Offer { key, epoch, capability, blocks, tokens } = offer;
        let needed = blocks_for(tokens as usize, self.shared.arena.layout().block_tokens);
        if blocks.len() < needed {
            return Err(OfferError::Blocks { key, tokens, needed, given: blocks.len() });
        }
        self.shared.offer(OfferSpec { key, epoch, capability, tokens }, blocks, None)
    }

    /// Pages that have been handed to the network since the start.
    pub fn pages_sent(&self) -> u64 {
        self.shared.pages_sent.load(Ordering::Relaxed)
    }

    /// Connections whose pulls wait for their offers.
    pub fn parked(&self) -> usize {
        self.shared.lock().source.parked()
    }

    /// Offers that haven't ended.
    pub fn offers(&self) -> usize {
        self.shared.lock().source.offers()
    }
}

impl Offered {
    /// Keys and values of the first `tokens` tokens are final in `layer`. Never blocks.
    pub fn layer_done(&self, layer: u32, tokens: u32) {
        self.shared.lock().source.layer_done(self.id, layer, tokens);
        self.shared.changed.notify_waiters();
    }

    /// The whole prompt is computed: the lease begins.
    pub fn finish(&self, first: FirstToken) {
        let now = self.shared.clock.now();
        self.shared.lock().source.finished(now, self.id, first);
        self.shared.changed.notify_waiters();
        self.shared.timer.notify_one();
    }

    /// How the offer ended.
    pub fn outcome(&self) -> impl Future<Output = Outcome> + Send + use<> {
        let mut outcome = self.outcome.clone();
        async move {
            let ended = outcome.wait_for(Option::is_some).await;
            ended.ok().and_then(|outcome| outcome.clone()).unwrap_or(Outcome::Expired)
        }
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        self.shared.update(|source| source.withdraw(self.id));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No machine's method calls foreign code: a poisoned lock is another thread's report.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(
        self: &Arc<Self>,
        spec: OfferSpec,
        blocks: Vec<BlockRef>,
        growth: Option<Growth>,
    ) -> Result<Offered, OfferError> {
        let (sender, outcome) = watch::channel(None);
        let id = {
            let mut state = self.lock();
            let id = state.source.offer(spec)?;
            state.held.insert(id, Held { blocks: blocks.into(), growth, outcome: sender });
            id
        };
        self.changed.notify_waiters();
        Ok(Offered { shared: Arc::clone(self), id, outcome })
    }

    /// Feeds the machine, tells the ends it reports, and wakes whoever may have work.
    fn update(&self, feed: impl FnOnce(&mut Source)) {
        let mut ended = Vec::new();
        {
            let mut state = self.lock();
            feed(&mut state.source);
            while let Some(event) = state.source.poll_event() {
                ended.extend(state.held.remove(&event.offer).map(|held| (held, event.outcome)));
            }
        }
        for (held, outcome) in ended {
            held.outcome.send_replace(Some(outcome));
        }
        self.changed.notify_waiters();
        self.timer.notify_one();
    }

    fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }
}

/// Leases and parked pulls.
async fn keep_time(shared: Arc<Shared>) {
    loop {
        let deadline = shared.lock().source.poll_timeout();
        let expired = async {
            match deadline {
                Some(deadline) => sleep_until(shared.clock.instant(deadline)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = expired => {
                let now = shared.clock.now();
                shared.update(|source| source.handle_timeout(now));
            }
            () = shared.timer.notified() => {}
        }
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(MAX_STREAMS));
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    warn!(%address, "{MAX_STREAMS} page streams are open; refusing one more");
                    continue;
                };
                let task_shared = Arc::clone(&shared);
                shared.spawn(async move {
                    let _place = place;
                    if let Err(error) = serve(&task_shared, stream).await {
                        debug!(%address, %error, "page stream ended");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: some must be closed first.
                warn!(%error, "can't accept page streams");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One connection's life.
async fn serve(shared: &Arc<Shared>, stream: TcpStream) -> Result<(), LinkError> {
    let Link { reader, writer, peer: _ } = Link::greet(stream, &shared.identity.hello()).await?;
    let id = StreamId(shared.next_stream.fetch_add(1, Ordering::Relaxed));
    shared.lock().source.stream_opened(id);
    let outcome = tokio::select! {
        outcome = listen(shared, id, reader) => outcome,
        outcome = speak(shared, id, writer) => outcome,
    };
    shared.update(|source| source.stream_lost(id));
    outcome
}

async fn listen(shared: &Shared, id: StreamId, mut reader: FrameReader) -> Result<(), LinkError> {
    loop {
        let frame = reader.next().await?;
        let now = shared.clock.now();
        match frame {
            Frame::Pull(pull) => {
                shared.update(|source| source.pull(now, id, pull));
                let offer = shared.lock().source.pulled_by(id);
                offer.into_iter().for_each(|offer| shared.sent(offer));
            }
            Frame::Credit { pages } => shared.update(|source| source.credit(now, id, pages)),
            Frame::Extend { blocks } => shared.update(|source| source.extended(id, blocks)),
            Frame::Release => shared.update(|source| source.released(id)),
            Frame::Abort => shared.update(|source| source.aborted(id)),
            other => return Err(unexpected("a puller's frame", &other)),
        }
    }
}

async fn speak(shared: &Shared, id: StreamId, mut writer: OwnedWriteHalf) -> Result<(), LinkError> {
    loop {
        // Registered before asking, so that no change in between is missed.
        let changed = shared.changed.notified();
        let next = {
            let mut state = shared.lock();
            match state.source.poll_transmit(id) {
                // The blocks are held by this clone for as long as they are being read.
                Some(Transmit::Pages { offer, layer, first_block, count }) => state
                    .held
                    .get(&offer)
                    .map(|held| Run {
                        offer,
                        blocks: Arc::clone(&held.blocks),
                        layer,
                        first_block,
                        count,
                    })
                    .map(Next::Pages),
                Some(Transmit::Ending(ending)) => Some(Next::Frame(match ending {
                    Ending::First(first) => Frame::First(first),
                    Ending::Last { tokens } => Frame::Last { tokens },
                })),
                Some(Transmit::Nack(reason)) => Some(Next::Frame(Frame::Nack(reason))),
                None => None,
            }
        };
        match next {
            Some(Next::Pages(Run { offer, blocks, layer, first_block, count })) => {
                let run = &blocks[first_block as usize..(first_block + count) as usize];
                shared.turn(offer).await;
                let began = Instant::now();
                tokio::select! {
                    sent = send_run(&mut writer, &shared.arena, layer, first_block, run) => sent?,
                    () = overdue(shared, id) => return Err(LinkError::Overdue),
                }
                shared.pages_sent.fetch_add(count.into(), Ordering::Relaxed);
                shared.paused(offer, began.elapsed());
                shared.sent(offer);
            }
            Some(Next::Frame(frame)) => send(&mut writer, &frame).await?,
            None => changed.await,
        }
    }
}

/// Ends a while after the offer that `id` pulls has.
async fn overdue(shared: &Shared, id: StreamId) {
    loop {
        let changed = shared.changed.notified();
        if shared.lock().source.pulled_by(id).is_none() {
            return tokio::time::sleep(GRACE).await;
        }
        changed.await;
    }
}

enum Next {
    Pages(Run),
    Frame(Frame),
}

/// Pages of one layer.
struct Run {
    offer: OfferId,
    /// The offer's whole table.
    blocks: Arc<[BlockRef]>,
    layer: u32,
    first_block: u32,
    count: u32,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").field("offers", &self.offers()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Offered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offered").field("id", &self.id).finish_non_exhaustive()
    }
}
