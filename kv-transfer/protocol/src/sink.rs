//! The node that wants the pages: one transfer over a few streams.

use std::time::Duration;

use baton_types::{KvLayout, Time, blocks_for};

use crate::{Ending, GROWING, NackReason, PageRun};

/// What a transfer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkSpec {
    pub layout: KvLayout,
    /// [`GROWING`] of a sequence that still runs: then there is no room until [`Sink::extend`].
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
    #[error(
        "the source said on one stream that the pages end with {given:?}, and with {known:?} before"
    )]
    Endings { given: Ending, known: Ending },
    #[error(
        "the source said that the pages end with {given:?}, of which there can't be {tokens} tokens"
    )]
    WrongEnding { given: Ending, tokens: u32 },
    #[error("the sequence has grown to {tokens} tokens, and there is room for {blocks} blocks")]
    NoRoom { tokens: u32, blocks: u32 },
    #[error("the source refused: {0}")]
    Nack(#[from] NackReason),
    #[error("the source fell silent for {silence:?} with {missing} pages to come")]
    Silent { silence: Duration, missing: u64 },
}

/// Invariant (`no-stale-page`): complete means that every page came exactly once, in order, with
/// the checksum its source computed, and that the ending came on every stream. A release
/// before that would leave a stream that still waits for its copy.
#[derive(Debug)]
pub struct Sink {
    spec: SinkSpec,
    /// Those there will be; while the sequence grows, those there is room for.
    blocks: u32,
    /// Next block, by layer.
    next: Vec<u32>,
    ending: Option<(Ending, Time)>,
    /// Whether the ending came, by stream.
    told: Vec<bool>,
    /// Since the first sign of life.
    heard: Option<Time>,
}

impl Sink {
    pub fn new(spec: SinkSpec) -> Self {
        let blocks = match spec.tokens {
            GROWING => 0,
            tokens => blocks_for(tokens as usize, spec.layout.block_tokens) as u32,
        };
        let skip =
            if spec.tokens == GROWING { spec.skip_blocks } else { spec.skip_blocks.min(blocks) };
        Sink {
            spec: SinkSpec { skip_blocks: skip, ..spec },
            blocks,
            next: vec![skip; spec.layout.layers as usize],
            ending: None,
            told: vec![false; spec.streams as usize],
            heard: None,
        }
    }

    /// There is room for so many blocks in all. Less than before changes nothing; nor does it once the
    /// sequence grows no more.
    pub fn extend(&mut self, blocks: u32) {
        if self.spec.tokens == GROWING && self.ending.is_none() {
            self.blocks = self.blocks.max(blocks);
        }
    }

    /// Blocks that have arrived, of all layers.
    pub fn arrived_blocks(&self) -> u32 {
        self.next.iter().copied().min().unwrap_or(0)
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
        Ok(())
    }

    /// The source says on `stream` with what the pages end.
    pub fn ending(&mut self, now: Time, stream: u32, given: Ending) -> Result<(), SinkError> {
        self.heard = Some(now);
        self.told[stream as usize] = true;
        match self.ending {
            Some((known, _)) if known != given => Err(SinkError::Endings { given, known }),
            Some(_) => Ok(()),
            None => {
                self.check(given)?;
                self.ending = Some((given, now));
                Ok(())
            }
        }
    }

    /// Whether the pages can end so. Those of a sequence that grew are known then.
    fn check(&mut self, given: Ending) -> Result<(), SinkError> {
        let grows = self.spec.tokens == GROWING;
        match given {
            Ending::First(_) if !grows => Ok(()),
            Ending::Last { tokens } if grows => {
                let blocks = blocks_for(tokens as usize, self.spec.layout.block_tokens) as u32;
                if blocks > self.blocks {
                    return Err(SinkError::NoRoom { tokens, blocks: self.blocks });
                }
                if self.next.iter().any(|&next| next > blocks) {
                    return Err(SinkError::WrongEnding { given, tokens });
                }
                self.blocks = blocks;
                Ok(())
            }
            _ => Err(SinkError::WrongEnding { given, tokens: self.spec.tokens }),
        }
    }

    /// Whether `stream` has brought all its layers and the ending.
    pub fn stream_complete(&self, stream: u32) -> bool {
        let mut own = self.next.iter().skip(stream as usize).step_by(self.spec.streams as usize);
        self.told[stream as usize] && own.all(|&next| next == self.blocks)
    }

    /// The ending and when it came first, once everything has.
    pub fn complete(&self) -> Option<(Ending, Time)> {
        self.ending.filter(|_| self.missing() == 0 && self.told.iter().all(|&told| told))
    }

    /// Pages to come, as far as is known.
    fn missing(&self) -> u64 {
        self.next.iter().map(|&next| u64::from(self.blocks.saturating_sub(next))).sum()
    }

    /// Pages that arrived and were verified.
    pub fn pages(&self) -> u64 {
        self.next.iter().map(|&next| u64::from(next - self.spec.skip_blocks)).sum()
    }

    pub fn poll_timeout(&self) -> Option<Time> {
        self.heard.filter(|_| self.complete().is_none()).map(|heard| heard + self.spec.silence)
    }

    pub fn handle_timeout(&mut self, now: Time) -> Result<(), SinkError> {
        match self.poll_timeout() {
            Some(deadline) if deadline <= now && self.ending.is_some() => {
                Err(SinkError::Silent { silence: self.spec.silence, missing: self.missing() })
            }
            _ => Ok(()),
        }
    }
}
