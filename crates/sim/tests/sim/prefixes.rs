//! Prompts with common beginnings.

use std::time::Duration;

use baton_policy::Policy;
use baton_sim::{
    Scenario,
    workload::{Arrivals, SloConfig},
};
use baton_types::StepShape;

use crate::scenarios::{run, scenario};

const SHARED: u32 = 2048;
const OWN: u32 = 256;

/// Prompts that all begin alike, on four and four workers; and what one takes where its beginning is
/// cached, and where it isn't.
fn hot(requests: u64) -> (Scenario, Duration, Duration) {
    let mut scenario = scenario((4, 4), requests, 1.0, (SHARED + OWN, 8));
    scenario.workload.shared_prefixes = 1;
    scenario.workload.shared_tokens = SHARED;
    let profile = scenario.cluster.prefill.profile;
    let step = |cached: u32| {
        let mut shape = StepShape::default();
        shape.add_prefill(OWN as usize, cached as usize);
        profile.step(&shape)
    };
    let whole: Duration = (0..=SHARED / OWN).map(|chunk| step(chunk * OWN)).sum();
    (scenario, step(SHARED), whole)
}

#[test]
fn a_hot_prefix_is_on_as_many_nodes_as_its_requests_take() {
    let (mut scenario, cached, whole) = hot(600);
    // What 2.4 nodes do that have it.
    let rate = 2.4 / cached.as_secs_f64();
    scenario.workload.arrivals = Arrivals::Poisson { rate };
    let ttft_ms = Some(1e3 * (whole + 3 * cached).as_secs_f64());
    scenario.slo = SloConfig { ttft_ms, tpot_ms: None, declared: true, ..SloConfig::default() };
    let joint = run(&scenario);
    assert!(joint.attainment > 0.95, "{:.3}", joint.attainment);
    let shared = f64::from(SHARED) / f64::from(SHARED + OWN);
    assert!(joint.cached_share > 0.95 * shared, "{:.3} of {shared:.3}", joint.cached_share);
    scenario.policy.policy = Policy::PrefixAffinity;
    let herd = run(&scenario);
    assert!(herd.attainment < joint.attainment, "{:.3}", herd.attainment);
}

#[test]
fn a_node_that_lost_its_cache_is_not_taken_for_one_that_has_it() {
    let (mut scenario, cached, _) = hot(200);
    scenario.workload.arrivals = Arrivals::Constant { rate: 0.5 / cached.as_secs_f64() };
    let undisturbed = run(&scenario);
    // Caches too small for one prompt's beginning: nothing stays.
    let blocks = (SHARED + OWN).div_ceil(scenario.cluster.model.block_tokens);
    scenario.cluster.prefill.kv_blocks = blocks;
    scenario.workload.shared_prefixes = 64;
    let evicting = run(&scenario);
    assert!(evicting.cached_share < 0.2 * undisturbed.cached_share, "{:.3}", evicting.cached_share);
    let ratio = |report: &baton_sim::Report| {
        let (ttft, router) = (report.ttft_ms.unwrap(), report.parts.router_queue_ms.unwrap());
        (ttft.p50, router.p50)
    };
    assert!(ratio(&evicting).0 > ratio(&undisturbed).0);
}
