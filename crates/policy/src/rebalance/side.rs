//! A decode node and who runs there.

use std::{cell::OnceCell, collections::BTreeMap};

use baton_types::Time;

use super::RebalanceConfig;
use crate::{ClusterView, NodeView, ReservationId, chance::chance, cluster::Decoded, growth::Need};

/// Chances that a sequence's mean is in time aren't surer than this, relatively: steps vary.
const LEAST_SPREAD: f64 = 0.02;
/// From the last token of one node to the first of the other: half a step until the next boundary, and the
/// first step there.
const GAP_STEPS: f64 = 1.5;

/// What all sides are made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) config: &'a RebalanceConfig,
    pub(super) cluster: &'a ClusterView,
    /// When those that were to move were last told so.
    pub(super) told: &'a BTreeMap<ReservationId, Time>,
    pub(super) now: Time,
}

/// A node as it will be when those that leave it have left. Those that come count from the decision on.
#[derive(Clone, Debug)]
pub(super) struct Side<'a> {
    pub(super) view: &'a NodeView,
    from: Context<'a>,
    /// Found when somebody asks.
    running: OnceCell<Vec<Running>>,
    /// Objectives that are met with steps as they are.
    met: OnceCell<f64>,
    batch: u64,
    context: u64,
    pub(super) leaving: u32,
    pub(super) coming: u32,
    /// What they will come to hold,
    pub(super) need: Need,
    /// and the blocks there are for them.
    pub(super) blocks: u64,
    /// A step, in seconds.
    pub(super) step: f64,
    /// Somebody was chosen to leave it, or to come.
    pub(super) is_used: bool,
}

/// One that is decoded there.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) id: ReservationId,
    pub(super) priority: u8,
    pub(super) weight: f64,
    /// Seconds for each token after the first.
    tpot: Option<f64>,
    /// Seconds since its first token, and tokens since.
    elapsed: f64,
    done: f64,
    /// Tokens that are still to come, in the mean.
    pub(super) more: f64,
    pub(super) context: u64,
    /// What it holds now, in blocks,
    pub(super) held: u64,
    /// and will.
    pub(super) need: Need,
    pub(super) has_begun: bool,
    pub(super) may_move: bool,
}

impl<'a> Side<'a> {
    pub(super) fn new(from: Context<'a>, view: &'a NodeView) -> Self {
        let mut side = Side {
            view,
            from,
            running: OnceCell::new(),
            met: OnceCell::new(),
            batch: view.batch(),
            context: view.context_tokens(),
            leaving: 0,
            coming: 0,
            need: view.growth.need(),
            blocks: view.room(),
            step: 0.0,
            is_used: false,
        };
        side.step = side.step_of(0, 0);
        side
    }

    /// One of its sequences is about to move away.
    pub(super) fn is_left(&mut self, id: ReservationId, tokens: u64) {
        self.leaving += 1;
        self.batch = self.batch.saturating_sub(1);
        self.context = self.context.saturating_sub(tokens);
        self.need.take(&self.view.growth.need_of(id).unwrap_or_default());
        self.step = self.step_of(0, 0);
    }

    /// In order of their reservations, those that leave left out.
    pub(super) fn running(&self) -> &[Running] {
        self.running.get_or_init(|| {
            let Context { config, cluster, told, now } = self.from;
            let block_tokens = self.view.group.layout.block_tokens.max(1);
            let all = cluster.decoded_on(self.view, now).into_iter();
            let running = all.filter(|sequence| !sequence.is_leaving).map(|sequence| {
                let Decoded { id, priority, weight, tpot, since_first, age, tokens, most, .. } =
                    sequence;
                let context = u64::from(tokens) + age as u64;
                let model = &self.view.group.model;
                let is_cooling = sequence.is_cooling(now, config.cool_down);
                Running {
                    id,
                    priority,
                    weight,
                    tpot,
                    elapsed: since_first,
                    done: age,
                    more: cluster.outputs.more(model, sequence.class, age as u32, most),
                    context,
                    held: context.div_ceil(block_tokens.into()),
                    need: self.view.growth.need_of(id).unwrap_or_default(),
                    has_begun: sequence.has_begun,
                    may_move: sequence.has_begun && !told.contains_key(&id) && !is_cooling,
                }
            });
            running.collect()
        })
    }

    /// Those that may be told to move.
    pub(super) fn movable(&self) -> Vec<&Running> {
        self.running().iter().filter(|running| running.may_move).collect()
    }

    /// About how many of its objectives are missed, from their mean alone.
    pub(super) fn about_missed(&self) -> f64 {
        let reserved = &self.view.reserved;
        let in_time = |limit| chance(self.step, limit, self.view.tpot.spread());
        reserved
            .objective()
            .map_or(0.0, |limit| (1.0 - in_time(limit)) * reserved.objectives as f64)
    }

    /// A step, in seconds, with so many more sequences of so many more tokens together.
    fn step_of(&self, batch: i64, context: i64) -> f64 {
        let batch = self.batch.saturating_add_signed(batch);
        let context = self.context.saturating_add_signed(context);
        let step = self.view.latency.decode(batch, context).as_secs_f64();
        self.view.tpot.corrected(step)
    }

    pub(super) fn step_with(&self, running: &Running) -> f64 {
        self.step_of(1, running.context as i64)
    }

    pub(super) fn step_without(&self, running: &Running) -> f64 {
        self.step_of(-1, -(running.context as i64))
    }

    /// The chance that one of its sequences, or one that pauses for `pause` seconds to come here, is in time with
    /// steps of so many seconds.
    pub(super) fn chance(&self, running: &Running, step: f64, pause: f64) -> f64 {
        let Some(limit) = running.tpot else { return 1.0 };
        let to_come = running.more * step + pause;
        let mean = (running.elapsed + to_come) / (running.done + running.more).max(1.0);
        let unknown = to_come / (running.elapsed + to_come).max(f64::MIN_POSITIVE);
        let spread = (self.view.tpot.spread() * unknown).max(LEAST_SPREAD);
        chance(mean, limit, spread)
    }

    /// Objectives that its sequences meet, but for one, when a step takes so many seconds; by their weight.
    pub(super) fn met(&self, step: f64, but: Option<ReservationId>) -> f64 {
        let others = self.running().iter().filter(|running| Some(running.id) != but);
        others.map(|running| running.weight * self.chance(running, step, 0.0)).sum()
    }

    /// The same of all, as things are.
    pub(super) fn met_now(&self) -> f64 {
        *self.met.get_or_init(|| self.met(self.step, None))
    }

    /// Its sequences, those on their way included,
    pub(super) fn count(&self) -> f64 {
        self.batch as f64
    }

    /// and about how much they weigh.
    pub(super) fn load(&self) -> f64 {
        self.batch as f64 * self.view.reserved.mean_weight()
    }

    /// Of all its sequences.
    pub(super) fn weight(&self) -> f64 {
        let running = self.running();
        let unknown = (self.batch as f64 - running.len() as f64).max(0.0);
        running.iter().map(|running| running.weight).sum::<f64>() + unknown
    }

    /// Whether the sequence fits, now and as all there grow.
    pub(super) fn takes(&self, running: &Running) -> bool {
        let most = u64::from(self.view.max_decode_tokens());
        running.context < most
            && running.held < self.view.free_blocks()
            && self.need.fits(&running.need, self.blocks, self.from.cluster.deviations)
    }

    /// Whether it may be sent another one.
    pub(super) fn is_open(&self, at_once: u32) -> bool {
        self.view.accepts() && !self.is_used && self.coming < at_once
    }

    /// How long the sequence's pages take here, in seconds,
    pub(super) fn transfer(&self, running: &Running) -> f64 {
        let bytes = running.held as f64 * self.view.group.layout.block_bytes() as f64;
        let share = self.from.config.link_share * self.view.link.bytes_per_second;
        self.view.link.rtt_us / 1e6 + bytes / share
    }

    /// and how long its client waits for the next token, once its steps here take so long.
    pub(super) fn pause(&self, step: f64) -> f64 {
        self.view.link.rtt_us / 1e6 + GAP_STEPS * step
    }

    /// Whether the sequence will probably still run when it has come here.
    pub(super) fn is_worth(&self, running: &Running, step: f64) -> bool {
        running.more * step > 2.0 * self.transfer(running)
    }
}
