//! Whole transfers over real sockets.
// Tests' tasks end with their runtime.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::{sync::Arc, time::Duration};

use baton_device::Arena;
use baton_kv_cache::{BlockRef, KvCache};
use baton_kv_transfer::{
    AbortReason, Exporter, ExporterConfig, FirstToken, GrowingOffer, HelloMismatch, Importer,
    ImporterConfig, LinkError, NackReason, Offer, Outcome, PeerIdentity, Pull, PullError, Pulled,
};
use baton_transfer_protocol::{Frame, PullRequest};
use baton_types::{
    Capability, ChoiceIndex, Epoch, Generation, KvDtype, KvLayout, NumericsId, RequestId, Role,
    RouterId, SequenceKey, TokenId,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const LAYOUT: KvLayout =
    KvLayout { layers: 5, kv_heads: 2, head_dim: 64, block_tokens: 16, dtype: KvDtype::F16 };
const FIRST: FirstToken = FirstToken { token: TokenId(7), logits_digest: 9 };
const TOKENS: u32 = 16 * 10 + 3;
const BLOCKS: usize = 11;
const EPOCH: Epoch = Epoch { counter: 4, router: RouterId(1) };

fn identity(name: &str, role: Role) -> PeerIdentity {
    let numerics = NumericsId(5);
    PeerIdentity { node: name.into(), generation: Generation(1), role, numerics, layout: LAYOUT }
}

fn key() -> SequenceKey {
    SequenceKey { request: RequestId(1), choice: ChoiceIndex(0) }
}

struct Side {
    arena: Arc<Arena>,
    cache: KvCache,
}

impl Side {
    fn new() -> Self {
        Side {
            arena: Arc::new(Arena::new(LAYOUT, 64).unwrap()),
            cache: KvCache::new(64, LAYOUT.block_tokens),
        }
    }

    fn fill(&self, layer: u32, blocks: &[BlockRef]) {
        for (index, block) in blocks.iter().enumerate() {
            let mut page = self.arena.write(layer, block.id()).unwrap();
            for (at, byte) in page.iter_mut().enumerate() {
                *byte = (at as u32 * 31 + layer * 7 + index as u32 * 13) as u8;
            }
        }
    }

    async fn whole_again(&self) {
        while self.cache.usage().held > 0 {
            tokio::task::yield_now().await;
        }
    }
}

struct Pair {
    source: Side,
    sink: Side,
    exporter: Exporter,
    importer: Importer,
    address: String,
}

impl Pair {
    async fn new() -> Self {
        Self::with(identity("d", Role::Decode), ExporterConfig::default()).await
    }

    async fn with(decode: PeerIdentity, config: ExporterConfig) -> Self {
        let (source, sink) = (Side::new(), Side::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let own = identity("p", Role::Prefill);
        let exporter = Exporter::start(listener, Arc::clone(&source.arena), own, config);
        let importer = Importer::new(Arc::clone(&sink.arena), decode, ImporterConfig::default());
        Pair { source, sink, exporter, importer, address }
    }

    fn offer(&self, capability: u128) -> Offer {
        let blocks = self.source.cache.reserve(BLOCKS).unwrap();
        let capability = Capability(capability);
        Offer { key: key(), epoch: EPOCH, capability, blocks, tokens: TOKENS }
    }

    fn pull(&self, capability: u128) -> Pull {
        Pull {
            key: key(),
            epoch: EPOCH,
            capability: Capability(capability),
            address: self.address.clone(),
            node: "p".into(),
            generation: Generation(1),
            skip_blocks: 0,
            blocks: self.sink.cache.reserve(BLOCKS).unwrap(),
            tokens: TOKENS,
        }
    }

    async fn run(&self, pull: Pull) -> Result<Pulled, PullError> {
        self.importer.pull(pull).await
    }

    fn same(&self, from: &[BlockRef], to: &[BlockRef]) -> bool {
        (0..LAYOUT.layers).all(|layer| {
            from.iter().zip(to).all(|(from, to)| {
                *self.source.arena.read(layer, from.id()).unwrap()
                    == *self.sink.arena.read(layer, to.id()).unwrap()
            })
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_is_exact_and_leaves_both_pools_whole() {
    let pair = Pair::new().await;
    // Twice: the second reuses the connections of the first.
    for capability in [1, 2] {
        let offer = pair.offer(capability);
        let from = offer.blocks.clone();
        for layer in 0..LAYOUT.layers {
            pair.source.fill(layer, &from);
        }
        let offered = pair.exporter.offer(offer).unwrap();
        offered.finish(FIRST);
        let pull = pair.pull(capability);
        let to = pull.blocks.clone();
        let pulled = pair.run(pull).await.unwrap();
        let pages = BLOCKS as u64 * u64::from(LAYOUT.layers);
        let bytes = pages * LAYOUT.page_bytes() as u64;
        assert_eq!((pulled.first, pulled.pages, pulled.bytes), (FIRST, pages, bytes));
        assert_eq!(offered.outcome().await, Outcome::Released { pages, bytes });
        assert!(pair.same(&from, &to));
    }
    pair.source.whole_again().await;
    pair.sink.whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_leave_layer_by_layer_and_a_pull_may_come_before_its_offer() {
    let pair = Pair::new().await;
    let pull = pair.pull(1);
    let to = pull.blocks.clone();
    let importer = pair.importer.clone();
    let pulling = tokio::spawn(async move { importer.pull(pull).await });
    let offer = pair.offer(1);
    let from = offer.blocks.clone();
    pair.source.fill(0, &from[..4]);
    let offered = pair.exporter.offer(offer).unwrap();
    // Four blocks and a bit of layer 0: the first pages are there while the prompt is computed.
    offered.layer_done(0, 4 * 16 + 5);
    while pair.exporter.pages_sent() < 4 {
        tokio::task::yield_now().await;
    }
    assert!(!pulling.is_finished());
    pair.source.fill(0, &from[4..]);
    for layer in 1..LAYOUT.layers {
        pair.source.fill(layer, &from);
    }
    offered.finish(FIRST);
    assert_eq!(pulling.await.unwrap().unwrap().first, FIRST);
    assert!(pair.same(&from, &to));
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_blocks_are_not_sent_again() {
    let pair = Pair::new().await;
    let offered = pair.exporter.offer(pair.offer(1)).unwrap();
    offered.finish(FIRST);
    let pulled = pair.run(Pull { skip_blocks: 9, ..pair.pull(1) }).await.unwrap();
    assert_eq!(pulled.pages, 2 * u64::from(LAYOUT.layers));
    let offered = pair.exporter.offer(pair.offer(2)).unwrap();
    offered.finish(FIRST);
    let pulled = pair.run(Pull { skip_blocks: BLOCKS as u32, ..pair.pull(2) }).await.unwrap();
    assert_eq!(pulled.pages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_transfers_share_the_streams() {
    let pair = Arc::new(Pair::new().await);
    let offered: Vec<_> =
        (0..4).map(|capability| pair.exporter.offer(pair.offer(capability)).unwrap()).collect();
    let pulls: Vec<_> = (0..4)
        .map(|capability| {
            let pair = Arc::clone(&pair);
            tokio::spawn(async move { pair.run(pair.pull(capability)).await })
        })
        .collect();
    offered.iter().for_each(|offered| offered.finish(FIRST));
    for pull in pulls {
        assert!(pull.await.unwrap().is_ok());
    }
    pair.source.whole_again().await;
    pair.sink.whole_again().await;
}

fn nack(error: PullError) -> NackReason {
    match error {
        PullError::Sink(baton_kv_transfer::SinkError::Nack(reason)) => reason,
        other => panic!("expected a refusal, got {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_that_do_not_match_are_refused_with_both_values() {
    let park = Duration::from_millis(50);
    let config = ExporterConfig { park, ..ExporterConfig::default() };
    let pair = Pair::with(identity("d", Role::Decode), config).await;
    let offered = pair.exporter.offer(pair.offer(1)).unwrap();
    offered.finish(FIRST);
    let given = Epoch { counter: 3, ..EPOCH };
    let stale = pair.run(Pull { epoch: given, ..pair.pull(1) }).await.unwrap_err();
    assert_eq!(nack(stale), NackReason::Epoch { given, current: EPOCH });
    let longer = pair.run(Pull { tokens: TOKENS + 1, ..pair.pull(1) }).await.unwrap_err();
    assert_eq!(nack(longer), NackReason::Tokens { given: TOKENS + 1, current: TOKENS });
    let thief = pair.run(pair.pull(2)).await.unwrap_err();
    assert_eq!(nack(thief), NackReason::Capability { key: key() });
    // Of a sequence nobody offers.
    let key = SequenceKey { request: RequestId(2), ..key() };
    let early = pair.run(Pull { key, ..pair.pull(2) }).await.unwrap_err();
    assert_eq!(nack(early), NackReason::Unknown);
    let stranger = pair.run(Pull { generation: Generation(2), ..pair.pull(1) }).await.unwrap_err();
    assert!(matches!(stranger, PullError::Stranger { .. }), "{stranger}");
    pair.sink.whole_again().await;
    assert!(pair.run(pair.pull(1)).await.is_ok(), "the offer is unharmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_differ_do_not_pair() {
    let layout = KvLayout { layers: 6, ..LAYOUT };
    let strangers = [
        PeerIdentity { numerics: NumericsId(6), ..identity("d", Role::Decode) },
        PeerIdentity { layout, ..identity("d", Role::Decode) },
    ];
    for stranger in strangers {
        let pair = Pair::with(stranger.clone(), ExporterConfig::default()).await;
        let error = pair.run(pair.pull(1)).await.unwrap_err();
        assert!(!error.is_retryable());
        match error {
            PullError::Link(LinkError::Mismatch(HelloMismatch::Numerics { .. })) => {
                assert_eq!(stranger.layout, LAYOUT);
            }
            PullError::Link(LinkError::Mismatch(HelloMismatch::Layout { .. })) => {
                assert_eq!(stranger.layout, layout);
            }
            other => panic!("{other}"),
        }
    }
}

/// A source of another version, as its bytes come over the wire.
#[tokio::test(flavor = "multi_thread")]
async fn another_version_is_refused_with_both_values() {
    let pair = Pair::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let own = pair.address.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(&own).await.unwrap();
            let mut hello = [0; 9];
            far.read_exact(&mut hello).await.unwrap();
            // Length, kind, version.
            hello[5..].copy_from_slice(&9_u32.to_le_bytes());
            near.write_all(&hello).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        }
    });
    let error = pair.run(Pull { address, ..pair.pull(1) }).await.unwrap_err();
    let PullError::Link(LinkError::Mismatch(HelloMismatch::Version { given, own, .. })) = error
    else {
        panic!("{error}")
    };
    assert_eq!((given, own), (9, 1));
    pair.sink.whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_ends_ends_its_offers_and_their_pulls() {
    let pair = Pair::new().await;
    let offered = pair.exporter.offer(pair.offer(1)).unwrap();
    offered.layer_done(0, TOKENS);
    let (pull, importer) = (pair.pull(1), pair.importer.clone());
    let pulling = tokio::spawn(async move { importer.pull(pull).await });
    while pair.exporter.pages_sent() == 0 {
        tokio::task::yield_now().await;
    }
    let Pair { source, sink, exporter, .. } = pair;
    drop(exporter);
    let reason = AbortReason::Closed;
    assert_eq!(offered.outcome().await, Outcome::Aborted { reason });
    assert!(pulling.await.unwrap().is_err());
    source.whole_again().await;
    sink.whole_again().await;
}

/// A puller that asks and then reads nothing can't keep the pages past their lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_puller_that_stops_reading_loses_its_pages_with_the_lease() {
    let layout = KvLayout { head_dim: 4096, kv_heads: 8, ..LAYOUT };
    let lease = Duration::from_millis(30);
    let config = ExporterConfig { lease, ..ExporterConfig::default() };
    let arena = Arc::new(Arena::new(layout, 16).unwrap());
    let cache = KvCache::new(16, layout.block_tokens);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let own = PeerIdentity { layout, ..identity("p", Role::Prefill) };
    let exporter = Exporter::start(listener, arena, own, config);
    let (key, epoch, capability) = (key(), EPOCH, Capability(1));
    let blocks = cache.reserve(16).unwrap();
    let offered = exporter.offer(Offer { key, epoch, capability, blocks, tokens: 256 }).unwrap();

    let mut stuck = TcpStream::connect(address).await.unwrap();
    let mut prefix = [0; 4];
    stuck.read_exact(&mut prefix).await.unwrap();
    let mut hello = vec![0; Frame::length(prefix).unwrap()];
    stuck.read_exact(&mut hello).await.unwrap();
    let (tokens, credits) = (256, 1000);
    let pull = PullRequest {
        key,
        epoch,
        capability,
        tokens,
        first_layer: 0,
        stride: 1,
        skip_blocks: 0,
        credits,
    };
    let mut bytes = [&prefix[..], &hello].concat();
    Frame::Pull(pull).encode(&mut bytes);
    stuck.write_all(&bytes).await.unwrap();
    offered.finish(FIRST);
    assert_eq!(offered.outcome().await, Outcome::Expired);
    while cache.usage().held > 0 {
        tokio::task::yield_now().await;
    }
    drop(stuck);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_into_too_few_blocks_is_refused_here() {
    let pair = Pair::new().await;
    let pull = Pull { tokens: TOKENS + 16, ..pair.pull(1) };
    let error = pair.run(pull).await.unwrap_err();
    assert!(matches!(error, PullError::Blocks { needed: 12, given: 11, .. }), "{error}");
    pair.sink.whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_pull_frees_the_source_at_once() {
    let pair = Pair::new().await;
    let offered = pair.exporter.offer(pair.offer(1)).unwrap();
    let pull = pair.pull(1);
    let to = pull.blocks.clone();
    offered.layer_done(0, TOKENS);
    let importer = pair.importer.clone();
    let pulling = tokio::spawn(async move { importer.pull(pull).await });
    // Under way: the source has sent something.
    while pair.exporter.pages_sent() == 0 {
        tokio::task::yield_now().await;
    }
    pulling.abort();
    assert!(matches!(offered.outcome().await, Outcome::Aborted { .. }));
    drop((offered, to));
    pair.source.whole_again().await;
    pair.sink.whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unpulled_pages_expire_and_withdrawn_ones_are_refused() {
    let lease = Duration::from_millis(30);
    let config = ExporterConfig { lease, ..ExporterConfig::default() };
    let pair = Pair::with(identity("d", Role::Decode), config).await;
    let offered = pair.exporter.offer(pair.offer(1)).unwrap();
    offered.finish(FIRST);
    assert_eq!(offered.outcome().await, Outcome::Expired);
    let offered = pair.exporter.offer(pair.offer(2)).unwrap();
    let pull = pair.pull(2);
    let importer = pair.importer.clone();
    let pulling = tokio::spawn(async move { importer.pull(pull).await });
    offered.layer_done(0, TOKENS);
    while pair.exporter.pages_sent() == 0 {
        tokio::task::yield_now().await;
    }
    drop(offered);
    assert_eq!(nack(pulling.await.unwrap().unwrap_err()), NackReason::Withdrawn);
    pair.source.whole_again().await;
    pair.sink.whole_again().await;
}

/// Forwards one connection after another, flipping a byte of what the source sends at `flip`, or
/// closing there when `cut`.
async fn proxy(to: String, flip: usize, cut: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(&to).await.unwrap();
            let ((mut near_r, mut near_w), (mut far_r, mut far_w)) =
                (near.into_split(), far.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut near_r, &mut far_w).await });
            tokio::spawn(async move {
                let (mut seen, mut buffer) = (0, vec![0; 4096]);
                while let Ok(n @ 1..) = far_r.read(&mut buffer).await {
                    if (seen..seen + n).contains(&flip) {
                        if cut {
                            return;
                        }
                        buffer[flip - seen] ^= 1;
                    }
                    seen += n;
                    if near_w.write_all(&buffer[..n]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupted_and_cut_streams_are_noticed_and_the_next_hand_over_succeeds() {
    for cut in [false, true] {
        let pair = Pair::new().await;
        let offered = pair.exporter.offer(pair.offer(1)).unwrap();
        for layer in 0..LAYOUT.layers {
            offered.layer_done(layer, TOKENS);
        }
        let address = proxy(pair.address.clone(), 20_000, cut).await;
        let error = pair.run(Pull { address, ..pair.pull(1) }).await.unwrap_err();
        let checksum =
            matches!(error, PullError::Sink(baton_kv_transfer::SinkError::Checksum { .. }));
        assert!(checksum != cut, "{error}");
        pair.sink.whole_again().await;
        if !cut {
            let outcome = offered.outcome().await;
            assert!(matches!(outcome, Outcome::Aborted { .. }), "{outcome:?}");
        }
        // When both streams were cut, the source heard nothing: its node takes the offer back.
        drop(offered);
        pair.source.whole_again().await;
        let again = pair.exporter.offer(pair.offer(2)).unwrap();
        again.finish(FIRST);
        assert!(pair.run(pair.pull(2)).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_costs_only_its_sender() {
    let pair = Pair::new().await;
    let mut stranger = TcpStream::connect(&pair.address).await.unwrap();
    stranger.write_all(&[0xff; 64]).await.unwrap();
    let mut rest = Vec::new();
    // Its connection ends, at the latest with the answer to its garbage.
    let _ = stranger.read_to_end(&mut rest).await;
    let offered = pair.exporter.offer(pair.offer(1)).unwrap();
    offered.finish(FIRST);
    assert!(pair.run(pair.pull(1)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_grows_is_followed_to_its_end() {
    let pair = Pair::new().await;
    let (key, epoch, capability) = (key(), EPOCH, Capability(3));
    let mut growing =
        pair.exporter.offer_growing(GrowingOffer { key, epoch, capability, share: 1.0 }).unwrap();
    let pull = Pull { blocks: pair.sink.cache.reserve(2).unwrap(), ..pair.pull(3) };
    let (importer, cache) = (pair.importer.clone(), pair.sink.cache.clone());
    let following = tokio::spawn(async move {
        let reserve = |_there, more| cache.reserve(more);
        importer.follow(pull, &reserve).await
    });

    // While it runs, full blocks leave as they are made.
    let mut table = pair.source.cache.reserve(BLOCKS).unwrap();
    (0..LAYOUT.layers).for_each(|layer| pair.source.fill(layer, &table));
    for blocks in [0, 1, 5, 9] {
        growing.grow(table[..blocks].to_vec(), blocks as u32 * 16).unwrap();
        growing.sent(blocks as u32).await;
        assert!(!following.is_finished());
    }
    // When it grows no more, the rest does.
    table.truncate(BLOCKS);
    growing.last(table.clone(), TOKENS).unwrap();
    let followed = following.await.unwrap().unwrap();
    assert_eq!(followed.tokens, TOKENS);
    assert!(followed.blocks.len() >= BLOCKS && pair.same(&table, &followed.blocks));
    let pages = BLOCKS as u64 * u64::from(LAYOUT.layers);
    let bytes = pages * LAYOUT.page_bytes() as u64;
    assert_eq!((followed.pages, followed.bytes), (pages, bytes));
    assert_eq!(growing.outcome().await, Outcome::Released { pages, bytes });
    drop((table, followed));
    pair.source.whole_again().await;
    pair.sink.whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_without_room_says_so_and_one_whose_source_gives_up_hears_it() {
    let pair = Pair::new().await;
    let (key, epoch) = (key(), EPOCH);
    let table = pair.source.cache.reserve(BLOCKS).unwrap();
    (0..LAYOUT.layers).for_each(|layer| pair.source.fill(layer, &table));
    for gives_up in [false, true] {
        let capability = Capability(gives_up.into());
        let mut growing = pair
            .exporter
            .offer_growing(GrowingOffer { key, epoch, capability, share: 1.0 })
            .unwrap();
        let blocks = pair.sink.cache.reserve(2).unwrap();
        let pull = Pull { blocks, capability, ..pair.pull(0) };
        let (importer, cache) = (pair.importer.clone(), pair.sink.cache.clone());
        let _others = (!gives_up).then(|| {
            let free = cache.usage().free as usize;
            cache.reserve(free).unwrap()
        });
        let following = tokio::spawn(async move {
            let reserve = |_there, more| cache.reserve(more);
            importer.follow(pull, &reserve).await
        });
        growing.grow(table.clone(), 160).unwrap();
        if gives_up {
            growing.sent(2).await;
            drop(growing);
            let reason = nack(following.await.unwrap().unwrap_err());
            assert_eq!(reason, NackReason::Withdrawn);
        } else {
            let error = following.await.unwrap().unwrap_err();
            assert!(matches!(error, PullError::PoolFull(_)), "{error}");
            let reason = AbortReason::Puller;
            assert_eq!(growing.outcome().await, Outcome::Aborted { reason });
        }
    }
    drop(table);
    pair.source.whole_again().await;
    pair.sink.whole_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_came_first_and_has_everything_is_noticed() {
    let pair = Pair::new().await;
    let (key, epoch, capability) = (key(), EPOCH, Capability(4));
    let pull = Pull { skip_blocks: 3, ..pair.pull(4) };
    let importer = pair.importer.clone();
    let following =
        tokio::spawn(async move { importer.follow(pull, &|_, _| Ok(Vec::new())).await });
    // Both its connections wait for the offer.
    while pair.exporter.parked() < 2 {
        tokio::task::yield_now().await;
    }
    let mut growing =
        pair.exporter.offer_growing(GrowingOffer { key, epoch, capability, share: 1.0 }).unwrap();
    let table = pair.source.cache.reserve(4).unwrap();
    growing.grow(table[..3].to_vec(), 48).unwrap();
    growing.sent(3).await;
    growing.last(table, 50).unwrap();
    assert_eq!(following.await.unwrap().unwrap().pages, u64::from(LAYOUT.layers));
}
