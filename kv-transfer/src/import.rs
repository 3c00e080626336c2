//! The node that wants the pages.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use baton_device::Arena;
use baton_kv_cache::{BlockRef, PoolFull};
use baton_transfer_protocol::{
    Ending, FirstToken, Frame, GROWING, PullRequest, Sink, SinkError, SinkSpec,
};
use baton_types::{Capability, Epoch, Generation, NodeId, SequenceKey, Time, blocks_for};
use futures::future::try_join_all;
use tokio::{sync::watch, time::sleep_until};

use crate::{
    clock::Clock,
    link::{Link, LinkError, send, unexpected},
    pages::receive_run,
    peer::SharedIdentity,
};

/// Pages a stream may have on its way, and after how many more are granted.
const CREDITS: u32 = 256;
const GRANT: u32 = 64;
/// Of a sequence that grows: when fewer blocks than this are ready for it, so many more are reserved.
const MORE_BLOCKS: usize = 16;
/// Idle connections kept to one peer.
const MAX_IDLE: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImporterConfig {
    /// Connections a transfer uses; at most one a layer.
    pub streams: u32,
    /// The longest silence once the first token came.
    pub silence: Duration,
}

impl Default for ImporterConfig {
    fn default() -> Self {
        ImporterConfig { streams: 2, silence: Duration::from_secs(3) }
    }
}

/// Pulls pages from other nodes. Clones share idle connections.
#[derive(Clone)]
pub struct Importer {
    shared: Arc<Shared>,
}

struct Shared {
    arena: Arc<Arena>,
    identity: SharedIdentity,
    config: ImporterConfig,
    clock: Clock,
    idle: Mutex<HashMap<String, Vec<Link>>>,
}

/// What to pull, and where to.
#[derive(Debug)]
pub struct Pull {
    pub key: SequenceKey,
    pub epoch: Epoch,
    pub capability: Capability,
    /// `host:port` of the source's data plane.
    pub address: String,
    pub node: NodeId,
    pub generation: Generation,
    /// Leading blocks that are here already.
    pub skip_blocks: u32,
    /// The sequence's whole table here; of one that grows, as far as it is reserved.
    pub blocks: Vec<BlockRef>,
    /// [`GROWING`] for [`Importer::follow`].
    pub tokens: u32,
}

/// Reserves more blocks: where there are so many, at most so many more.
pub type Reserve<'a> = dyn Fn(usize, usize) -> Result<Vec<BlockRef>, PoolFull> + Send + Sync + 'a;

/// A transfer that is whole and verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulled {
    pub first: FirstToken,
    pub pages: u64,
    pub bytes: u64,
    /// From the first token's arrival to the last page verified.
    pub exposed: Duration,
}

/// A transfer of a sequence that grew meanwhile, whole and verified.
#[derive(Debug)]
pub struct Followed {
    /// That the pages hold.
    pub tokens: u32,
    /// Theirs; there may be more, which nothing is in yet.
    pub blocks: Vec<BlockRef>,
    pub pages: u64,
    pub bytes: u64,
    /// From the word that it grows no more to the last page verified.
    pub exposed: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("the sequence grows: {0}")]
    PoolFull(#[from] PoolFull),
    #[error("{tokens} tokens take {needed} blocks, {given} were given")]
    Blocks { tokens: u32, needed: usize, given: usize },
    #[error(
        "{address} is node {given} of generation {given_generation}, expected {expected} of \
         generation {expected_generation}"
    )]
    Stranger {
        address: String,
        given: NodeId,
        given_generation: Generation,
        expected: NodeId,
        expected_generation: Generation,
    },
}

impl PullError {
    /// Whether the same pull may succeed from another source.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, PullError::Link(LinkError::Mismatch(_)) | PullError::Blocks { .. })
    }
}

/// One transfer, fed by its streams.
struct Transfer<'a> {
    sink: Mutex<Sink>,
    table: Mutex<Arc<[BlockRef]>>,
    /// Where the sequence grows: how more blocks are reserved,
    reserve: Option<&'a Reserve<'a>>,
    /// and how many there are.
    room: watch::Sender<u32>,
}

impl Importer {
    pub fn new(
        arena: Arc<Arena>,
        identity: impl Into<SharedIdentity>,
        config: ImporterConfig,
    ) -> Self {
        let identity = identity.into();
        let idle = Mutex::new(HashMap::new());
        let clock = Clock::start();
        Importer { shared: Arc::new(Shared { arena, identity, config, clock, idle }) }
    }

    /// Pulls a sequence's pages into `blocks`. Dropping the future aborts: its connections close,
    /// and the source hears of it.
    pub async fn pull(&self, pull: Pull) -> Result<Pulled, PullError> {
        let block_tokens = self.shared.arena.layout().block_tokens;
        let needed = blocks_for(pull.tokens as usize, block_tokens);
        if pull.blocks.len() < needed {
            let (tokens, given) = (pull.tokens, pull.blocks.len());
            return Err(PullError::Blocks { tokens, needed, given });
        }
        let Moved { ending, pages, bytes, exposed, blocks: _ } = self.run(pull, None).await?;
        let Ending::First(first) = ending else { unreachable!("the sink knows what it was for") };
        Ok(Pulled { first, pages, bytes, exposed })
    }

    /// Pulls the pages of a sequence that runs, and those made meanwhile, until it runs no more.
    /// Blocks for them are reserved as they are needed. Dropping the future aborts.
    pub async fn follow(&self, pull: Pull, reserve: &Reserve<'_>) -> Result<Followed, PullError> {
        let pull = Pull { tokens: GROWING, ..pull };
        let Moved { ending, pages, bytes, exposed, blocks } = self.run(pull, Some(reserve)).await?;
        let Ending::Last { tokens } = ending else {
            unreachable!("the sink knows what it was for")
        };
        Ok(Followed { tokens, blocks: blocks.to_vec(), pages, bytes, exposed })
    }

    async fn run(&self, pull: Pull, reserve: Option<&Reserve<'_>>) -> Result<Moved, PullError> {
        let shared = &self.shared;
        let layout = *shared.arena.layout();
        let streams = shared.config.streams.clamp(1, layout.layers);
        let spec = SinkSpec {
            layout,
            tokens: pull.tokens,
            skip_blocks: pull.skip_blocks,
            streams,
            silence: shared.config.silence,
        };
        let mut pull = pull;
        let blocks: Arc<[BlockRef]> = std::mem::take(&mut pull.blocks).into();
        let mut sink = Sink::new(spec);
        sink.extend(blocks.len() as u32);
        let room = watch::Sender::new(blocks.len() as u32);
        let transfer =
            Transfer { sink: Mutex::new(sink), table: Mutex::new(blocks), reserve, room };
        let links =
            try_join_all((0..streams).map(|_| shared.link(&pull))).await?.into_iter().enumerate();
        let pulls = links.map(|(index, link)| {
            stream(shared, &transfer, &pull, PullingLink(Some(link)), index as u32, streams)
        });
        let links = tokio::select! {
            links = try_join_all(pulls) => links?,
            silent = silence(shared, &transfer) => return Err(silent.into()),
        };
        let now = shared.clock.now();
        let (complete, pages) = {
            let sink = transfer.lock();
            (sink.complete(), sink.pages())
        };
        let Some((ending, at)) = complete else {
            unreachable!("a transfer is complete when each of its streams is")
        };
        shared.release(&pull.address, links).await;
        let bytes = pages * layout.page_bytes() as u64;
        Ok(Moved { ending, pages, bytes, exposed: now.since(at), blocks: transfer.table() })
    }
}

/// A transfer that is whole and verified.
struct Moved {
    ending: Ending,
    pages: u64,
    bytes: u64,
    /// From the ending's arrival to the last page verified.
    exposed: Duration,
    blocks: Arc<[BlockRef]>,
}

/// A connection in the middle of a transfer: dropped there, it says so before it closes.
struct PullingLink(Option<Link>);

impl Drop for PullingLink {
    fn drop(&mut self) {
        let Some(link) = self.0.take() else { return };
        let mut bytes = Vec::new();
        Frame::Abort.encode(&mut bytes);
        // A few bytes into an empty buffer; if they don't fit, the peer is stuck and the source's
        // lease ends the hold.
        let _ = link.writer.try_write(&bytes);
    }
}

impl Transfer<'_> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> Arc<[BlockRef]> {
        Arc::clone(&self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reserves more blocks before those there are have arrived.
    fn make_room(&self) -> Result<(), PullError> {
        let Some(reserve) = self.reserve else { return Ok(()) };
        let arrived = self.lock().arrived_blocks() as usize;
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() >= arrived + MORE_BLOCKS {
            return Ok(());
        }
        let more = reserve(table.len(), MORE_BLOCKS)?;
        if !more.is_empty() {
            *table = table.iter().cloned().chain(more).collect();
            let room = table.len() as u32;
            drop(table);
            self.lock().extend(room);
            self.room.send_replace(room);
        }
        Ok(())
    }
}

/// One stream's share: every `streams`-th layer, and the ending. Reading exactly those leaves
/// the connection clean for the next transfer.
async fn stream(
    shared: &Shared,
    transfer: &Transfer<'_>,
    pull: &Pull,
    mut pulling: PullingLink,
    index: u32,
    streams: u32,
) -> Result<PullingLink, PullError> {
    let link = pulling.0.as_mut().expect("a link that isn't done yet");
    let Link { reader, writer, .. } = link;
    let request = PullRequest {
        key: pull.key,
        epoch: pull.epoch,
        capability: pull.capability,
        tokens: pull.tokens,
        first_layer: index,
        stride: streams,
        skip_blocks: pull.skip_blocks,
        credits: CREDITS,
    };
    send(writer, &Frame::Pull(request)).await?;
    let mut room = transfer.room.subscribe();
    if transfer.reserve.is_some() {
        room.mark_changed();
    }
    let mut ungranted = 0;
    while !transfer.lock().stream_complete(index) {
        // Reading can't be given up in the middle of a frame, so it goes on while room is told of.
        let frame = {
            let mut reading = std::pin::pin!(reader.next());
            loop {
                tokio::select! {
                    frame = &mut reading => break frame?,
                    Ok(()) = room.changed() => {
                        let blocks = *room.borrow_and_update();
                        send(writer, &Frame::Extend { blocks }).await?;
                    }
                }
            }
        };
        match frame {
            Frame::Pages(run) => {
                transfer.lock().expect(shared.clock.now(), index, &run)?;
                let (first, table) = (run.first_block as usize, transfer.table());
                let blocks = &table[first..first + run.checksums.len()];
                let computed = receive_run(&reader.stream, &shared.arena, run.layer, blocks)
                    .await
                    .map_err(LinkError::from)?;
                let now = shared.clock.now();
                {
                    let mut sink = transfer.lock();
                    for (&expected, &computed) in run.checksums.iter().zip(&computed) {
                        sink.arrived(now, run.layer, expected, computed)?;
                    }
                }
                transfer.make_room()?;
                ungranted += computed.len() as u32;
                if ungranted >= GRANT {
                    send(writer, &Frame::Credit { pages: ungranted }).await?;
                    ungranted = 0;
                }
            }
            Frame::First(first) => {
                transfer.lock().ending(shared.clock.now(), index, Ending::First(first))?;
            }
            Frame::Last { tokens } => {
                transfer.lock().ending(shared.clock.now(), index, Ending::Last { tokens })?;
            }
            Frame::Nack(reason) => return Err(SinkError::Nack(reason).into()),
            other => return Err(unexpected("pages", &other).into()),
        }
    }
    Ok(pulling)
}

/// Ends when the source was silent for too long.
async fn silence(shared: &Shared, transfer: &Transfer<'_>) -> SinkError {
    loop {
        let now: Time = shared.clock.now();
        let deadline = {
            let mut sink = transfer.lock();
            if let Err(error) = sink.handle_timeout(now) {
                return error;
            }
            sink.poll_timeout()
        };
        let next =
            deadline.filter(|&deadline| deadline > now).unwrap_or(now + shared.config.silence);
        sleep_until(shared.clock.instant(next)).await;
    }
}

impl Shared {
    /// An idle connection, or a new one, to the very node the pull names.
    async fn link(&self, pull: &Pull) -> Result<Link, PullError> {
        while let Some(link) = self.take_idle(&pull.address) {
            if is_quiet(&link) && link.peer.generation == pull.generation {
                return Ok(link);
            }
        }
        self.forget_dead();
        let link = Link::connect(&pull.address, &self.identity.hello()).await?;
        if link.peer.node != pull.node || link.peer.generation != pull.generation {
            return Err(PullError::Stranger {
                address: pull.address.clone(),
                given: link.peer.node,
                given_generation: link.peer.generation,
                expected: pull.node.clone(),
                expected_generation: pull.generation,
            });
        }
        Ok(link)
    }

    /// Closes idle connections whose peers have gone.
    fn forget_dead(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, links| {
            links.retain(is_quiet);
            !links.is_empty()
        });
    }

    fn take_idle(&self, address: &str) -> Option<Link> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).get_mut(address)?.pop()
    }

    /// Tells the source that its pages have arrived, and keeps the connections that could.
    async fn release(&self, address: &str, links: Vec<PullingLink>) {
        let mut quiet = Vec::with_capacity(links.len());
        for mut pulling in links {
            let Some(mut link) = pulling.0.take() else { continue };
            if send(&mut link.writer, &Frame::Release).await.is_ok() {
                quiet.push(link);
            }
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(address.to_owned()).or_default();
        kept.extend(quiet);
        kept.truncate(MAX_IDLE);
    }
}

/// Nothing to read and not closed: as it was left.
fn is_quiet(link: &Link) -> bool {
    let quiet = link.reader.stream.try_read(&mut [0; 1]);
    matches!(quiet, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

impl fmt::Debug for Importer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Importer").field("config", &self.shared.config).finish_non_exhaustive()
    }
}
