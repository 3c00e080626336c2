//! What a node counts, under the names dashboards know.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use baton_kv_cache::Usage;
use baton_scheduler::Load;
use baton_types::StepShape;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// A node's metrics. Clones share them.
#[derive(Clone)]
pub struct NodeMetrics {
    registry: Arc<Registry>,
    steps: StepMetrics,
    gauges: Gauges,
    transfers: TransferMetrics,
}

/// Counted by the step thread.
#[derive(Clone, Debug)]
pub struct StepMetrics {
    steps: Counter,
    seconds: Histogram,
    tokens: Family<PhaseLabel, Counter>,
    preemptions: Counter,
    cancelled: Counter,
}

/// Counted by whoever moves pages.
#[derive(Clone, Debug, Default)]
pub struct TransferMetrics {
    pages: Counter,
    bytes: Counter,
    held: Gauge,
    failed: Family<FailureLabel, Counter>,
}

/// Set when somebody looks.
#[derive(Clone, Debug, Default)]
struct Gauges {
    blocks: Family<StateLabel, Gauge>,
    running: Gauge,
    waiting: Gauge,
    kv_usage: Gauge<f64, AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are label values")]
enum Phase {
    prefill,
    decode,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabel {
    reason: &'static str,
}

/// A transfer that counts as held, or as being pulled, while this lives.
#[derive(Debug)]
pub struct HeldTransfer {
    held: Gauge,
}

impl NodeMetrics {
    /// Metrics of a node that serves `model`.
    pub fn new(model: &str) -> Self {
        let mut registry = Registry::default();
        let (steps, gauges) = (StepMetrics::new(), Gauges::default());
        let transfers = TransferMetrics::default();
        let baton = registry.sub_registry_with_prefix("baton");
        steps.register(baton);
        transfers.register(baton);
        gauges.register(baton);
        let label = ("model_name".into(), model.to_owned().into());
        gauges.register_vllm(registry.sub_registry_with_label(label));
        NodeMetrics { registry: Arc::new(registry), steps, gauges, transfers }
    }

    pub fn steps(&self) -> &StepMetrics {
        &self.steps
    }

    pub fn transfers(&self) -> &TransferMetrics {
        &self.transfers
    }

    /// Everything in the OpenMetrics text format, the gauges as of now.
    pub fn render(&self, load: Load, usage: &Usage) -> String {
        self.gauges.set(load, usage);
        encode(&self.registry)
    }
}

/// A registry in the OpenMetrics text format.
pub fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    text::encode(&mut text, registry).expect("writing to a string succeeds");
    text
}

impl StepMetrics {
    pub fn new() -> Self {
        StepMetrics {
            steps: Counter::default(),
            // 100 µs to 13 s.
            seconds: Histogram::new(exponential_buckets(1e-4, 2.0, 18)),
            tokens: Family::default(),
            preemptions: Counter::default(),
            cancelled: Counter::default(),
        }
    }

    fn register(&self, baton: &mut Registry) {
        baton.register("steps", "Steps of the engine", self.steps.clone());
        baton.register("step_seconds", "Time of a step", self.seconds.clone());
        baton.register("tokens", "Tokens computed, by phase", self.tokens.clone());
        baton.register(
            "preemptions",
            "Sequences that gave their blocks back and were computed again",
            self.preemptions.clone(),
        );
        baton.register(
            "requests_cancelled",
            "Sequences cancelled before their end",
            self.cancelled.clone(),
        );
    }

    pub(crate) fn stepped(&self, shape: &StepShape, duration: Duration) {
        self.steps.inc();
        self.seconds.observe(duration.as_secs_f64());
        for (phase, tokens) in
            [(Phase::prefill, shape.prefill_tokens), (Phase::decode, shape.decode_batch)]
        {
            if tokens > 0 {
                self.tokens.get_or_create(&PhaseLabel { phase }).inc_by(tokens.into());
            }
        }
    }

    /// `total` since the start.
    pub(crate) fn preempted(&self, total: u64) {
        self.preemptions.inc_by(total.saturating_sub(self.preemptions.get()));
    }

    pub(crate) fn cancelled(&self) {
        self.cancelled.inc();
    }
}

impl Default for StepMetrics {
    fn default() -> Self {
        StepMetrics::new()
    }
}

impl TransferMetrics {
    fn register(&self, baton: &mut Registry) {
        baton.register("transfer_pages", "Pages sent or received", self.pages.clone());
        baton.register("transfer_bytes", "Bytes of pages sent or received", self.bytes.clone());
        baton.register(
            "transfers_held",
            "Sequences whose pages are held for a puller, or being pulled",
            self.held.clone(),
        );
        baton.register("transfers_failed", "Hand-overs that failed", self.failed.clone());
    }

    /// Counts one transfer as held until the guard is dropped.
    pub fn hold(&self) -> HeldTransfer {
        self.held.inc();
        HeldTransfer { held: self.held.clone() }
    }

    pub fn moved(&self, pages: u64, bytes: u64) {
        self.pages.inc_by(pages);
        self.bytes.inc_by(bytes);
    }

    pub fn failed(&self, reason: &'static str) {
        self.failed.get_or_create(&FailureLabel { reason }).inc();
    }

    /// Transfers held now.
    pub fn held(&self) -> u32 {
        u32::try_from(self.held.get()).unwrap_or(0)
    }
}

impl Drop for HeldTransfer {
    fn drop(&mut self) {
        self.held.dec();
    }
}

impl Gauges {
    fn register(&self, baton: &mut Registry) {
        baton.register("kv_blocks", "Blocks of the KV pool, by state", self.blocks.clone());
        baton.register("requests_running", "Sequences in the batch", self.running.clone());
        baton.register(
            "requests_waiting",
            "Sequences waiting for a place in the batch",
            self.waiting.clone(),
        );
    }

    /// The three gauges that autoscalers and gateways know from vLLM.
    fn register_vllm(&self, registry: &mut Registry) {
        registry.register(
            "vllm:num_requests_running",
            "Sequences in the batch",
            self.running.clone(),
        );
        registry.register(
            "vllm:num_requests_waiting",
            "Sequences waiting for a place in the batch",
            self.waiting.clone(),
        );
        registry.register(
            "vllm:kv_cache_usage_perc",
            "Share of the KV pool in use, from 0 to 1",
            self.kv_usage.clone(),
        );
    }

    fn set(&self, load: Load, usage: &Usage) {
        for (state, blocks) in [
            ("free", usage.free),
            ("cached", usage.cached),
            ("held", usage.held),
            ("total", usage.total),
        ] {
            self.blocks.get_or_create(&StateLabel { state }).set(i64::from(blocks));
        }
        self.running.set(load.running.into());
        self.waiting.set(load.waiting.into());
        self.kv_usage.set(f64::from(usage.held) / f64::from(usage.total.max(1)));
    }
}

impl fmt::Debug for NodeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeMetrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_dashboards_ask_for_are_there() {
        let metrics = NodeMetrics::new("sim");
        let shape = StepShape { prefill_tokens: 7, decode_batch: 2, ..StepShape::default() };
        metrics.steps().stepped(&shape, Duration::from_millis(3));
        metrics.transfers().moved(4, 4096);
        let held = metrics.transfers().hold();
        let usage = Usage { total: 10, free: 6, cached: 2, held: 4 };
        let text = metrics.render(Load { running: 2, ..Load::default() }, &usage);
        for line in [
            "baton_kv_blocks{state=\"held\"} 4",
            "baton_kv_blocks{state=\"total\"} 10",
            "baton_requests_running 2",
            "baton_requests_waiting 0",
            "baton_transfers_held 1",
            "baton_steps_total 1",
            "baton_step_seconds_count 1",
            "baton_tokens_total{phase=\"prefill\"} 7",
            "baton_tokens_total{phase=\"decode\"} 2",
            "baton_transfer_pages_total 4",
            "baton_transfer_bytes_total 4096",
            "vllm:num_requests_running{model_name=\"sim\"} 2",
            "vllm:num_requests_waiting{model_name=\"sim\"} 0",
            "vllm:kv_cache_usage_perc{model_name=\"sim\"} 0.4",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing from\n{text}");
        }
        drop(held);
        assert_eq!(metrics.transfers().held(), 0);
    }
}
