//! The plan as Helm values.

use std::fmt::Write;

use baton_sim::plan::{Plan, Pool};

/// Of the cheapest configuration whose phases have nodes of their own; none if there is none.
pub(crate) fn document(plan: &Plan) -> Option<String> {
    let configuration = plan.configurations.iter().find(|c| c.is_disaggregated())?;
    let mut text = String::new();
    let Plan { model, rate, ttft_ms, tpot_ms, .. } = plan;
    let _ = writeln!(
        text,
        "# For {rate} requests/s within TTFT {ttft_ms} ms and TPOT {tpot_ms} ms: {configuration}, \
         {:.2} an hour.",
        configuration.price_per_hour
    );
    if plan.best() != Some(configuration) {
        text.push_str("# A colocated cluster was cheaper; Baton's nodes have one phase each.\n");
    }
    let _ = writeln!(text, "model: {}", quoted(model));
    for pool in &configuration.pools {
        let Pool { role, device, tensor_parallelism, workers } = pool;
        let _ = writeln!(text, "{role}:");
        let _ = writeln!(text, "  # On {}.", device.replace(['\n', '\r'], " "));
        if *tensor_parallelism > 1 {
            let _ = writeln!(
                text,
                "  # HYPOTHETICAL: planned with tensor parallelism {tensor_parallelism}; Baton's \
                 engine runs one device a node today."
            );
        }
        let _ = writeln!(text, "  replicas: {workers}");
    }
    Some(text)
}

/// A double-quoted scalar: JSON's strings are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
