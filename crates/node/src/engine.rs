//! From configuration to a loaded engine and the pool it works in.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use baton_device::{Arena, ArenaError, Isa, IsaError, Kernels, PinError, ThreadPool};
use baton_engine::{Model, TransformerEngine};
use baton_scheduler::{
    Engine,
    sim::{SimConfig, SimConfigError, SimEngine},
};
use baton_text::TextAssets;
use baton_types::KvLayout;

use crate::{
    config::{EngineConfig, IsaChoice, KvConfig, LlamaConfig, NodeConfig},
    sim::{ArenaSlots, RealPace},
};

/// The default pool: at most this much,
const MAX_DEFAULT_POOL: u64 = 1 << 30;
/// and at most this share of the memory that is free, since nodes often share a machine.
const DEFAULT_POOL_SHARE: u64 = 8;

/// Who waits for a model hears of it so often.
const BETWEEN_PROGRESS: Duration = Duration::from_secs(2);

/// What a node computes with.
pub(crate) struct Loaded {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) arena: Arc<Arena>,
    pub(crate) text: Arc<TextAssets>,
    /// Memory that the weights take.
    pub(crate) weights_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Arena(#[from] ArenaError),
    #[error("engine.isa: {0}")]
    Isa(#[from] IsaError),
    #[error("engine.pin: {0}")]
    Pin(#[from] PinError),
    #[error("engine.model: {0}")]
    Model(#[from] baton_engine::LoadError),
    #[error("engine: {0}")]
    Sim(#[from] SimConfigError),
    #[error(
        "kv.size = {bytes} bytes holds no block: one is {block_bytes} bytes ({layout}); \
         give the pool more memory"
    )]
    PoolTooSmall { bytes: u64, block_bytes: usize, layout: KvLayout },
}

/// Loads the configured engine. Blocks while it reads the model.
pub(crate) fn load(config: &NodeConfig) -> Result<Loaded, LoadError> {
    match &config.engine {
        EngineConfig::Sim(sim) => load_sim(sim, &config.kv),
        EngineConfig::Llama(llama) => load_llama(llama, &config.kv),
    }
}

fn load_llama(llama: &LlamaConfig, kv: &KvConfig) -> Result<Loaded, LoadError> {
    let isa = llama.isa.map_or_else(Isa::best, isa);
    let kernels = Kernels::new(isa)?;
    let model = Arc::new(read_model(&llama.model)?);
    let layout = TransformerEngine::layout(&model, llama.block_tokens, llama.kv_dtype);
    let arena = arena(layout, kv)?;
    let threads = llama.threads.unwrap_or_else(all_cores);
    tracing::info!(
        model = %llama.model.display(), weight_bytes = model.weight_bytes(), %isa, threads,
        "read the model"
    );
    let (text, weights_bytes) = (Arc::clone(&model.text), model.weight_bytes() as u64);
    let pool = if llama.pin { ThreadPool::pinned(threads)? } else { ThreadPool::new(threads) };
    let engine =
        TransformerEngine::new(model, Arc::clone(&arena), kernels, pool, llama.max_context);
    Ok(Loaded { engine: Box::new(engine), arena, text, weights_bytes })
}

/// Reads it, and says how far it is when that takes long.
fn read_model(path: &Path) -> Result<Model, baton_engine::LoadError> {
    let of = Model::stored_bytes(path)?;
    let (mut read, mut said) = (0, Instant::now());
    Model::load_telling(path, &mut |bytes| {
        read += bytes;
        if said.elapsed() >= BETWEEN_PROGRESS {
            said = Instant::now();
            tracing::info!("reading the model: {} of {} MB", read >> 20, of >> 20);
        }
    })
}

fn isa(choice: IsaChoice) -> Isa {
    match choice {
        IsaChoice::Portable => Isa::Portable,
        IsaChoice::Avx2 => Isa::Avx2,
        IsaChoice::Avx512 => Isa::Avx512,
        IsaChoice::Amx => Isa::Amx,
        IsaChoice::Neon => Isa::Neon,
    }
}

fn all_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn load_sim(sim: &SimConfig, kv: &KvConfig) -> Result<Loaded, LoadError> {
    let arena = arena(sim.layout, kv)?;
    let slots = ArenaSlots(Arc::clone(&arena));
    let engine = SimEngine::new(sim.clone(), slots, RealPace::new())?;
    let text = Arc::new(TextAssets::bytes());
    Ok(Loaded { engine: Box::new(engine), arena, text, weights_bytes: 0 })
}

fn arena(layout: KvLayout, kv: &KvConfig) -> Result<Arc<Arena>, LoadError> {
    let arena = Arena::new(layout, pool_blocks(kv, &layout)?)?;
    if kv.prefault {
        arena.prefault()?;
    }
    Ok(Arc::new(arena))
}

/// Blocks of the pool: as configured, or what fits modestly.
fn pool_blocks(kv: &KvConfig, layout: &KvLayout) -> Result<u32, LoadError> {
    if let Some(blocks) = kv.blocks {
        return Ok(blocks);
    }
    let bytes = kv.size.map_or_else(default_pool_bytes, |size| size.0);
    let block_bytes = layout.block_bytes();
    match u32::try_from(bytes / block_bytes as u64) {
        Ok(0) => Err(LoadError::PoolTooSmall { bytes, block_bytes, layout: *layout }),
        Ok(blocks) => Ok(blocks),
        Err(_) => Ok(u32::MAX),
    }
}

fn default_pool_bytes() -> u64 {
    let share = available_memory().map(|bytes| bytes / DEFAULT_POOL_SHARE);
    share.unwrap_or(MAX_DEFAULT_POOL).min(MAX_DEFAULT_POOL)
}

/// What the kernel thinks can be had without swapping.
fn available_memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ByteSize;

    #[test]
    fn the_pool_is_as_large_as_configured() {
        let layout = SimConfig::default().layout;
        let block = layout.block_bytes() as u64;
        let blocks = |size, blocks| {
            pool_blocks(&KvConfig { size, blocks, prefault: false }, &layout)
                .map_err(|error| error.to_string())
        };
        assert_eq!(blocks(None, Some(7)), Ok(7));
        assert_eq!(blocks(Some(ByteSize(3 * block + 1)), None), Ok(3));
        assert!(blocks(Some(ByteSize(block - 1)), None).unwrap_err().contains("kv.size"));
        let default = blocks(None, None).unwrap();
        assert!(u64::from(default) * block <= MAX_DEFAULT_POOL && default > 0);
    }
}
