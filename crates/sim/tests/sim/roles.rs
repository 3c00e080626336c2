//! Workers that change roles as the load does.

use std::{sync::Arc, time::Duration};

use baton_policy::advice::{AdviceConfig, RolesConfig};
use baton_sim::{
    Report, RolesScenario, Switched, simulate,
    workload::{Prompt, Segment, SloConfig, Trace, TraceRequest},
};
use baton_types::Role;

use crate::scenarios::{scenario, whole};

const FLIP: f64 = 50.0;

/// Long prompts and short outputs for 50 s, then short prompts and long outputs for as long.
fn flip() -> Arc<Trace> {
    let (mut requests, mut after) = (Vec::new(), Duration::ZERO);
    while after < Duration::from_secs_f64(2.0 * FLIP) {
        let early = after < Duration::from_secs_f64(FLIP);
        let (prompt, output_len, rate) = if early { (3000, 20, 38.0) } else { (100, 500, 38.0) };
        let content = 2 * requests.len() as u64;
        let prompt = Prompt::new([Segment { content, tokens: prompt }]);
        requests.push(TraceRequest { after, prompt, output_len });
        after += Duration::from_secs_f64(1.0 / rate);
    }
    Arc::new(Trace { requests, ..Trace::default() })
}

fn run(prefill: u32, roles: bool) -> Report {
    let mut scenario = scenario((prefill, 8 - prefill), u64::MAX, 1.0, (1, 1));
    scenario.cluster.network.bytes_per_second = 1.25e10;
    scenario.slo = SloConfig {
        ttft_ms: Some(1000.0),
        tpot_ms: Some(8.0),
        declared: true,
        ..SloConfig::default()
    };
    let advice = AdviceConfig {
        window: Duration::from_secs(10),
        every: Duration::from_secs(1),
        ttft: Duration::from_secs(1),
        tpot: Duration::from_millis(8),
        ..AdviceConfig::default()
    };
    scenario.roles = roles.then_some(RolesScenario { switch: RolesConfig::default(), advice });
    let report = simulate(&scenario, Some(&flip())).expect("a sound scenario");
    whole(&report);
    report
}

#[test]
fn workers_follow_a_load_whose_mix_flips_and_do_not_flap() {
    let fixed = [3, 4, 5].map(|prefill| run(prefill, false).attainment);
    let best = fixed.into_iter().fold(0.0, f64::max);
    let report = run(4, true);
    assert!(report.attainment > best + 0.1, "{report}\nfixed at best {best}");
    // Each change is in the direction of its time.
    let is_right = |switched: &Switched| {
        let early = switched.at_s < FLIP;
        switched.to == if early { Role::Prefill } else { Role::Decode }
    };
    assert!(report.switched.iter().all(is_right), "{:?}", report.switched);
    assert!((2..=6).contains(&report.switched.len()), "{:?}", report.switched);
}
