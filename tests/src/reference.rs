//! The engine alone: what a cluster's tokens and logits must equal, bit for bit.

use std::{num::NonZeroUsize, path::Path, sync::Arc};

use anyhow::{Context, bail};
use baton_device::{Arena, Isa, Kernels, ThreadPool};
use baton_engine::{Model, TransformerEngine};
use baton_grammar::Grammars;
use baton_kv_cache::KvCache;
use baton_scheduler::{
    Engine, Event, Goal, Sampled, Scheduler, SchedulerConfig, Start, Submission, Unobserved,
    sim::{MemorySlots, SimConfig, SimEngine, Unpaced},
};
use baton_text::TextAssets;
use baton_types::{
    ChoiceIndex, Epoch, KvDtype, RequestId, RouterId, SequenceKey, SequenceSpec, StopTokens, Time,
};

use crate::{Ask, Generated};

/// One engine in this process, one request at a time, no cache from one to the next.
pub struct Reference {
    engine: Box<dyn Engine>,
    blocks: u32,
    stop: StopTokens,
    grammars: Grammars,
}

impl std::fmt::Debug for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reference").field("info", self.engine.info()).finish_non_exhaustive()
    }
}

impl Reference {
    /// The simulated engine as nodes run it by default.
    pub fn sim() -> anyhow::Result<Self> {
        let (config, blocks) = (SimConfig::default(), 1024);
        let layout = config.layout;
        let stop = StopTokens(TextAssets::bytes().eos);
        let slots = MemorySlots::new(layout.layers, blocks, layout.block_tokens);
        let engine = Box::new(SimEngine::new(config, slots, Unpaced)?);
        let grammars = Grammars::of_assets(Arc::new(TextAssets::bytes()));
        Ok(Reference { engine, blocks, stop, grammars })
    }

    /// A GGUF model with the widest kernels of this machine.
    pub fn llama(path: &Path) -> anyhow::Result<Self> {
        let model = Arc::new(Model::load(path)?);
        let (layout, blocks) = (TransformerEngine::layout(&model, 16, KvDtype::F16), 512);
        let arena = Arc::new(Arena::new(layout, blocks)?);
        let stop = StopTokens(model.text.eos.clone());
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let kernels = Kernels::new(Isa::best())?;
        let grammars = Grammars::of_assets(Arc::clone(&model.text));
        let engine =
            Box::new(TransformerEngine::new(model, arena, kernels, ThreadPool::new(threads), None));
        Ok(Reference { engine, blocks, stop, grammars })
    }

    /// The tokens and digests for `ask`.
    pub fn generate(&mut self, ask: &Ask) -> anyhow::Result<Generated> {
        let info = self.engine.info().clone();
        let cache = KvCache::new(self.blocks, info.layout.block_tokens);
        let config = SchedulerConfig {
            max_batch_tokens: 512,
            chunk_tokens: 512,
            max_running: 1,
            max_waiting: 1,
            prefix_cache: false,
        };
        let mut scheduler = Scheduler::new(config, info, cache);
        let (now, mut events) = (Time::ZERO, Vec::new());
        scheduler.submit(now, self.submission(ask)?)?;

        let mut generated = Generated::default();
        let mut sampled: Vec<Sampled> = Vec::new();
        loop {
            if !scheduler.compose(now, &mut events) {
                bail!("the scheduler has nothing to do before the end");
            }
            scheduler
                .with_sequences(|step| self.engine.step(step, &mut Unobserved, &mut sampled))?;
            scheduler.complete(now, &sampled, &mut events);
            for event in events.drain(..) {
                match event {
                    Event::Token { token, logits_digest, logprobs, .. } => {
                        generated.tokens.push(token);
                        generated.digests.push(logits_digest);
                        generated.logprobs.extend(logprobs.map(|told| *told));
                    }
                    Event::Finished { .. } => return Ok(generated),
                    Event::Failed { error, .. } => return Err(error).context("the engine alone"),
                    Event::Admitted { .. } | Event::Prefilled { .. } => {}
                }
            }
        }
    }

    fn submission(&self, ask: &Ask) -> anyhow::Result<Submission> {
        let grammar = ask.sampling.grammar.as_ref();
        let constraint = grammar.map(|grammar| self.grammars.compile(grammar)).transpose()?;
        Ok(Submission {
            spec: SequenceSpec {
                key: SequenceKey { request: RequestId(1), choice: ChoiceIndex(0) },
                epoch: Epoch::first(RouterId(1)),
                tokens: ask.prompt.clone(),
                prompt_len: ask.prompt.len() as u32,
                max_tokens: ask.max_tokens,
                sampling: ask.sampling.clone(),
                stop_tokens: self.stop.clone(),
                cache_salt: 0,
                deadline: None,
                first_token_within: None,
            },
            start: Start::Tokens,
            goal: Goal::Finish,
            constraint: constraint.map(|compiled| Box::new(compiled) as _),
        })
    }
}
