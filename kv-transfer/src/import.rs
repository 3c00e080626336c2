//! The node that wants the pages.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use baton_device::Arena;
use baton_kv_cache::BlockRef;
use baton_transfer_protocol::{FirstToken, Frame, Hello, PullRequest, Sink, SinkError, SinkSpec};
use baton_types::{Capability, Epoch, Generation, NodeId, SequenceKey, Time, blocks_for};
use futures::future::try_join_all;
use tokio::time::sleep_until;

use crate::{
    clock::Clock,
    link::{Link, LinkError, send, unexpected},
    pages::receive_run,
    peer::PeerIdentity,
};

/// Pages a stream may have on its way, and after how many more are granted.
const CREDITS: u32 = 256;
const GRANT: u32 = 64;
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
        ImporterConfig { streams: 2, silence: Duration::from_secs(10) }
    }
}

/// Pulls pages from other nodes. Clones share idle connections.
#[derive(Clone)]
pub struct Importer {
    shared: Arc<Shared>,
}

struct Shared {
    arena: Arc<Arena>,
    hello: Hello,
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
    /// The sequence's whole table here.
    pub blocks: Vec<BlockRef>,
    pub tokens: u32,
}

/// A transfer that is whole and verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulled {
    pub first: FirstToken,
    pub pages: u64,
    pub bytes: u64,
    /// From the first token's arrival to the last page verified.
    pub exposed: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Sink(#[from] SinkError),
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

/// The machine of one transfer, fed by its streams.
struct Transfer(Mutex<Sink>);

impl Importer {
    pub fn new(arena: Arc<Arena>, identity: PeerIdentity, config: ImporterConfig) -> Self {
        let hello = identity.hello();
        let idle = Mutex::new(HashMap::new());
        let clock = Clock::start();
        Importer { shared: Arc::new(Shared { arena, hello, config, clock, idle }) }
    }

    /// Pulls a sequence's pages into `blocks`. Dropping the future aborts: its connections close,
    /// and the source hears of it.
    pub async fn pull(&self, pull: Pull) -> Result<Pulled, PullError> {
        let shared = &self.shared;
        let layout = *shared.arena.layout();
        let needed = blocks_for(pull.tokens as usize, layout.block_tokens);
        if pull.blocks.len() < needed {
            let (tokens, given) = (pull.tokens, pull.blocks.len());
            return Err(PullError::Blocks { tokens, needed, given });
        }
        let streams = shared.config.streams.clamp(1, layout.layers);
        let spec = SinkSpec {
            layout,
            tokens: pull.tokens,
            skip_blocks: pull.skip_blocks,
            streams,
            silence: shared.config.silence,
        };
        let transfer = Transfer(Mutex::new(Sink::new(spec)));
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
        let Some((first, at)) = complete else {
            unreachable!("a transfer is complete when each of its streams is")
        };
        shared.release(&pull.address, links).await;
        let bytes = pages * layout.page_bytes() as u64;
        Ok(Pulled { first, pages, bytes, exposed: now.since(at) })
    }
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

impl Transfer {
    fn lock(&self) -> std::sync::MutexGuard<'_, Sink> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream's share: every `streams`-th layer, and the first token. Reading exactly those leaves
/// the connection clean for the next transfer.
async fn stream(
    shared: &Shared,
    transfer: &Transfer,
    pull: &Pull,
    mut pulling: PullingLink,
    index: u32,
    streams: u32,
) -> Result<PullingLink, PullError> {
    let link = pulling.0.as_mut().expect("a link that isn't done yet");
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
    send(&mut link.writer, &Frame::Pull(request)).await?;
    let mut ungranted = 0;
    while !transfer.lock().stream_complete(index) {
        let frame = link.reader.next().await?;
        match frame {
            Frame::Pages(run) => {
                transfer.lock().expect(shared.clock.now(), index, &run)?;
                let first = run.first_block as usize;
                let blocks = &pull.blocks[first..first + run.checksums.len()];
                let computed = receive_run(&link.reader.stream, &shared.arena, run.layer, blocks)
                    .await
                    .map_err(LinkError::from)?;
                let now = shared.clock.now();
                {
                    let mut sink = transfer.lock();
                    for (&expected, &computed) in run.checksums.iter().zip(&computed) {
                        sink.arrived(now, run.layer, expected, computed)?;
                    }
                }
                ungranted += computed.len() as u32;
                if ungranted >= GRANT {
                    send(&mut link.writer, &Frame::Credit { pages: ungranted }).await?;
                    ungranted = 0;
                }
            }
            Frame::First(first) => {
                transfer.lock().first_token(shared.clock.now(), index, first)?;
            }
            Frame::Nack(reason) => return Err(SinkError::Nack(reason).into()),
            other => return Err(unexpected("pages", &other).into()),
        }
    }
    Ok(pulling)
}

/// Ends when the source was silent for too long.
async fn silence(shared: &Shared, transfer: &Transfer) -> SinkError {
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
        let link = Link::connect(&pull.address, &self.hello).await?;
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
