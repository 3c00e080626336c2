//! What travels on a stream: `u32` length, `u8` kind, body; all little endian. The bytes of pages
//! follow their [`PageRun`] outside the length.

use baton_types::{
    Capability, ChoiceIndex, Epoch, Generation, KvDtype, KvLayout, NodeId, NumericsId, RequestId,
    Role, RouterId, SequenceKey, TokenId,
};

use crate::FirstToken;

/// Version of the page-transfer protocol.
pub const VERSION: u32 = 1;
/// No frame's length is larger: checked before anything is allocated.
pub const MAX_FRAME_BYTES: usize = 4096;
/// The tokens of an offer that grows while it is pulled: its [`Frame::Last`] tells how many.
pub const GROWING: u32 = u32::MAX;
/// Pages in one run.
pub const MAX_RUN: usize = 64;
const MAX_NAME: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Hello(Hello),
    /// Sink → source: send me these layers.
    Pull(PullRequest),
    /// Sink → source: so many pages more may be on their way.
    Credit {
        pages: u32,
    },
    /// Source → sink: pages of one layer, their bytes right behind.
    Pages(PageRun),
    /// Source → sink: the prompt is computed. Comes before the last pages.
    First(FirstToken),
    /// Sink → source, where the offer grows: there is room for so many blocks in all.
    Extend {
        blocks: u32,
    },
    /// Source → sink: the offer has grown to so many tokens, and grows no more. Comes before the last
    /// pages.
    Last {
        tokens: u32,
    },
    /// Sink → source: everything arrived.
    Release,
    /// Source → sink: no, and why.
    Nack(NackReason),
    /// Either way: forget this transfer.
    Abort,
}

/// First frame of every stream, both ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub version: u32,
    pub node: NodeId,
    pub generation: Generation,
    pub role: Role,
    pub numerics: NumericsId,
    pub layout: KvLayout,
}

/// Layers `first_layer, first_layer + stride, …` of a sequence's blocks from `skip_blocks` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullRequest {
    pub key: SequenceKey,
    pub epoch: Epoch,
    pub capability: Capability,
    /// [`GROWING`] of a sequence that still runs.
    pub tokens: u32,
    pub first_layer: u32,
    pub stride: u32,
    pub skip_blocks: u32,
    pub credits: u32,
}

/// `checksums.len()` pages of `layer`: blocks `first_block…` of the sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRun {
    pub layer: u32,
    pub first_block: u32,
    /// xxh3-64 of each page.
    pub checksums: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NackReason {
    #[error("nothing was offered under this capability in time")]
    Unknown,
    #[error("the offer is of epoch {current}, the pull of {given}")]
    Epoch { given: Epoch, current: Epoch },
    #[error("the offer is of {current}, the pull of {given}")]
    Key { given: SequenceKey, current: SequenceKey },
    #[error("the offer has {current} tokens, the pull expects {given}")]
    Tokens { given: u32, current: u32 },
    #[error("the pull's layers or blocks lie outside the offer")]
    Range,
    #[error("the offer was withdrawn")]
    Withdrawn,
    #[error("the offer's lease has expired")]
    Expired,
    #[error("too many pulls wait for their offers")]
    Busy,
    #[error("{key} is offered under another capability")]
    Capability { key: SequenceKey },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {given} bytes; at most {MAX_FRAME_BYTES} are allowed")]
    TooLong { given: usize },
    #[error("a frame of kind {kind} ends after {given} bytes, in the middle of a field")]
    Short { kind: u8, given: usize },
    #[error("a frame of kind {kind} has {extra} bytes too many")]
    Trailing { kind: u8, extra: usize },
    #[error("frame kind {kind} is not known here")]
    Kind { kind: u8 },
    #[error("{field} is {given}, which is not valid")]
    Value { field: &'static str, given: u64 },
}

/// Why two nodes can't exchange pages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloMismatch {
    #[error("{peer} speaks transfer version {given}, this node {own}")]
    Version { peer: NodeId, given: u32, own: u32 },
    #[error("{peer} computes with numerics {given}, this node with {own}")]
    Numerics { peer: NodeId, given: NumericsId, own: NumericsId },
    #[error("{peer} has pages of {given}, this node of {own}")]
    Layout { peer: NodeId, given: KvLayout, own: KvLayout },
}

impl Hello {
    /// Whether `peer` and this node can exchange pages.
    pub fn check(&self, peer: &Hello) -> Result<(), HelloMismatch> {
        let name = || peer.node.clone();
        if peer.version != self.version {
            let (given, own) = (peer.version, self.version);
            return Err(HelloMismatch::Version { peer: name(), given, own });
        }
        if peer.numerics != self.numerics {
            let (given, own) = (peer.numerics, self.numerics);
            return Err(HelloMismatch::Numerics { peer: name(), given, own });
        }
        if peer.layout != self.layout {
            let (given, own) = (peer.layout, self.layout);
            return Err(HelloMismatch::Layout { peer: name(), given, own });
        }
        Ok(())
    }
}

impl Frame {
    /// Appends the frame, length first.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        let mut w = Writer(out);
        match self {
            Frame::Hello(hello) => {
                w.u8(1);
                w.hello(hello);
            }
            Frame::Pull(pull) => {
                w.u8(2);
                w.key(pull.key);
                w.epoch(pull.epoch);
                w.u128(pull.capability.0);
                let PullRequest { tokens, first_layer, stride, skip_blocks, credits, .. } = *pull;
                for x in [tokens, first_layer, stride, skip_blocks, credits] {
                    w.u32(x);
                }
            }
            Frame::Credit { pages } => {
                w.u8(3);
                w.u32(*pages);
            }
            Frame::Pages(run) => {
                w.u8(4);
                for x in [run.layer, run.first_block, run.checksums.len() as u32] {
                    w.u32(x);
                }
                run.checksums.iter().for_each(|&checksum| w.u64(checksum));
            }
            Frame::First(first) => {
                w.u8(5);
                w.u32(first.token.0);
                w.u64(first.logits_digest);
            }
            Frame::Release => w.u8(6),
            Frame::Nack(reason) => {
                w.u8(7);
                w.nack(*reason);
            }
            Frame::Abort => w.u8(8),
            Frame::Extend { blocks } => {
                w.u8(9);
                w.u32(*blocks);
            }
            Frame::Last { tokens } => {
                w.u8(10);
                w.u32(*tokens);
            }
        }
        let len = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    }

    /// The length a frame's first four bytes announce, if it is allowed.
    pub fn length(prefix: [u8; 4]) -> Result<usize, FrameError> {
        match u32::from_le_bytes(prefix) as usize {
            given if given > MAX_FRAME_BYTES => Err(FrameError::TooLong { given }),
            given => Ok(given),
        }
    }

    /// The frame in `body`, which is all that follows the length.
    pub fn decode(body: &[u8]) -> Result<Frame, FrameError> {
        let kind = body.first().copied().unwrap_or(0);
        let mut r = Reader { kind, rest: body, given: body.len() };
        r.u8()?;
        let frame = match kind {
            1 => Frame::Hello(r.hello()?),
            2 => Frame::Pull(PullRequest {
                key: r.key()?,
                epoch: r.epoch()?,
                capability: Capability(r.u128()?),
                tokens: r.u32()?,
                first_layer: r.u32()?,
                stride: r.u32()?,
                skip_blocks: r.u32()?,
                credits: r.u32()?,
            }),
            3 => Frame::Credit { pages: r.u32()? },
            4 => {
                let (layer, first_block, count) = (r.u32()?, r.u32()?, r.u32()?);
                if count == 0 || count as usize > MAX_RUN {
                    return Err(FrameError::Value { field: "pages in a run", given: count.into() });
                }
                let checksums = (0..count).map(|_| r.u64()).collect::<Result<_, _>>()?;
                Frame::Pages(PageRun { layer, first_block, checksums })
            }
            5 => {
                let (token, logits_digest) = (TokenId(r.u32()?), r.u64()?);
                Frame::First(FirstToken { token, logits_digest })
            }
            6 => Frame::Release,
            7 => Frame::Nack(r.nack()?),
            8 => Frame::Abort,
            9 => Frame::Extend { blocks: r.u32()? },
            10 => Frame::Last { tokens: r.u32()? },
            kind => return Err(FrameError::Kind { kind }),
        };
        match r.rest.len() {
            0 => Ok(frame),
            extra => Err(FrameError::Trailing { kind, extra }),
        }
    }
}

struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn u8(&mut self, x: u8) {
        self.0.push(x);
    }
    fn u32(&mut self, x: u32) {
        self.0.extend_from_slice(&x.to_le_bytes());
    }
    fn u64(&mut self, x: u64) {
        self.0.extend_from_slice(&x.to_le_bytes());
    }
    fn u128(&mut self, x: u128) {
        self.0.extend_from_slice(&x.to_le_bytes());
    }
    fn key(&mut self, key: SequenceKey) {
        self.u128(key.request.0);
        self.u32(key.choice.0.into());
    }
    fn epoch(&mut self, epoch: Epoch) {
        self.u64(epoch.counter);
        self.u64(epoch.router.0);
    }
    fn hello(&mut self, hello: &Hello) {
        self.u32(hello.version);
        let name = hello.node.0.as_bytes();
        let name = &name[..name.len().min(MAX_NAME)];
        self.u32(name.len() as u32);
        self.0.extend_from_slice(name);
        self.u64(hello.generation.0);
        self.u8(match hello.role {
            Role::Prefill => 1,
            Role::Decode => 2,
        });
        self.u128(hello.numerics.0);
        let KvLayout { layers, kv_heads, head_dim, block_tokens, dtype } = hello.layout;
        for x in [layers, kv_heads, head_dim, block_tokens] {
            self.u32(x);
        }
        self.u8(match dtype {
            KvDtype::F16 => 1,
            KvDtype::F32 => 2,
        });
    }
    fn nack(&mut self, reason: NackReason) {
        match reason {
            NackReason::Unknown => self.u8(1),
            NackReason::Epoch { given, current } => {
                self.u8(2);
                self.epoch(given);
                self.epoch(current);
            }
            NackReason::Key { given, current } => {
                self.u8(3);
                self.key(given);
                self.key(current);
            }
            NackReason::Tokens { given, current } => {
                self.u8(4);
                self.u32(given);
                self.u32(current);
            }
            NackReason::Range => self.u8(5),
            NackReason::Withdrawn => self.u8(6),
            NackReason::Expired => self.u8(7),
            NackReason::Busy => self.u8(8),
            NackReason::Capability { key } => {
                self.u8(9);
                self.key(key);
            }
        }
    }
}

struct Reader<'a> {
    kind: u8,
    rest: &'a [u8],
    given: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let short = FrameError::Short { kind: self.kind, given: self.given };
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(short)?;
        self.rest = rest;
        Ok(*bytes)
    }
    fn u8(&mut self) -> Result<u8, FrameError> {
        self.take::<1>().map(|[byte]| byte)
    }
    fn u32(&mut self) -> Result<u32, FrameError> {
        self.take().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Result<u64, FrameError> {
        self.take().map(u64::from_le_bytes)
    }
    fn u128(&mut self) -> Result<u128, FrameError> {
        self.take().map(u128::from_le_bytes)
    }
    fn key(&mut self) -> Result<SequenceKey, FrameError> {
        let (request, choice) = (RequestId(self.u128()?), self.u32()?);
        let refused = |_| FrameError::Value { field: "choice", given: choice.into() };
        Ok(SequenceKey { request, choice: ChoiceIndex(u16::try_from(choice).map_err(refused)?) })
    }
    fn epoch(&mut self) -> Result<Epoch, FrameError> {
        Ok(Epoch { counter: self.u64()?, router: RouterId(self.u64()?) })
    }
    fn hello(&mut self) -> Result<Hello, FrameError> {
        let version = self.u32()?;
        let len = self.u32()? as usize;
        if len > MAX_NAME || len > self.rest.len() {
            return Err(FrameError::Value { field: "length of a node's name", given: len as u64 });
        }
        let (name, rest) = self.rest.split_at(len);
        self.rest = rest;
        let node = NodeId::from(String::from_utf8_lossy(name).as_ref());
        let generation = Generation(self.u64()?);
        let role = match self.u8()? {
            1 => Role::Prefill,
            2 => Role::Decode,
            given => return Err(FrameError::Value { field: "role", given: given.into() }),
        };
        let numerics = NumericsId(self.u128()?);
        let (layers, kv_heads) = (self.u32()?, self.u32()?);
        let (head_dim, block_tokens) = (self.u32()?, self.u32()?);
        let dtype = match self.u8()? {
            1 => KvDtype::F16,
            2 => KvDtype::F32,
            given => return Err(FrameError::Value { field: "dtype", given: given.into() }),
        };
        let layout = KvLayout { layers, kv_heads, head_dim, block_tokens, dtype };
        Ok(Hello { version, node, generation, role, numerics, layout })
    }
    fn nack(&mut self) -> Result<NackReason, FrameError> {
        Ok(match self.u8()? {
            1 => NackReason::Unknown,
            2 => NackReason::Epoch { given: self.epoch()?, current: self.epoch()? },
            3 => NackReason::Key { given: self.key()?, current: self.key()? },
            4 => NackReason::Tokens { given: self.u32()?, current: self.u32()? },
            5 => NackReason::Range,
            6 => NackReason::Withdrawn,
            7 => NackReason::Expired,
            8 => NackReason::Busy,
            9 => NackReason::Capability { key: self.key()? },
            given => return Err(FrameError::Value { field: "nack", given: given.into() }),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> Vec<Frame> {
        let key = SequenceKey { request: RequestId(5), choice: ChoiceIndex(1) };
        let epoch = Epoch { counter: 3, router: RouterId(9) };
        let dtype = KvDtype::F16;
        let layout = KvLayout { layers: 2, kv_heads: 1, head_dim: 64, block_tokens: 16, dtype };
        vec![
            Frame::Hello(Hello {
                version: VERSION,
                node: "n".into(),
                generation: Generation(7),
                role: Role::Decode,
                numerics: NumericsId(11),
                layout,
            }),
            Frame::Pull(PullRequest {
                key,
                epoch,
                capability: Capability(99),
                tokens: 40,
                first_layer: 1,
                stride: 2,
                skip_blocks: 1,
                credits: 64,
            }),
            Frame::Credit { pages: 8 },
            Frame::Pages(PageRun { layer: 1, first_block: 2, checksums: vec![1, 2, 3] }),
            Frame::First(FirstToken { token: TokenId(4), logits_digest: 5 }),
            Frame::Release,
            Frame::Nack(NackReason::Epoch { given: epoch, current: epoch }),
            Frame::Nack(NackReason::Key { given: key, current: key }),
            Frame::Nack(NackReason::Capability { key }),
            Frame::Abort,
            Frame::Extend { blocks: 6 },
            Frame::Last { tokens: 83 },
        ]
    }

    #[test]
    fn frames_round_trip() {
        for frame in frames() {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            let prefix = bytes[..4].try_into().unwrap();
            assert_eq!(Frame::length(prefix), Ok(bytes.len() - 4));
            assert_eq!(Frame::decode(&bytes[4..]), Ok(frame));
        }
    }

    #[test]
    fn long_frames_are_refused_before_they_are_read() {
        assert_eq!(Frame::length([0xff; 4]), Err(FrameError::TooLong { given: 0xffff_ffff }));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// No bytes panic the decoder, and what it accepts is what encodes to those bytes.
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(frame) = Frame::decode(&bytes) {
                let mut again = Vec::new();
                frame.encode(&mut again);
                prop_assert_eq!(Frame::decode(&again[4..]), Ok(frame));
            }
        }

        #[test]
        fn mutated_frames_are_decoded_or_refused(
            index in 0..12_usize, at in any::<prop::sample::Index>(), byte: u8, cut in 0..40_usize,
        ) {
            let mut bytes = Vec::new();
            frames()[index].encode(&mut bytes);
            let mut body = bytes.split_off(4);
            let at = at.index(body.len());
            body[at] = byte;
            body.truncate(body.len().saturating_sub(cut));
            let _ = Frame::decode(&body);
        }
    }
}
