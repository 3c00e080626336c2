use std::{ops::Range, time::Duration};

use baton_types::{
    BlockId, KvDtype, KvLayout, LatencyProfile, LayoutError, NumericsId, StepShape, TokenId,
    TokenLogprobs, TokenMask,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::{KvSlots, Pace, PageBusy, SLOT_BYTES};
use crate::{
    Engine, EngineError, EngineInfo, SampleStep, Sampled, ScoreStep, SequenceStep, StepObserver,
};

/// The most tokens of a block, as [`KvLayout::validate`] has it.
const MAX_BLOCK_TOKENS: usize = 256;

/// A simulated model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimConfig {
    /// Each page must have [`SLOT_BYTES`] for every token. Larger ones make transfers as large.
    pub layout: KvLayout,
    pub max_context: u32,
    pub vocab: u32,
    /// Token ids it draws from.
    pub drawn: Range<u32>,
    /// Another value is another model.
    pub weights: u64,
    pub profile: LatencyProfile,
    /// A step that computes this token panics, as one does that a request is too much for,
    pub panics_at: Option<u32>,
    /// and one that computes this token takes five seconds longer than others.
    pub hangs_at: Option<u32>,
}

/// What [`SimConfig::hangs_at`] adds: longer than anybody waits for a step.
const HANGS_FOR: Duration = Duration::from_secs(5);

impl Default for SimConfig {
    fn default() -> Self {
        SimConfig {
            layout: KvLayout {
                layers: 4,
                kv_heads: 1,
                head_dim: 4,
                block_tokens: 16,
                dtype: KvDtype::F16,
            },
            max_context: 8192,
            // One token a byte, and one that ends a sequence; it speaks printable ASCII.
            vocab: 257,
            drawn: 32..127,
            weights: 0,
            profile: LatencyProfile::default(),
            panics_at: None,
            hangs_at: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimConfigError {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(
        "a page of {given} bytes can't hold the simulated engine's digests, {needed} bytes; \
         raise kv_heads or head_dim"
    )]
    PageTooSmall { given: usize, needed: usize },
    #[error("tokens are drawn from {from}..{to}, which must lie within the vocabulary of {vocab}")]
    Drawn { from: u32, to: u32, vocab: u32 },
}

/// The engine; see the module's documentation.
pub struct SimEngine<S, P> {
    info: EngineInfo,
    config: SimConfig,
    slots: S,
    pace: P,
    /// One running fold for each sequence of the step.
    folds: Vec<u128>,
    mask: TokenMask,
}

impl<S: KvSlots, P: Pace> SimEngine<S, P> {
    pub fn new(config: SimConfig, slots: S, pace: P) -> Result<Self, SimConfigError> {
        let SimConfig { layout, max_context, vocab, ref drawn, .. } = config;
        layout.validate()?;
        let needed = SLOT_BYTES * layout.block_tokens as usize;
        let given = layout.page_bytes();
        if given < needed {
            return Err(SimConfigError::PageTooSmall { given, needed });
        }
        if drawn.is_empty() || drawn.end > vocab {
            return Err(SimConfigError::Drawn { from: drawn.start, to: drawn.end, vocab });
        }
        let info = EngineInfo { layout, numerics: config.numerics(), max_context, vocab };
        Ok(SimEngine { info, config, slots, pace, folds: Vec::new(), mask: TokenMask::default() })
    }

    fn check(&self, step: &SequenceStep<'_>) -> Result<(), EngineError> {
        let key = step.key;
        let (vocab, max_context) = (self.info.vocab, self.info.max_context);
        if step.tokens.is_empty() {
            return Err(EngineError::Empty { key });
        }
        if let Some(&TokenId(token)) = step.tokens.iter().find(|token| token.0 >= vocab) {
            return Err(EngineError::Token { key, token, vocab });
        }
        let needed = end(step);
        if needed > max_context {
            return Err(EngineError::Context { key, position: needed - 1, max_context });
        }
        let covered = step.blocks.len() as u32 * self.info.layout.block_tokens;
        if covered < needed {
            return Err(EngineError::BlockTable { key, covered, needed });
        }
        Ok(())
    }

    /// Writes the digests of a sequence's new tokens in one layer, each chained on the one before.
    fn write_layer(&self, layer: u32, step: &SequenceStep<'_>) -> Result<(), (BlockId, PageBusy)> {
        let mut previous = match step.start.checked_sub(1) {
            Some(position) => {
                let (block, slot) = self.place(step, position);
                let mut digest = [0];
                self.slots.load(layer, block, slot, &mut digest).map_err(|busy| (block, busy))?;
                digest[0]
            }
            None => u128::from(self.config.weights),
        };
        let mut page = [0; MAX_BLOCK_TOKENS];
        let (mut position, mut tokens) = (step.start, step.tokens);
        while !tokens.is_empty() {
            let (block, slot) = self.place(step, position);
            let room = (self.info.layout.block_tokens - slot) as usize;
            let (now, later) = tokens.split_at(room.min(tokens.len()));
            for (digest, (&token, at)) in page.iter_mut().zip(now.iter().zip(position..)) {
                previous = hash128(layer, previous, token, at);
                *digest = previous;
            }
            self.slots
                .store(layer, block, slot, &page[..now.len()])
                .map_err(|busy| (block, busy))?;
            position += now.len() as u32;
            tokens = later;
        }
        Ok(())
    }

    /// Folds every digest of a sequence in one layer, read back from its pages.
    fn fold_layer(
        &self,
        layer: u32,
        step: &SequenceStep<'_>,
        mut fold: u128,
    ) -> Result<u128, (BlockId, PageBusy)> {
        const ODD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        let mut page = [0; MAX_BLOCK_TOKENS];
        let mut left = end(step) as usize;
        for &block in step.blocks {
            let digests = &mut page[..left.min(self.info.layout.block_tokens as usize)];
            if digests.is_empty() {
                break;
            }
            self.slots.load(layer, block, 0, digests).map_err(|busy| (block, busy))?;
            for digest in &*digests {
                fold = (fold ^ digest).wrapping_mul(ODD).rotate_left(59);
            }
            left -= digests.len();
        }
        Ok(fold)
    }

    fn place(&self, step: &SequenceStep<'_>, position: u32) -> (BlockId, u32) {
        let block_tokens = self.info.layout.block_tokens;
        (step.blocks[(position / block_tokens) as usize], position % block_tokens)
    }

    fn draw(
        &mut self,
        step: &SequenceStep<'_>,
        sample: SampleStep<'_>,
        fold: u128,
    ) -> Result<Sampled, EngineError> {
        let Range { start, end } = self.config.drawn;
        let logits_digest = xxh3_64(&fold.to_le_bytes());
        let hash = sampler_hash(step, sample, fold);
        let token = match sample.constraint {
            None => TokenId(start + (hash % u64::from(end - start)) as u32),
            Some(constraint) => {
                let (key, output) = (step.key, sample.output);
                let source = constraint.allowed(output, &mut self.mask);
                source.map_err(|source| EngineError::Constraint { key, source })?;
                self.draw_allowed(sample, hash)
            }
        };
        // As if the drawn token and those after it were ever less likely.
        let logprobs = sample.sampling.logprobs.map(|top| {
            let next = |rank| TokenId(start + (token.0.max(start) - start + rank) % (end - start));
            let likely = (0..top.min(end - start)).map(|rank| (next(rank), -1.0 - rank as f32));
            Box::new(TokenLogprobs { logprob: -1.0, top: likely.collect() })
        });
        Ok(Sampled { key: step.key, token, logits_digest, logprobs })
    }

    /// As if each known token and those after it were ever less likely.
    fn score(&self, step: &SequenceStep<'_>, observer: &mut dyn StepObserver) {
        let Some(ScoreStep { targets, top }) = step.score else { return };
        for (position, &target) in (step.start + 1..).zip(targets) {
            let next = |rank| TokenId((target.0 + rank) % self.info.vocab);
            let likely = (0..top.min(self.info.vocab)).map(|rank| (next(rank), -1.0 - rank as f32));
            let logprobs = TokenLogprobs { logprob: -1.0, top: likely.collect() };
            observer.scored(step.key, position, logprobs);
        }
    }

    /// Of what a grammar allows: one of those it draws otherwise or that end the sequence, if any.
    fn draw_allowed(&self, sample: SampleStep<'_>, hash: u64) -> TokenId {
        let is_usual = |token: &TokenId| {
            self.config.drawn.contains(&token.0) || sample.stop_tokens.contains(token)
        };
        let pick = |tokens: &mut dyn Iterator<Item = TokenId>, count: usize| {
            tokens.nth((hash % count.max(1) as u64) as usize)
        };
        let usual = self.mask.iter().filter(is_usual).count();
        let picked = match usual {
            0 => pick(&mut self.mask.iter(), self.mask.iter().count()),
            _ => pick(&mut self.mask.iter().filter(is_usual), usual),
        };
        picked.expect("a constraint allows something or is an error")
    }
}

impl<S: KvSlots, P: Pace> Engine for SimEngine<S, P> {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn step(
        &mut self,
        sequences: &[SequenceStep<'_>],
        observer: &mut dyn StepObserver,
        sampled: &mut Vec<Sampled>,
    ) -> Result<(), EngineError> {
        sampled.clear();
        sequences.iter().try_for_each(|step| self.check(step))?;
        let layers = self.info.layout.layers;
        let computes = |wanted: Option<u32>| {
            let mut tokens = sequences.iter().flat_map(|step| step.tokens);
            wanted.is_some_and(|wanted| tokens.any(|token| token.0 == wanted))
        };
        assert!(!computes(self.config.panics_at), "the simulated engine was told to panic");
        if computes(self.config.hangs_at) {
            self.pace.spend(HANGS_FOR);
        }
        let share = self.config.profile.step(&shape(sequences)) / layers;
        self.folds.clear();
        self.folds.resize(sequences.len(), 0);
        for layer in 0..layers {
            for (at, step) in sequences.iter().enumerate() {
                let busy =
                    |(block, PageBusy)| EngineError::PageBusy { key: step.key, layer, block };
                self.write_layer(layer, step).map_err(busy)?;
                if step.sample.is_some() {
                    self.folds[at] = self.fold_layer(layer, step, self.folds[at]).map_err(busy)?;
                }
            }
            self.pace.spend(share);
            observer.layer_done(layer);
        }
        for step in sequences {
            self.score(step, observer);
        }
        for (at, step) in sequences.iter().enumerate() {
            let Some(sample) = step.sample else { continue };
            match self.draw(step, sample, self.folds[at]) {
                Ok(drawn) => sampled.push(drawn),
                Err(error) => {
                    sampled.clear();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn idle(&mut self) {
        self.pace.rest();
    }
}

impl<S, P> std::fmt::Debug for SimEngine<S, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimEngine").field("config", &self.config).finish_non_exhaustive()
    }
}

impl SimConfig {
    /// Everything that decides a token. The page's shape doesn't, but for its layers.
    fn numerics(&self) -> NumericsId {
        let Range { start, end } = self.drawn;
        let text = format!(
            "baton sim v1: weights {}, {} layers, {start}..{end} of {}",
            self.weights, self.layout.layers, self.vocab
        );
        NumericsId(xxh3_128(text.as_bytes()))
    }
}

/// Tokens in the cache after the step.
fn end(step: &SequenceStep<'_>) -> u32 {
    step.start + step.tokens.len() as u32
}

fn shape(sequences: &[SequenceStep<'_>]) -> StepShape {
    let mut shape = StepShape::default();
    for step in sequences {
        match step.tokens.len() {
            1 if step.start > 0 => shape.add_decode(step.start as usize),
            new => shape.add_prefill(new, step.start as usize),
        }
    }
    shape
}

fn hash128(layer: u32, previous: u128, token: TokenId, position: u32) -> u128 {
    let mut input = [0; 28];
    input[..16].copy_from_slice(&previous.to_le_bytes());
    input[16..20].copy_from_slice(&layer.to_le_bytes());
    input[20..24].copy_from_slice(&token.0.to_le_bytes());
    input[24..].copy_from_slice(&position.to_le_bytes());
    xxh3_128(&input)
}

/// The generator's state: a greedy draw knows neither seed nor choice. The index is in both, so
/// that a lost counter shows.
fn sampler_hash(step: &SequenceStep<'_>, sample: SampleStep<'_>, fold: u128) -> u64 {
    let SampleStep { sampling, index, .. } = sample;
    let (temperature, seed, choice) = match sampling.temperature {
        0.0 => (0.0_f32, 0, 0),
        temperature => (temperature, sampling.seed, step.key.choice.0),
    };
    let mut input = [0; 34];
    input[..16].copy_from_slice(&fold.to_le_bytes());
    input[16..20].copy_from_slice(&index.to_le_bytes());
    input[20..24].copy_from_slice(&temperature.to_le_bytes());
    input[24..32].copy_from_slice(&seed.to_le_bytes());
    input[32..].copy_from_slice(&choice.to_le_bytes());
    xxh3_64(&input)
}
