//! The node that wants the pages: one transfer over a few streams.

use std::time::Duration;

use baton_types::{KvLayout, Time, blocks_for};

use crate::{FirstToken, NackReason, PageRun};

/// What a transfer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkSpec {
    pub layout: KvLayout,
    pub tokens: u32,
    /// Leading blocks that are here already.
    pub skip_blocks: u32,
    /// Layers are dealt round-robin: stream `s` brings those with `layer % streams == s`.
    pub streams: u32,
    /// The longest silence once the first page or token came.
    pub silence: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    #[error("page ({layer}, block {block}) came on stream {stream}, which doesn't carry it")]
    WrongStream { stream: u32, layer: u32, block: u32 },
    #[error("page ({layer}, block {given}) came, block {expected} was next of {blocks}")]
    OutOfOrder { layer: u32, given: u32, expected: u32, blocks: u32 },
    #[error("page ({layer}, block {block}) has checksum {given:016x}, expected {expected:016x}")]
    Checksum { layer: u32, block: u32, given: u64, expected: u64 },
    #[error("streams disagree about the first token")]
    FirstToken,
    #[error("the source refused: {0}")]
    Nack(#[from] NackReason),
    #[error("the source fell silent for {silence:?} with {missing} pages to come")]
    Silent { silence: Duration, missing: u64 },
}

/// Invariant (`no-stale-page`): complete means that every page came exactly once, in order, with
/// the checksum its source computed, and that the first token came on every stream. A release
/// before that would leave a stream that still waits for its copy.
#[derive(Debug)]
pub struct Sink {
    spec: SinkSpec,
    blocks: u32,
    /// Next block, by layer.
    next: Vec<u32>,
    missing: u64,
    first: Option<(FirstToken, Time)>,
    /// Whether the first token came, by stream.
    told: Vec<bool>,
    /// Since the first sign of life.
    heard: Option<Time>,
}

impl Sink {
    pub fn new(spec: SinkSpec) -> Self {
        let blocks = blocks_for(spec.tokens as usize, spec.layout.block_tokens) as u32;
        let skip = spec.skip_blocks.min(blocks);
        Sink {
            blocks,
            next: vec![skip; spec.layout.layers as usize],
            missing: u64::from(blocks - skip) * u64::from(spec.layout.layers),
            first: None,
            told: vec![false; spec.streams as usize],
            heard: None,
            spec,
        }
    }

    /// Whether `run` may come next on `stream`. Asked before a byte of it is read.
    pub fn expect(&mut self, now: Time, stream: u32, run: &PageRun) -> Result<(), SinkError> {
        self.heard = Some(now);
        let PageRun { layer, first_block, .. } = *run;
        if layer >= self.spec.layout.layers || layer % self.spec.streams != stream {
            return Err(SinkError::WrongStream { stream, layer, block: first_block });
        }
        let (expected, blocks) = (self.next[layer as usize], self.blocks);
        let end = u64::from(first_block) + run.checksums.len() as u64;
        if first_block != expected || end > u64::from(blocks) {
            return Err(SinkError::OutOfOrder { layer, given: first_block, expected, blocks });
        }
        Ok(())
    }

    /// The page at the head of an expected run has arrived; `computed` is its bytes' checksum.
    pub fn arrived(
        &mut self,
        now: Time,
        layer: u32,
        expected: u64,
        computed: u64,
    ) -> Result<(), SinkError> {
        self.heard = Some(now);
        let block = self.next[layer as usize];
        if expected != computed {
            return Err(SinkError::Checksum { layer, block, given: computed, expected });
        }
        self.next[layer as usize] += 1;
        self.missing -= 1;
        Ok(())
    }

    /// The source says on `stream` that the prompt is computed.
    pub fn first_token(
        &mut self,
        now: Time,
        stream: u32,
        first: FirstToken,
    ) -> Result<(), SinkError> {
        self.heard = Some(now);
        self.told[stream as usize] = true;
        match self.first {
            Some((known, _)) if known != first => Err(SinkError::FirstToken),
            Some(_) => Ok(()),
            None => {
                self.first = Some((first, now));
                Ok(())
            }
        }
    }

    /// Whether `stream` has brought all its layers and the first token.
    pub fn stream_complete(&self, stream: u32) -> bool {
        let mut own = self.next.iter().skip(stream as usize).step_by(self.spec.streams as usize);
        self.told[stream as usize] && own.all(|&next| next == self.blocks)
    }

    /// The first token and when it came first, once everything has.
    pub fn complete(&self) -> Option<(FirstToken, Time)> {
        self.first.filter(|_| self.missing == 0 && self.told.iter().all(|&told| told))
    }

    /// Pages that arrived and were verified.
    pub fn pages(&self) -> u64 {
        let skipped = self.spec.skip_blocks.min(self.blocks);
        self.next.iter().map(|&next| u64::from(next - skipped)).sum()
    }

    pub fn poll_timeout(&self) -> Option<Time> {
        self.heard.filter(|_| self.complete().is_none()).map(|heard| heard + self.spec.silence)
    }

    pub fn handle_timeout(&mut self, now: Time) -> Result<(), SinkError> {
        match self.poll_timeout() {
            Some(deadline) if deadline <= now && self.first.is_some() => {
                Err(SinkError::Silent { silence: self.spec.silence, missing: self.missing })
            }
            _ => Ok(()),
        }
    }
}
