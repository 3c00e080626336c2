//! What a router counts.

mod latency;

use std::{fmt, sync::Arc, time::Duration};

use baton_node::metrics::encode;
use baton_policy::advice::Advice;
use baton_types::Slo;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use self::latency::Latencies;
pub(crate) use self::latency::NodeLatency;
use crate::{cluster::Counts, error::Outcome};

/// A router's metrics. Clones share them.
#[derive(Clone)]
pub(crate) struct RouterMetrics {
    registry: Arc<Registry>,
    requests: Family<OutcomeLabel, Counter>,
    ttft: ByClass,
    tpot: ByClass,
    in_flight: Gauge,
    queued: Gauge,
    objectives: Family<ObjectiveLabel, Counter>,
    retries: Family<ReasonLabel, Counter>,
    retries_delayed: Counter,
    migrations: Family<MigrationLabel, Counter>,
    migration_time: Histogram,
    migration_gap: Histogram,
    nodes: Family<RoleLabel, Gauge>,
    taken_up: Family<TokensLabel, Counter>,
    node_silence: Histogram,
    nodes_lost: Family<ReasonLabel, Counter>,
    leads: Gauge,
    recommended: Family<ModelRoleLabel, Gauge>,
    batch_lines: Family<BatchLabel, Counter>,
    batch_lines_running: Gauge,
    latencies: Latencies,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokensLabel {
    tokens: TokensFrom,
}

/// Who had the tokens of a stream that goes on at another router.
#[allow(non_camel_case_types, reason = "the metric's label has these names")]
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, prometheus_client::encoding::EncodeLabelValue,
)]
pub(crate) enum TokensFrom {
    client,
    nodes,
    /// They are made again.
    nobody,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ObjectiveLabel {
    class: String,
    objective: &'static str,
    met: &'static str,
}

/// Classes are the configuration's: never more than it names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabel {
    class: String,
}

type ByClass = Family<ClassLabel, Histogram, fn() -> Histogram>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MigrationLabel {
    reason: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoleLabel {
    role: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelRoleLabel {
    model: String,
    role: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BatchLabel {
    outcome: BatchOutcome,
}

/// What became of a batch's line.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, prometheus_client::encoding::EncodeLabelValue,
)]
#[allow(non_camel_case_types, reason = "the names are label values")]
pub(crate) enum BatchOutcome {
    ok,
    /// Answered with an error.
    failed,
    expired,
    cancelled,
}

/// A batch's line that runs or waits for its place, until dropped.
#[derive(Debug)]
pub(crate) struct BatchLine(Gauge);

impl Drop for BatchLine {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A running request; dropped without an end it counts as cancelled.
#[derive(Debug)]
pub(crate) struct Tally {
    metrics: RouterMetrics,
    class: String,
    ended: bool,
}

impl RouterMetrics {
    pub(crate) fn new() -> Self {
        // 1 ms to 131 s, and 0.1 ms to 13 s.
        let ttft: ByClass =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(1e-3, 2.0, 18)));
        let tpot: ByClass =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(1e-4, 2.0, 18)));
        let mut metrics = RouterMetrics {
            registry: Arc::default(),
            requests: Family::default(),
            ttft,
            tpot,
            in_flight: Gauge::default(),
            queued: Gauge::default(),
            objectives: Family::default(),
            retries: Family::default(),
            retries_delayed: Counter::default(),
            migrations: Family::default(),
            // 1 ms to 65 s, and 0.25 ms to 8 s.
            migration_time: Histogram::new(exponential_buckets(1e-3, 2.0, 17)),
            migration_gap: Histogram::new(exponential_buckets(2.5e-4, 2.0, 16)),
            nodes: Family::default(),
            taken_up: Family::default(),
            // 1 ms to 8 s.
            node_silence: Histogram::new(exponential_buckets(1e-3, 2.0, 14)),
            nodes_lost: Family::default(),
            leads: Gauge::default(),
            recommended: Family::default(),
            batch_lines: Family::default(),
            batch_lines_running: Gauge::default(),
            latencies: Latencies::default(),
        };
        let mut registry = Registry::default();
        metrics.register(registry.sub_registry_with_prefix("baton_router"));
        let (name, help) = ("recommended_replicas", "Nodes of each role that there should be");
        let baton = registry.sub_registry_with_prefix("baton");
        baton.register(name, help, metrics.recommended.clone());
        metrics.registry = Arc::new(registry);
        metrics
    }

    fn register(&self, router: &mut Registry) {
        router.register("requests", "Requests that ended, by outcome", self.requests.clone());
        router.register(
            "ttft_seconds",
            "From a request's arrival to its first token's departure",
            self.ttft.clone(),
        );
        router.register("tpot_seconds", "Mean time between a request's tokens", self.tpot.clone());
        router.register(
            "objectives",
            "Objectives of requests, and whether they were met",
            self.objectives.clone(),
        );
        router.register("in_flight", "Requests that run or wait", self.in_flight.clone());
        router.register("queued", "Requests that wait for a place", self.queued.clone());
        router.register("retries", "Attempts that failed and were repeated", self.retries.clone());
        let help = "Retries that had to wait, because there were too many";
        router.register("retries_delayed", help, self.retries_delayed.clone());
        let help =
            "Sequences that were to change nodes while they were decoded, by reason and outcome";
        router.register("migrations", help, self.migrations.clone());
        let help = "From the order to the destination's first token";
        router.register("migration_seconds", help, self.migration_time.clone());
        let help = "From the source's last token to the destination's first";
        router.register("migration_gap_seconds", help, self.migration_gap.clone());
        router.register("nodes", "Nodes that are members, by role", self.nodes.clone());
        let help = "Streams that broke off and went on here, by who had their tokens";
        router.register("taken_up", help, self.taken_up.clone());
        let help = "From one word of a node to its next";
        router.register("node_silence_seconds", help, self.node_silence.clone());
        let help = "Nodes that ceased to be members, by reason";
        router.register("nodes_lost", help, self.nodes_lost.clone());
        router.register("leads", "Whether this router leads the others", self.leads.clone());
        let (lines, running) = (self.batch_lines.clone(), self.batch_lines_running.clone());
        router.register("batch_lines", "Lines of batches that ended, by outcome", lines);
        router.register("batch_lines_running", "Lines of batches that run", running);
        router.register_collector(Box::new(self.latencies.clone()));
    }

    /// Counts a request of a class as running until the tally is dropped.
    pub(crate) fn enter(&self, class: &str) -> Tally {
        self.in_flight.inc();
        Tally { metrics: self.clone(), class: class.to_owned(), ended: false }
    }

    /// Counts a request that ended, or was refused before it began.
    pub(crate) fn ended(&self, outcome: Outcome) {
        self.requests.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// A node spoke, which had been silent for so long.
    pub(crate) fn node_spoke(&self, silence: Duration) {
        self.node_silence.observe(silence.as_secs_f64());
    }

    /// A stream that broke off goes on here.
    pub(crate) fn took_up(&self, tokens: TokensFrom) {
        self.taken_up.get_or_create(&TokensLabel { tokens }).inc();
    }

    pub(crate) fn node_lost(&self, reason: &'static str) {
        self.nodes_lost.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn retried(&self, reason: &'static str) {
        self.retries.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn retry_delayed(&self) {
        self.retries_delayed.inc();
    }

    /// A sequence has changed nodes: how long it took, and how long its client waited for the next token.
    pub(crate) fn moved(&self, reason: &'static str, took: Duration, gap: Duration) {
        let outcome = "moved";
        self.migrations.get_or_create(&MigrationLabel { reason, outcome }).inc();
        self.migration_time.observe(took.as_secs_f64());
        self.migration_gap.observe(gap.as_secs_f64());
    }

    /// One had no pages yet, and is placed anew.
    pub(crate) fn placed_anew(&self, reason: &'static str) {
        let outcome = "placed_anew";
        self.migrations.get_or_create(&MigrationLabel { reason, outcome }).inc();
    }

    /// One has stayed where it was.
    pub(crate) fn not_moved(&self, reason: &'static str) {
        let outcome = "stayed";
        self.migrations.get_or_create(&MigrationLabel { reason, outcome }).inc();
    }

    /// Counts lines of a batch that ended.
    pub(crate) fn batch_lines(&self, outcome: BatchOutcome, lines: u64) {
        self.batch_lines.get_or_create(&BatchLabel { outcome }).inc_by(lines);
    }

    /// Counts a line of a batch as running.
    pub(crate) fn batch_line(&self) -> BatchLine {
        self.batch_lines_running.inc();
        BatchLine(self.batch_lines_running.clone())
    }

    /// Replaces what is recommended.
    pub(crate) fn recommend(&self, advice: &[Advice]) {
        self.recommended.clear();
        for Advice { model, prefill, decode, .. } in advice {
            for (role, advice) in [("prefill", prefill), ("decode", decode)] {
                let label = ModelRoleLabel { model: model.to_string(), role };
                self.recommended.get_or_create(&label).set(advice.recommended.into());
            }
        }
    }

    /// Everything in the OpenMetrics text format, with the cluster's counts as of now.
    pub(crate) fn render(&self, counts: &Counts, latencies: Vec<NodeLatency>) -> String {
        for (role, nodes) in [("prefill", counts.prefill), ("decode", counts.decode)] {
            let nodes = i64::try_from(nodes).unwrap_or(i64::MAX);
            self.nodes.get_or_create(&RoleLabel { role }).set(nodes);
        }
        self.latencies.set(latencies);
        self.queued.set(i64::try_from(counts.queued).unwrap_or(i64::MAX));
        self.leads.set(counts.leads.into());
        encode(&self.registry)
    }
}

impl Tally {
    /// Counts the end.
    pub(crate) fn ended(
        &mut self,
        outcome: Outcome,
        ttft: Option<Duration>,
        tpot: Option<Duration>,
    ) {
        self.ended = true;
        self.metrics.ended(outcome);
        for (histogram, time) in [(&self.metrics.ttft, ttft), (&self.metrics.tpot, tpot)] {
            if let Some(time) = time {
                let class = self.class.clone();
                histogram.get_or_create(&ClassLabel { class }).observe(time.as_secs_f64());
            }
        }
    }
}

impl Tally {
    /// Counts how the request's objectives fared, the client's own or its class's. What never came came
    /// too late; a single token has no time between tokens.
    pub(crate) fn objectives(&self, slo: Slo, ttft: Option<Duration>, tpot: Option<Duration>) {
        let ttft = slo.ttft.map(|target| ("ttft", ttft.is_some_and(|took| took <= target)));
        let tpot = slo.tpot.zip(tpot).map(|(target, took)| ("tpot", took <= target));
        for (objective, met) in [ttft, tpot].into_iter().flatten() {
            let met = if met { "true" } else { "false" };
            let label = ObjectiveLabel { class: self.class.clone(), objective, met };
            self.metrics.objectives.get_or_create(&label).inc();
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        if !self.ended {
            self.metrics.ended(Outcome::cancelled);
        }
    }
}

impl fmt::Debug for RouterMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouterMetrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_operators_ask_for_is_there() {
        let metrics = RouterMetrics::new();
        let mut tally = metrics.enter("default");
        let counts = Counts { prefill: 1, decode: 2, queued: 3, leads: true };
        let running = metrics.render(&counts, Vec::new());
        assert!(running.contains("baton_router_in_flight 1\n"), "{running}");
        tally.ended(Outcome::ok, Some(Duration::from_millis(9)), None);
        drop(tally);
        drop(metrics.enter("default"));
        metrics.retried("full");
        let text = metrics.render(&counts, Vec::new());
        for line in [
            "baton_router_requests_total{outcome=\"ok\"} 1",
            "baton_router_requests_total{outcome=\"cancelled\"} 1",
            "baton_router_ttft_seconds_count{class=\"default\"} 1",
            "baton_router_in_flight 0",
            "baton_router_queued 3",
            "baton_router_leads 1",
            "baton_router_retries_total{reason=\"full\"} 1",
            "baton_router_nodes{role=\"decode\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing from\n{text}");
        }
    }
}
