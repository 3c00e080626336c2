//! Scenarios small enough to be reckoned by hand.

use std::time::Duration;

use baton_policy::Link;
use baton_sim::{End, Topology};
use baton_types::{LatencyProfile, StepShape};

use crate::scenarios::{run, scenario};

fn step(profile: &LatencyProfile, chunk: (usize, usize)) -> Duration {
    let mut shape = StepShape::default();
    shape.add_prefill(chunk.0, chunk.1);
    profile.step(&shape)
}

#[test]
fn one_request_takes_what_the_formulas_say() {
    let scenario = scenario((1, 1), 1, 1.0, (512, 3));
    let report = run(&scenario);
    let outcome = &report.outcomes[0];
    assert_eq!((outcome.end, outcome.output_tokens), (End::Completed, 3));

    let profile = &scenario.cluster.prefill.profile;
    let latency = Duration::from_micros(100);
    let prefill = step(profile, (256, 0)) + step(profile, (256, 256));
    assert_eq!(outcome.parts.prefill, prefill);
    assert_eq!(outcome.ttft, Some(latency + prefill + latency));

    // All but the last layer of the second chunk hides.
    let layout = scenario.cluster.model.layout();
    let bytes = 512 / 16 * layout.block_bytes() as u64;
    let link = Link { rtt_us: 0.0, bytes_per_second: 1.25e9 };
    let exposed = outcome.parts.exposed_transfer.unwrap();
    let chunked = link.exposed(bytes / 2, layout.layers, step(profile, (256, 256)));
    let whole = link.exposed(bytes, layout.layers, prefill);
    assert!(exposed >= chunked && exposed <= whole, "{chunked:?} {exposed:?} {whole:?}");

    let decode = |context: usize| {
        let mut shape = StepShape::default();
        shape.add_decode(context);
        scenario.cluster.decode.profile.step(&shape)
    };
    assert_eq!(outcome.parts.first_decode_step, Some(decode(512)));
    assert_eq!(outcome.parts.decode_admission, Some(Duration::ZERO));
    let second = latency + exposed + decode(512);
    let tpot = (second + decode(513)) / 2;
    assert_eq!(outcome.tpot, Some(tpot));
    assert_eq!(outcome.longest_gap, Some(second));
}

#[test]
fn one_worker_that_does_both_decodes_at_once() {
    let mut scenario = scenario((1, 1), 1, 1.0, (100, 2));
    scenario.cluster.topology = Topology::Colocated { workers: 1 };
    let report = run(&scenario);
    let outcome = &report.outcomes[0];
    let profile = &scenario.cluster.colocated.profile;
    let mut decode = StepShape::default();
    decode.add_decode(100);
    assert_eq!(outcome.parts.prefill, step(profile, (100, 0)));
    assert_eq!(outcome.tpot, Some(profile.step(&decode)));
    assert_eq!(outcome.parts.exposed_transfer, None);
}

#[test]
fn an_output_of_one_token_needs_no_decode_node() {
    let report = run(&scenario((1, 1), 3, 1.0, (100, 1)));
    assert_eq!((report.completed, report.tpot_ms), (3, None));
    assert_eq!(report.roles[1].steps, 0);
}
