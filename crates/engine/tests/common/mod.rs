//! The real model, driven by hand.
#![allow(dead_code)]

use std::{path::PathBuf, sync::Arc};

use baton_device::{Arena, Isa, Kernels, ThreadPool};
use baton_engine::{Model, TransformerEngine};
use baton_scheduler::{Engine, SampleStep, Sampled, SequenceStep, Unobserved};
use baton_types::{
    BlockId, ChoiceIndex, KvDtype, RequestId, SamplingSpec, SequenceKey, TokenId, blocks_for,
};

const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// `BATON_MODEL`, or the file `baton model pull` left in the user's cache folder.
pub fn model_path() -> PathBuf {
    if let Some(path) = std::env::var_os("BATON_MODEL") {
        return path.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache"),
        PathBuf::from,
    );
    let path = cache.join("baton/models").join(FILE);
    assert!(path.exists(), "no model at {}: run `cargo xtask test`", path.display());
    path
}

pub fn model() -> Arc<Model> {
    Arc::new(Model::load(&model_path()).expect("the test model loads"))
}

#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub isa: Isa,
    pub threads: usize,
    pub block_tokens: u32,
    pub dtype: KvDtype,
    pub blocks: u32,
}

impl Default for Setup {
    fn default() -> Self {
        let dtype = KvDtype::F16;
        Setup { isa: Isa::best(), threads: 1, block_tokens: 16, dtype, blocks: 1024 }
    }
}

pub fn engine(model: &Arc<Model>, setup: Setup) -> TransformerEngine {
    let layout = TransformerEngine::layout(model, setup.block_tokens, setup.dtype);
    let arena = Arc::new(Arena::new(layout, setup.blocks).expect("an arena"));
    let kernels = Kernels::new(setup.isa).expect("the instructions are there");
    TransformerEngine::new(Arc::clone(model), arena, kernels, ThreadPool::new(setup.threads), None)
}

pub fn key(id: u128) -> SequenceKey {
    SequenceKey { request: RequestId(id), choice: ChoiceIndex(0) }
}

pub fn tokens(ids: impl IntoIterator<Item = u32>) -> Vec<TokenId> {
    ids.into_iter().map(TokenId).collect()
}

/// Prompt tokens that look like text to nobody, the same for the same seed.
pub fn prompt(seed: u64, len: usize) -> Vec<TokenId> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    tokens((0..len).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % 49_000) as u32 + 100
    }))
}

/// A sequence under way.
#[derive(Clone, Debug)]
pub struct Running {
    pub key: SequenceKey,
    pub tokens: Vec<TokenId>,
    pub prompt_len: usize,
    pub cached: usize,
    pub blocks: Vec<BlockId>,
    pub sampling: SamplingSpec,
    pub sampled: Vec<Sampled>,
}

impl Running {
    /// `blocks` must hold prompt and output.
    pub fn new(id: u128, prompt: &[TokenId], blocks: Vec<BlockId>, sampling: SamplingSpec) -> Self {
        Running {
            key: key(id),
            tokens: prompt.to_vec(),
            prompt_len: prompt.len(),
            cached: 0,
            blocks,
            sampling,
            sampled: Vec::new(),
        }
    }

    /// The next at most `chunk` tokens; samples when they are the last.
    pub fn step(&self, chunk: usize) -> SequenceStep<'_> {
        let end = self.tokens.len().min(self.cached + chunk);
        let index = (self.tokens.len() - self.prompt_len) as u32;
        SequenceStep {
            key: self.key,
            tokens: &self.tokens[self.cached..end],
            start: self.cached as u32,
            blocks: &self.blocks,
            sample: (end == self.tokens.len()).then_some(SampleStep::new(&self.sampling, index)),
            score: None,
        }
    }

    pub fn advance(&mut self, tokens: usize, sampled: Option<&Sampled>) {
        self.cached += tokens;
        if let Some(sampled) = sampled {
            self.tokens.push(sampled.token);
            self.sampled.push(sampled.clone());
        }
    }
}

/// One step of all `running`, chunks of at most `chunk`.
pub fn step(engine: &mut TransformerEngine, running: &mut [Running], chunk: usize) {
    let steps: Vec<_> = running.iter().map(|sequence| sequence.step(chunk)).collect();
    let lens: Vec<_> = steps.iter().map(|step| step.tokens.len()).collect();
    let mut sampled = Vec::new();
    engine.step(&steps, &mut Unobserved, &mut sampled).expect("a good step");
    for (sequence, len) in running.iter_mut().zip(lens) {
        let own = sampled.iter().find(|sampled| sampled.key == sequence.key);
        sequence.advance(len, own);
    }
}

/// What `prompt` gives alone: `outputs` tokens with their logits digests.
pub fn alone(
    engine: &mut TransformerEngine,
    prompt: &[TokenId],
    outputs: usize,
    chunk: usize,
    sampling: SamplingSpec,
) -> Vec<(u32, u64)> {
    let block_tokens = engine.info().layout.block_tokens;
    let blocks = (0..blocks_for(prompt.len() + outputs, block_tokens) as u32).map(BlockId);
    let mut running = [Running::new(1, prompt, blocks.collect(), sampling)];
    while running[0].sampled.len() < outputs {
        step(engine, &mut running, chunk);
    }
    results(&running[0])
}

pub fn results(running: &Running) -> Vec<(u32, u64)> {
    running.sampled.iter().map(|sampled| (sampled.token.0, sampled.logits_digest)).collect()
}

/// Seeds and lengths of the prompts that `golden.json` is about.
pub fn golden_runs() -> Vec<(u64, usize)> {
    vec![(1, 1), (2, 17), (3, 64), (4, 300)]
}

/// Runs `tokens` one after the other from `start` on, and gives each one's logits.
pub fn each_logits(
    engine: &mut TransformerEngine,
    tokens: &[TokenId],
    start: usize,
) -> Vec<Vec<f32>> {
    let layout = engine.info().layout;
    let blocks: Vec<_> =
        (0..blocks_for(tokens.len(), layout.block_tokens) as u32).map(BlockId).collect();
    let mut logits = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let end = if at < start { start } else { at + 1 };
        let step = SequenceStep {
            key: key(1),
            tokens: &tokens[at..end],
            start: at as u32,
            blocks: &blocks,
            sample: Some(SampleStep::new(const { &SamplingSpec::GREEDY }, 0)),
            score: None,
        };
        engine.step(&[step], &mut Unobserved, &mut Vec::new()).unwrap();
        logits.push(engine.logits().to_vec());
        at = end;
    }
    logits
}

/// ‖ours − theirs‖ / ‖theirs‖ of every row, ascending.
pub fn relative_errors(ours: &[Vec<f32>], theirs: &[Vec<f32>]) -> Vec<f64> {
    assert_eq!(ours.len(), theirs.len());
    let norm = |row: &mut dyn Iterator<Item = f64>| row.map(|x| x * x).sum::<f64>().sqrt();
    let errors = ours.iter().zip(theirs).map(|(ours, theirs)| {
        assert_eq!(ours.len(), theirs.len());
        let off = norm(&mut ours.iter().zip(theirs).map(|(a, b)| f64::from(a - b)));
        off / norm(&mut theirs.iter().map(|&x| f64::from(x)))
    });
    let mut errors: Vec<_> = errors.collect();
    errors.sort_by(f64::total_cmp);
    errors
}

pub fn worst_error(ours: &[Vec<f32>], theirs: &[Vec<f32>]) -> f64 {
    relative_errors(ours, theirs).pop().expect("a row")
}
