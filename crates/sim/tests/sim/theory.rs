//! Against what is known of queues.

use crate::scenarios::{run, scenario};
use baton_sim::{Estimate, workload::Arrivals};
use baton_types::StepShape;

#[test]
fn one_prefill_worker_is_an_m_d_1_queue() {
    let mut scenario = scenario((1, 1), 21_000, 1.0, (256, 1));
    scenario.cluster.network.router_latency_us = 0.0;
    // A prompt a step: service takes always as long.
    scenario.cluster.prefill.scheduler.max_batch_tokens = 256;
    let mut shape = StepShape::default();
    shape.add_prefill(256, 0);
    let service = scenario.cluster.prefill.profile.step(&shape).as_secs_f64();
    for load in [0.3, 0.7] {
        scenario.workload.arrivals = Arrivals::Poisson { rate: load / service };
        let report = run(&scenario);
        assert_eq!(report.completed, report.offered);
        let waits: Vec<f64> = report
            .outcomes
            .iter()
            .skip(1000)
            .filter_map(|outcome| Some(outcome.ttft?.as_secs_f64() - service))
            .collect();
        let batches: Vec<f64> = waits
            .chunks(2000)
            .map(|batch| batch.iter().sum::<f64>() / batch.len() as f64)
            .collect();
        let Estimate { mean, half_width } = Estimate::of(&batches);
        // Pollaczek–Khinchine.
        let theory = load * service / (2.0 * (1.0 - load));
        assert!(
            (mean - theory).abs() <= 1.5 * half_width && half_width < 0.2 * theory,
            "load {load}: waited {mean:.6} ± {half_width:.6} s, theory says {theory:.6} s"
        );
        assert!((report.roles[0].utilisation - load).abs() < 0.03, "{report}");
    }
}
