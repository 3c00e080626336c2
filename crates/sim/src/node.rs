//! One worker: the production scheduler, block pool and page source, and what its services hold.

use std::{collections::VecDeque, time::Duration};

use baton_kv_cache::{BlockRef, KvCache};
use baton_migration as migration;
use baton_scheduler::{EngineInfo, Load, Scheduler, SchedulerConfig, Submission};
use baton_transfer_protocol::{FirstToken, OfferId, Source, SourceConfig};
use baton_types::{
    Capability, Epoch, Generation, LatencyProfile, NodeId, NodeLoad, SequenceKey, SequenceSpec,
    StepReport, StepShape, Time, TokenId,
};

use crate::{
    Map,
    cluster::{Moving, TransferId},
    scenario::WorkerConfig,
};

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Prefill,
    Decode,
    Both,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: NodeId,
    pub(crate) work: Work,
    pub(crate) generation: Generation,
    pub(crate) alive: bool,
    /// It takes nothing new.
    pub(crate) draining: bool,
    pub(crate) profile: LatencyProfile,
    pub(crate) noise: f64,
    /// Its steps take so many times as long.
    pub(crate) slowness: f64,
    config: SchedulerConfig,
    info: EngineInfo,
    blocks: u32,
    source_config: SourceConfig,
    pub(crate) cache: KvCache,
    pub(crate) scheduler: Scheduler,
    /// Taken at the next step boundary.
    pub(crate) mailbox: VecDeque<Command>,
    pub(crate) step: Option<Step>,
    /// Nothing could be computed though sequences wait: since when it looks for blocks.
    pub(crate) starved: Option<Time>,
    /// The wake-up that is on its way.
    pub(crate) wakes_at: Option<Time>,
    /// As the step loop told last.
    pub(crate) load: Load,
    /// Since the last heartbeat.
    pub(crate) reports: VecDeque<StepReport>,
    /// The last change of its cache that it told of; the router asks for a snapshot by taking it away.
    pub(crate) told: Option<u64>,
    pub(crate) source: Source,
    /// The source's timer that is on its way.
    pub(crate) source_timer: Option<Time>,
    pub(crate) prefills: Map<SequenceKey, Prefill>,
    /// Sequences of the step under way whose pages are offered.
    pub(crate) followed: Vec<Followed>,
    pub(crate) decodes: Map<SequenceKey, Decode>,
    /// Sequences that are to go elsewhere, and to come from there.
    pub(crate) offerings: Map<Moving, Offering>,
    pub(crate) adoptions: Map<Moving, Adoption>,
    pub(crate) pulls: u32,
    pub(crate) pulls_waiting: VecDeque<TransferId>,
    pub(crate) stats: Stats,
}

#[derive(Debug)]
pub(crate) enum Command {
    Submit(Box<Submission>),
    Cancel {
        key: SequenceKey,
        epoch: Epoch,
    },
    Look(Moving),
    Freeze(Moving),
    Thaw {
        key: SequenceKey,
        epoch: Epoch,
    },
    Release {
        moving: Moving,
        epoch: Epoch,
    },
    /// All that was ordered before is done.
    Leave(Moving),
}

/// A step under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) number: u64,
    pub(crate) started: Time,
    pub(crate) duration: Duration,
    pub(crate) shape: StepShape,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Followed {
    pub(crate) key: SequenceKey,
    /// Tokens in the cache when the step is done.
    pub(crate) after: u32,
}

/// `Prefill.Run`: queued → prefilling → held.
#[derive(Debug)]
pub(crate) struct Prefill {
    pub(crate) epoch: Epoch,
    pub(crate) capability: Option<Capability>,
    pub(crate) tokens: u32,
    pub(crate) arrived: Time,
    pub(crate) admitted: Option<Time>,
    pub(crate) cached_tokens: u32,
    /// Tokens whose keys and values are final.
    pub(crate) done: u32,
    pub(crate) offer: Option<OfferId>,
    /// What the offer holds.
    pub(crate) offered: Vec<BlockRef>,
    pub(crate) first: Option<FirstToken>,
    /// The prompt is computed.
    pub(crate) held: bool,
    pub(crate) transfer: Option<TransferId>,
}

/// `Decode.Offer`: a sequence that goes elsewhere.
#[derive(Debug)]
pub(crate) struct Offering {
    /// That it runs under here.
    pub(crate) epoch: Epoch,
    pub(crate) machine: migration::Source,
    /// Until it has ended.
    pub(crate) offer: Option<OfferId>,
    /// The sequence's table, as it was seen last.
    pub(crate) blocks: Vec<BlockRef>,
    /// Tokens whose pages are offered.
    pub(crate) offered: u32,
    pub(crate) is_last: bool,
    pub(crate) is_computing: bool,
    pub(crate) transfer: Option<TransferId>,
    pub(crate) timer: Option<Time>,
}

/// `Decode.Adopt`: a sequence that comes from elsewhere.
#[derive(Debug)]
pub(crate) struct Adoption {
    pub(crate) machine: migration::Destination,
    /// As it was when it began to come.
    pub(crate) spec: SequenceSpec,
    pub(crate) transfer: Option<TransferId>,
    /// When all are here.
    pub(crate) blocks: Vec<BlockRef>,
    pub(crate) cached_tokens: u32,
    /// What it made meanwhile, once it is to run here.
    pub(crate) own: Vec<TokenId>,
    /// It does: the machine only tells of it yet.
    pub(crate) runs: bool,
    pub(crate) timer: Option<Time>,
}

/// `Decode.Run`, and runs of workers that do both.
#[derive(Debug)]
pub(crate) struct Decode {
    pub(crate) epoch: Epoch,
    pub(crate) arrived: Time,
    /// Its prompt was computed elsewhere.
    pub(crate) imported: bool,
    /// It ran elsewhere before, under this attempt to move it.
    pub(crate) adopted: bool,
    /// While its pages are still to come.
    pub(crate) transfer: Option<TransferId>,
    /// What was pulled for it.
    pub(crate) bytes: u64,
    pub(crate) exposed: Duration,
    pub(crate) submitted: Time,
    pub(crate) admitted: Time,
    /// Made here.
    pub(crate) tokens: u32,
}

/// Sums over a worker's life.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) steps: u64,
    pub(crate) busy: Duration,
    pub(crate) preemptions: u64,
    pub(crate) sent_bytes: u64,
    held: OverTime,
    pub(crate) peak_held: u32,
}

/// What a value is in the mean.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OverTime {
    /// So far, in nanoseconds of it,
    sum: f64,
    /// and since when it is what.
    seen: Time,
    last: f64,
}

impl OverTime {
    /// From now on it is this.
    pub(crate) fn is(&mut self, now: Time, value: f64) {
        self.sum += self.last * now.since(self.seen).as_nanos() as f64;
        (self.seen, self.last) = (now, value);
    }

    pub(crate) fn mean(&self, over: Duration) -> f64 {
        self.sum / (over.as_nanos() as f64).max(1.0)
    }
}

impl Stats {
    pub(crate) fn holds(&mut self, now: Time, held: u32) {
        self.held.is(now, held.into());
        self.peak_held = self.peak_held.max(held);
    }

    pub(crate) fn mean_held(&self, over: Duration) -> f64 {
        self.held.mean(over)
    }
}

impl Node {
    pub(crate) fn new(
        name: NodeId,
        work: Work,
        worker: &WorkerConfig,
        info: EngineInfo,
        source_config: SourceConfig,
    ) -> Self {
        let cache = KvCache::new(worker.kv_blocks, info.layout.block_tokens);
        let config = worker.scheduler;
        Node {
            name,
            work,
            generation: Generation(1),
            alive: true,
            draining: false,
            profile: worker.profile,
            noise: worker.noise,
            slowness: 1.0,
            config,
            blocks: worker.kv_blocks,
            source_config,
            scheduler: Scheduler::new(config, info.clone(), cache.clone()),
            source: Source::new(source_config, info.layout),
            info,
            cache,
            mailbox: VecDeque::new(),
            step: None,
            starved: None,
            wakes_at: None,
            load: Load::default(),
            reports: VecDeque::new(),
            told: None,
            source_timer: None,
            prefills: Map::default(),
            followed: Vec::new(),
            decodes: Map::default(),
            offerings: Map::default(),
            adoptions: Map::default(),
            pulls: 0,
            pulls_waiting: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// Everything on it is lost.
    pub(crate) fn crash(&mut self, now: Time) {
        self.stats.preemptions += self.scheduler.preemptions();
        self.prefills.clear();
        self.decodes.clear();
        self.offerings.clear();
        self.adoptions.clear();
        self.mailbox.clear();
        self.followed.clear();
        self.pulls_waiting.clear();
        self.cache = KvCache::new(self.blocks, self.info.layout.block_tokens);
        self.told = None;
        self.scheduler = Scheduler::new(self.config, self.info.clone(), self.cache.clone());
        self.source = Source::new(self.source_config, self.info.layout);
        (self.step, self.starved, self.wakes_at, self.source_timer) = (None, None, None, None);
        self.pulls = 0;
        self.load = Load::default();
        self.reports.clear();
        self.alive = false;
        self.generation.0 += 1;
        self.stats.holds(now, 0);
    }

    /// Sequences that come from elsewhere and don't run here yet.
    pub(crate) fn coming(&self) -> usize {
        self.adoptions.values().filter(|adoption| !adoption.runs).count()
    }

    /// It takes the other role: an empty node, and another incarnation to everybody.
    pub(crate) fn become_other(&mut self, now: Time, work: Work, worker: &WorkerConfig) {
        (self.work, self.profile, self.noise) = (work, worker.profile, worker.noise);
        (self.config, self.blocks) = (worker.scheduler, worker.kv_blocks);
        self.crash(now);
        (self.alive, self.draining) = (true, false);
    }

    pub(crate) fn is_busy(&self) -> bool {
        let moves = !self.offerings.is_empty() || !self.adoptions.is_empty();
        let runs = !self.prefills.is_empty() || !self.decodes.is_empty();
        !self.scheduler.is_idle() || runs || moves
    }

    /// What it says of itself in a heartbeat.
    pub(crate) fn heartbeat(&self) -> NodeLoad {
        let usage = self.cache.usage();
        let pulled = self.decodes.values().filter(|decode| decode.transfer.is_some()).count();
        let held = self.prefills.values().filter(|prefill| prefill.held).count();
        NodeLoad {
            steps: self.stats.steps,
            running: self.load.running,
            waiting: self.load.waiting,
            handing_over: (pulled + held + self.coming()) as u32,
            free_blocks: usage.free,
            cached_blocks: usage.cached,
            queued_tokens: self.load.queued_tokens,
            context_tokens: self.load.context_tokens,
            draining: self.draining,
        }
    }

    pub(crate) fn all_preemptions(&self) -> u64 {
        self.stats.preemptions + self.scheduler.preemptions()
    }
}
