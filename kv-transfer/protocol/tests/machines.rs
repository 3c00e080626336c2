//! Source and sink over a virtual link that delays, corrupts and breaks, under any order of offers,
//! progress, pulls, cancels, withdrawals and expiries.
#![allow(clippy::unwrap_used)]

use std::{collections::VecDeque, time::Duration};

use baton_transfer_protocol::{
    Ending, Event, FirstToken, Frame, NackReason, OfferId, OfferSpec, Outcome, PageRun,
    PullRequest, Sink, SinkError, SinkSpec, Source, SourceConfig, StreamId, Transmit,
};
use baton_types::{
    Capability, ChoiceIndex, Epoch, KvDtype, KvLayout, RequestId, RouterId, SequenceKey, Time,
    TokenId,
};
use proptest::prelude::*;

const LAYOUT: KvLayout =
    KvLayout { layers: 3, kv_heads: 1, head_dim: 16, block_tokens: 16, dtype: KvDtype::F16 };
const TOKENS: u32 = 16 * 4 + 5;
const BLOCKS: u32 = 5;
const STREAMS: u32 = 2;
const FIRST: FirstToken = FirstToken { token: TokenId(3), logits_digest: 4 };
const MILLISECOND: Duration = Duration::from_millis(1);
const CONFIG: SourceConfig = SourceConfig {
    lease: Duration::from_millis(40),
    park: Duration::from_millis(30),
    max_parked: 3,
};

#[derive(Clone, Copy, Debug)]
enum Op {
    Offer,
    LayerDone { layer: u32, tokens: u32 },
    Finish,
    Withdraw,
    Pull { skip_blocks: u32, stale: bool },
    DropPull,
    Cut { stream: u32 },
    Corrupt,
    Wait { milliseconds: u8 },
}

fn ops() -> impl Strategy<Value = Vec<(usize, Op)>> {
    let op = prop_oneof![
        3 => Just(Op::Offer),
        6 => (0..LAYOUT.layers, 0..=TOKENS)
            .prop_map(|(layer, tokens)| Op::LayerDone { layer, tokens }),
        3 => Just(Op::Finish),
        1 => Just(Op::Withdraw),
        3 => (0..=BLOCKS, prop::bool::weighted(0.1))
            .prop_map(|(skip_blocks, stale)| Op::Pull { skip_blocks, stale }),
        1 => Just(Op::DropPull),
        1 => (0..STREAMS).prop_map(|stream| Op::Cut { stream }),
        1 => Just(Op::Corrupt),
        6 => (1..12_u8).prop_map(|milliseconds| Op::Wait { milliseconds }),
    ];
    prop::collection::vec((0..3_usize, op), 1..60)
}

/// What arrives at the source's end of a stream.
enum Up {
    Frame(Vec<u8>),
    Closed,
}

/// One stream: what is under way each way. Pages travel as the frame and their contents.
#[derive(Default)]
struct Link {
    up: VecDeque<(Time, Up)>,
    down: VecDeque<(Time, Vec<u8>, Vec<u64>)>,
}

struct Puller {
    sink: Sink,
    skip_blocks: u32,
    stale: bool,
    pages: [[Option<u64>; BLOCKS as usize]; LAYOUT.layers as usize],
    result: Option<Result<(), SinkError>>,
}

/// One hand-over: what the node knows of its offer, and who pulls it.
#[derive(Default)]
struct HandOver {
    offer: Option<OfferId>,
    done: [u32; LAYOUT.layers as usize],
    ended: Option<Outcome>,
    puller: Option<Puller>,
    links: [Link; STREAMS as usize],
    corrupt: bool,
}

struct World {
    now: Time,
    delay: Duration,
    source: Source,
    hand_overs: Vec<HandOver>,
}

fn content(n: usize, layer: u32, block: u32) -> u64 {
    n as u64 * 10_000 + u64::from(layer) * 100 + u64::from(block)
}

fn checksum(content: u64) -> u64 {
    content.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn stream_id(n: usize, stream: usize) -> StreamId {
    StreamId((n * STREAMS as usize + stream) as u64)
}

fn key(n: usize) -> SequenceKey {
    SequenceKey { request: RequestId(n as u128), choice: ChoiceIndex(0) }
}

fn epoch(counter: u64) -> Epoch {
    Epoch { counter, router: RouterId(1) }
}

fn encoded(frame: Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes.split_off(4)
}

impl World {
    fn new(delay: u8, hand_overs: usize) -> Self {
        World {
            now: Time::ZERO,
            delay: MILLISECOND * delay.into(),
            source: Source::new(CONFIG, LAYOUT),
            hand_overs: (0..hand_overs).map(|_| HandOver::default()).collect(),
        }
    }

    fn apply(&mut self, n: usize, op: Op) {
        let live = self.hand_overs[n].offer.filter(|_| self.hand_overs[n].ended.is_none());
        match op {
            Op::Offer if self.hand_overs[n].offer.is_none() => {
                let capability = Capability(n as u128);
                let spec = OfferSpec { key: key(n), epoch: epoch(2), capability, tokens: TOKENS };
                self.hand_overs[n].offer = Some(self.source.offer(spec).unwrap());
            }
            Op::LayerDone { layer, tokens } => {
                if let Some(id) = live {
                    self.source.layer_done(id, layer, tokens);
                    let done = &mut self.hand_overs[n].done[layer as usize];
                    *done = tokens.max(*done);
                }
            }
            Op::Finish => {
                if let Some(id) = live {
                    self.source.finished(self.now, id, FIRST);
                    self.hand_overs[n].done = [TOKENS; LAYOUT.layers as usize];
                }
            }
            Op::Withdraw => {
                if let Some(id) = self.hand_overs[n].offer {
                    self.source.withdraw(id);
                }
            }
            Op::Pull { skip_blocks, stale } if self.hand_overs[n].puller.is_none() => {
                self.begin_pull(n, skip_blocks, stale);
            }
            Op::DropPull => self.fail(n, SinkError::Nack(NackReason::Withdrawn)),
            Op::Cut { stream } if self.is_pulling(n) => {
                self.source.stream_lost(stream_id(n, stream as usize));
                self.hand_overs[n].links[stream as usize] = Link::default();
                self.fail(n, SinkError::Nack(NackReason::Unknown));
            }
            Op::Corrupt => self.hand_overs[n].corrupt = true,
            Op::Wait { milliseconds } => self.wait(milliseconds.into()),
            Op::Offer | Op::Pull { .. } | Op::Cut { .. } => {}
        }
        self.settle();
    }

    fn is_pulling(&self, n: usize) -> bool {
        self.hand_overs[n].puller.as_ref().is_some_and(|puller| puller.result.is_none())
    }

    fn begin_pull(&mut self, n: usize, skip_blocks: u32, stale: bool) {
        let silence = Duration::from_millis(20);
        let (layout, tokens, streams) = (LAYOUT, TOKENS, STREAMS);
        let sink = Sink::new(SinkSpec { layout, tokens, skip_blocks, streams, silence });
        let pages = Default::default();
        self.hand_overs[n].puller = Some(Puller { sink, skip_blocks, stale, pages, result: None });
        for stream in 0..STREAMS {
            self.source.stream_opened(stream_id(n, stream as usize));
            let pull = PullRequest {
                key: key(n),
                epoch: epoch(if stale { 1 } else { 2 }),
                capability: Capability(n as u128),
                tokens: TOKENS,
                first_layer: stream,
                stride: STREAMS,
                skip_blocks,
                credits: 2,
            };
            self.send_up(n, stream as usize, Frame::Pull(pull));
        }
    }

    fn send_up(&mut self, n: usize, stream: usize, frame: Frame) {
        let due = self.now + self.delay;
        self.hand_overs[n].links[stream].up.push_back((due, Up::Frame(encoded(frame))));
    }

    /// The pull ends badly: every stream says so and closes, as the driver's do.
    fn fail(&mut self, n: usize, error: SinkError) {
        if !self.is_pulling(n) {
            return;
        }
        self.hand_overs[n].puller.as_mut().unwrap().result = Some(Err(error));
        for stream in 0..STREAMS as usize {
            self.send_up(n, stream, Frame::Abort);
            let due = self.now + self.delay;
            let link = &mut self.hand_overs[n].links[stream];
            link.up.push_back((due, Up::Closed));
            link.down.clear();
        }
    }

    fn wait(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds {
            self.now += MILLISECOND;
            if self.source.poll_timeout().is_some_and(|at| at <= self.now) {
                self.source.handle_timeout(self.now);
                let next = self.source.poll_timeout();
                assert!(next.is_none_or(|at| at > self.now), "a timeout that doesn't go away");
            }
            for n in 0..self.hand_overs.len() {
                let now = self.now;
                if self.is_pulling(n)
                    && let Err(error) =
                        self.hand_overs[n].puller.as_mut().unwrap().sink.handle_timeout(now)
                {
                    self.fail(n, error);
                }
            }
            self.settle();
        }
    }

    /// Everything that happens now: sends, arrivals, ends; until nothing more does.
    fn settle(&mut self) {
        loop {
            while let Some(Event { offer, outcome }) = self.source.poll_event() {
                let hand_over = self.hand_overs.iter_mut().find(|h| h.offer == Some(offer));
                let ended = hand_over.unwrap().ended.replace(outcome);
                assert_eq!(ended, None, "no-leak: an offer ends once");
            }
            let mut busy = false;
            for n in 0..self.hand_overs.len() {
                for stream in 0..STREAMS as usize {
                    busy |= self.transmit(n, stream);
                    busy |= self.deliver_up(n, stream);
                    busy |= self.deliver_down(n, stream);
                }
            }
            if !busy {
                return;
            }
        }
    }

    fn transmit(&mut self, n: usize, stream: usize) -> bool {
        let Some(transmit) = self.source.poll_transmit(stream_id(n, stream)) else { return false };
        let hand_over = &mut self.hand_overs[n];
        let (frame, mut contents) = match transmit {
            Transmit::Ending(Ending::First(first)) => (Frame::First(first), Vec::new()),
            Transmit::Ending(other) => panic!("{other:?} of a prompt"),
            Transmit::Nack(reason) => (Frame::Nack(reason), Vec::new()),
            Transmit::Pages { offer, layer, first_block, count } => {
                assert_eq!(hand_over.offer, Some(offer), "pages of another offer");
                assert_eq!(hand_over.ended, None, "no-stale-page: pages of an ended offer");
                assert!(!hand_over.puller.as_ref().unwrap().stale, "one-owner: a stale pull");
                let last = (first_block + count) * LAYOUT.block_tokens;
                let done = hand_over.done[layer as usize];
                assert!(done >= last.min(TOKENS), "no-stale-page: {done} of {last} are final");
                let blocks = first_block..first_block + count;
                let contents: Vec<_> = blocks.map(|block| content(n, layer, block)).collect();
                let checksums = contents.iter().map(|&content| checksum(content)).collect();
                (Frame::Pages(PageRun { layer, first_block, checksums }), contents)
            }
        };
        if let (true, Some(page)) = (hand_over.corrupt, contents.last_mut()) {
            *page ^= 1;
            hand_over.corrupt = false;
        }
        let due = self.now + self.delay;
        hand_over.links[stream].down.push_back((due, encoded(frame), contents));
        true
    }

    fn deliver_up(&mut self, n: usize, stream: usize) -> bool {
        let queue = &mut self.hand_overs[n].links[stream].up;
        let Some((_, up)) = queue.pop_front_if(|(due, _)| *due <= self.now) else { return false };
        let id = stream_id(n, stream);
        match up {
            Up::Closed => self.source.stream_lost(id),
            Up::Frame(body) => match Frame::decode(&body).unwrap() {
                Frame::Pull(pull) => self.source.pull(self.now, id, pull),
                Frame::Credit { pages } => self.source.credit(self.now, id, pages),
                Frame::Release => self.source.released(id),
                Frame::Abort => self.source.aborted(id),
                other => panic!("{other:?} from a sink"),
            },
        }
        true
    }

    fn deliver_down(&mut self, n: usize, stream: usize) -> bool {
        let now = self.now;
        let queue = &mut self.hand_overs[n].links[stream].down;
        let Some((_, body, contents)) = queue.pop_front_if(|(due, ..)| *due <= now) else {
            return false;
        };
        if !self.is_pulling(n) {
            return true;
        }
        match self.arrive(n, stream, Frame::decode(&body).unwrap(), &contents) {
            Err(error) => self.fail(n, error),
            Ok(()) if !contents.is_empty() => {
                self.send_up(n, stream, Frame::Credit { pages: contents.len() as u32 });
            }
            Ok(()) => {}
        }
        self.complete(n);
        true
    }

    fn arrive(
        &mut self,
        n: usize,
        at: usize,
        frame: Frame,
        pages: &[u64],
    ) -> Result<(), SinkError> {
        let now = self.now;
        let puller = self.hand_overs[n].puller.as_mut().expect("asked before");
        match frame {
            Frame::Pages(run) => {
                puller.sink.expect(now, at as u32, &run)?;
                for ((block, &page), &expected) in
                    (run.first_block..).zip(pages).zip(&run.checksums)
                {
                    puller.sink.arrived(now, run.layer, expected, checksum(page))?;
                    let slot = &mut puller.pages[run.layer as usize][block as usize];
                    assert_eq!(slot.replace(page), None, "a page came twice");
                }
                Ok(())
            }
            Frame::First(first) => puller.sink.ending(now, at as u32, Ending::First(first)),
            Frame::Nack(reason) => Err(reason.into()),
            other => panic!("{other:?} from a source"),
        }
    }

    fn complete(&mut self, n: usize) {
        let Some(puller) = &mut self.hand_overs[n].puller else { return };
        if puller.result.is_some() || puller.sink.complete().is_none() {
            return;
        }
        puller.result = Some(Ok(()));
        for (layer, blocks) in (0..).zip(&puller.pages) {
            for (block, &page) in (0..).zip(blocks) {
                let expected = (block >= puller.skip_blocks).then(|| content(n, layer, block));
                assert_eq!(page, expected, "no-stale-page: ({layer}, {block}) of {n}");
            }
        }
        for stream in 0..STREAMS as usize {
            self.send_up(n, stream, Frame::Release);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn any_faults_leave_no_leak_no_stale_page_and_a_source_that_heals(
        ops in ops(), delay in 0..6_u8,
    ) {
        let mut world = World::new(delay, 4);
        for (n, op) in ops {
            world.apply(n, op);
        }
        // Faults stop; prompts that will never be finished are cancelled by their requests.
        world.wait(100);
        for n in 0..3 {
            world.apply(n, Op::Withdraw);
        }
        world.wait(100);
        prop_assert_eq!(world.source.offers(), 0, "no-leak");
        prop_assert_eq!(world.source.poll_timeout(), None, "no-leak: something still waits");
        for hand_over in &world.hand_overs {
            prop_assert_eq!(hand_over.offer.is_some(), hand_over.ended.is_some());
            if let Some(puller) = &hand_over.puller {
                prop_assert!(puller.result.is_some(), "heals: a pull that never ends");
            }
            if matches!(hand_over.ended, Some(Outcome::Released { .. })) {
                let complete = hand_over.puller.as_ref().map(|puller| puller.result);
                prop_assert_eq!(complete, Some(Some(Ok(()))), "released before it was whole");
            }
        }
        // The next hand-over goes well.
        world.apply(3, Op::Pull { skip_blocks: 1, stale: false });
        world.apply(3, Op::Offer);
        world.apply(3, Op::Finish);
        world.wait(100);
        let pages = u64::from((BLOCKS - 1) * LAYOUT.layers);
        let bytes = pages * LAYOUT.page_bytes() as u64;
        prop_assert_eq!(&world.hand_overs[3].ended, &Some(Outcome::Released { pages, bytes }));
    }
}
