//! What the router has learned of its nodes' steps and caches.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use baton_policy::FitError;
use baton_types::{LatencyProfile, Mixing, NodeId, Role};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// One node's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeLatency {
    pub(crate) node: NodeId,
    pub(crate) role: Role,
    pub(crate) profile: LatencyProfile,
    pub(crate) error: FitError,
    /// How many it was learned from.
    pub(crate) reports: u64,
    /// Blocks it has cached or is about to, as far as the router knows.
    pub(crate) cached_blocks: u64,
    /// How often some of its KV events were missing.
    pub(crate) missed_events: u64,
}

/// All members', as of the latest scrape. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Latencies(Arc<Mutex<Vec<NodeLatency>>>);

type Label = (&'static str, String);

impl Latencies {
    pub(super) fn set(&self, nodes: Vec<NodeLatency>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
    }
}

impl Collector for Latencies {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let coefficients = nodes.iter().flat_map(|node| {
            let named = LatencyProfile::COEFFICIENTS.into_iter().zip(node.profile.coefficients());
            named.map(|(name, us)| (labels(node, "coefficient", name), ConstGauge::new(us / 1e6)))
        });
        let help = "What steps are predicted to cost, by the profile's coefficients";
        family(
            &mut encoder,
            "latency_model_coefficient_seconds",
            help,
            MetricType::Gauge,
            coefficients,
        )?;
        let mixing = nodes.iter().map(|node| {
            let mixing = match node.profile.mixing {
                Mixing::Sum => "sum",
                Mixing::Max => "max",
            };
            (labels(node, "mixing", mixing), ConstGauge::new(1.0))
        });
        let help = "How the parts of a step that prefills and decodes are predicted to add up";
        family(&mut encoder, "latency_model_mixing", help, MetricType::Gauge, mixing)?;
        let errors = nodes.iter().flat_map(|node| {
            let FitError { prefill, decode } = node.error;
            [("prefill", prefill), ("decode", decode)]
                .map(|(step, error)| (labels(node, "step", step), ConstGauge::new(error)))
        });
        let help = "Standard deviation of ln(actual/predicted) of the latest steps' times";
        family(&mut encoder, "latency_model_error_ratio", help, MetricType::Gauge, errors)?;
        let help = "Steps the model has learned from";
        let reports = nodes.iter().map(|node| (node_labels(node), ConstCounter::new(node.reports)));
        family(&mut encoder, "latency_model_reports", help, MetricType::Counter, reports)?;
        let help = "Blocks in the prefix index: cached on the node, or about to be";
        let blocks =
            nodes.iter().map(|node| (node_labels(node), ConstGauge::new(node.cached_blocks)));
        family(&mut encoder, "prefix_index_blocks", help, MetricType::Gauge, blocks)?;
        let help = "How often KV events of the node were missing, and a snapshot was asked for";
        let missed =
            nodes.iter().map(|node| (node_labels(node), ConstCounter::new(node.missed_events)));
        family(&mut encoder, "kv_events_missed", help, MetricType::Counter, missed)
    }
}

/// Writes one family of metrics.
fn family<L: EncodeLabelSet, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    samples: impl Iterator<Item = (L, M)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, metric) in samples {
        metric.encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn node_labels(node: &NodeLatency) -> [Label; 2] {
    [("node", node.node.to_string()), ("role", node.role.to_string())]
}

fn labels(node: &NodeLatency, name: &'static str, value: &str) -> [Label; 3] {
    let [id, role] = node_labels(node);
    [id, role, (name, value.to_owned())]
}

#[cfg(test)]
mod tests {
    use baton_node::metrics::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn what_was_learned_is_told_of_present_nodes_alone() {
        let latencies = Latencies::default();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(latencies.clone()));
        latencies.set(vec![NodeLatency {
            node: "d\"1".into(),
            role: Role::Decode,
            profile: LatencyProfile { decode_sequence_us: 250.0, ..LatencyProfile::FREE },
            error: FitError { prefill: 0.5, decode: 0.0625 },
            reports: 7,
            cached_blocks: 40,
            missed_events: 2,
        }]);
        let text = encode(&registry);
        let node = "node=\"d\\\"1\",role=\"decode\"";
        for line in [
            format!("latency_model_coefficient_seconds{{{node},coefficient=\"prefill\"}} 0.0"),
            format!(
                "latency_model_coefficient_seconds{{{node},coefficient=\"decode_sequence\"}} 0.00025"
            ),
            format!("latency_model_mixing{{{node},mixing=\"sum\"}} 1.0"),
            format!("latency_model_error_ratio{{{node},step=\"decode\"}} 0.0625"),
            format!("latency_model_reports_total{{{node}}} 7"),
            format!("prefix_index_blocks{{{node}}} 40"),
            format!("kv_events_missed_total{{{node}}} 2"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing from\n{text}");
        }
        latencies.set(Vec::new());
        assert!(!encode(&registry).contains("node="), "{}", encode(&registry));
    }
}
