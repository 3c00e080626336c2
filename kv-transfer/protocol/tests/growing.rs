//! A sequence's pages are pulled while it runs: whatever the order of growth, room and sends, the sink has
//! every page once, none before it was final, and none there is no room for.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use baton_transfer_protocol::{
    Ending, Event, FirstToken, GROWING, OfferSpec, Outcome, PageRun, PullRequest, Sink, SinkError,
    SinkSpec, Source, SourceConfig, StreamId, Transmit,
};
use baton_types::{
    Capability, ChoiceIndex, Epoch, KvDtype, KvLayout, RequestId, RouterId, SequenceKey, Time,
    TokenId,
};
use proptest::prelude::*;

const LAYOUT: KvLayout =
    KvLayout { layers: 3, kv_heads: 1, head_dim: 16, block_tokens: 4, dtype: KvDtype::F16 };
const STREAMS: u32 = 2;
const NOW: Time = Time::ZERO;

#[derive(Clone, Copy, Debug)]
enum Op {
    /// The sequence made so many tokens more.
    Grow(u32),
    /// There is room for so many blocks more.
    Extend(u32),
    /// A stream sends as much as it may.
    Send(u32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (1..9_u32).prop_map(Op::Grow),
        (1..4_u32).prop_map(Op::Extend),
        (0..STREAMS).prop_map(Op::Send),
    ]
}

fn spec() -> OfferSpec {
    OfferSpec {
        key: SequenceKey { request: RequestId(1), choice: ChoiceIndex(0) },
        epoch: Epoch { counter: 2, router: RouterId(1) },
        capability: Capability(7),
        tokens: GROWING,
    }
}

fn pull(stream: u32, skip_blocks: u32) -> PullRequest {
    let OfferSpec { key, epoch, capability, tokens } = spec();
    let (first_layer, stride, credits) = (stream, STREAMS, 1000);
    PullRequest { key, epoch, capability, tokens, first_layer, stride, skip_blocks, credits }
}

fn sink(skip_blocks: u32) -> Sink {
    let silence = Duration::from_secs(1);
    Sink::new(SinkSpec { layout: LAYOUT, tokens: GROWING, skip_blocks, streams: STREAMS, silence })
}

struct World {
    source: Source,
    sink: Sink,
    tokens: u32,
    room: u32,
}

impl World {
    fn send(&mut self, stream: u32) -> Result<(), SinkError> {
        while let Some(transmit) = self.source.poll_transmit(StreamId(stream.into())) {
            match transmit {
                Transmit::Ending(ending) => self.sink.ending(NOW, stream, ending)?,
                Transmit::Nack(reason) => return Err(reason.into()),
                Transmit::Pages { layer, first_block, count, .. } => {
                    let last = (first_block + count) * LAYOUT.block_tokens;
                    let is_over = self.sink.complete().is_some();
                    assert!(!is_over && first_block + count <= self.room, "there is no room");
                    assert!(last < self.tokens + LAYOUT.block_tokens, "no-stale-page");
                    let checksums = vec![0; count as usize];
                    self.sink.expect(NOW, stream, &PageRun { layer, first_block, checksums })?;
                    for _ in 0..count {
                        self.sink.arrived(NOW, layer, 0, 0)?;
                    }
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn what_is_made_meanwhile_comes_too(
        ops in prop::collection::vec(op(), 0..40), skip in 0..3_u32, begins in 12..30_u32,
    ) {
        let mut source = Source::new(SourceConfig::default(), LAYOUT);
        let offer = source.offer(spec()).unwrap();
        for stream in 0..STREAMS {
            source.stream_opened(StreamId(stream.into()));
            source.pull(NOW, StreamId(stream.into()), pull(stream, skip));
        }
        source.grown(offer, begins);
        let mut world = World { source, sink: sink(skip), tokens: begins, room: 0 };
        for op in ops {
            match op {
                Op::Grow(more) => {
                    world.tokens += more;
                    world.source.grown(offer, world.tokens);
                }
                Op::Extend(more) => {
                    world.room += more;
                    world.sink.extend(world.room);
                    (0..STREAMS).for_each(|s| world.source.extended(StreamId(s.into()), world.room));
                }
                Op::Send(stream) => world.send(stream).unwrap(),
            }
            let sent = world.source.sent_blocks(offer);
            prop_assert_eq!(sent, Some(world.sink.arrived_blocks()));
        }
        let blocks = world.tokens.div_ceil(LAYOUT.block_tokens);
        world.source.last(NOW, offer, world.tokens);
        world.room = world.room.max(blocks);
        world.sink.extend(world.room);
        (0..STREAMS).for_each(|s| world.source.extended(StreamId(s.into()), world.room));
        for stream in 0..STREAMS {
            world.send(stream).unwrap();
        }
        let ending = Ending::Last { tokens: world.tokens };
        prop_assert_eq!(world.sink.complete(), Some((ending, NOW)));
        let pages = u64::from(blocks - skip) * u64::from(LAYOUT.layers);
        prop_assert_eq!(world.sink.pages(), pages);
        world.source.released(StreamId(0));
        let bytes = pages * LAYOUT.page_bytes() as u64;
        let outcome = Outcome::Released { pages, bytes };
        prop_assert_eq!(world.source.poll_event(), Some(Event { offer, outcome }));
    }
}

#[test]
fn a_sequence_that_outgrows_its_room_is_refused_with_both_values() {
    let mut sink = sink(0);
    sink.extend(2);
    let error = sink.ending(NOW, 0, Ending::Last { tokens: 9 }).unwrap_err();
    assert_eq!(error, SinkError::NoRoom { tokens: 9, blocks: 2 });
}

#[test]
fn a_prompts_ending_is_no_sequences() {
    let first = FirstToken { token: TokenId(1), logits_digest: 2 };
    let given = Ending::First(first);
    let error = sink(0).ending(NOW, 0, given).unwrap_err();
    assert_eq!(error, SinkError::WrongEnding { given, tokens: GROWING });
}
