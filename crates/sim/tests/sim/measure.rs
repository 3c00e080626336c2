//! Profiles from steps that were measured.

use std::time::Duration;

use baton_sim::plan::measure::{
    LEAST_STEPS, Link, LinkFit, MeasureError, Transfer, fit_link, fit_steps,
};
use baton_types::{LatencyProfile, Mixing, Role, StepReport, StepShape};
use proptest::prelude::*;

/// As on a small CPU, far from the default that a fit begins with.
const COSTS: LatencyProfile = LatencyProfile {
    prefill_us: 3000.0,
    prefill_token_us: 800.0,
    prefill_attention_us: 0.2,
    decode_us: 7000.0,
    decode_sequence_us: 3500.0,
    decode_context_us: 2.0,
    mixing: Mixing::Sum,
};

/// Chunks of prompts and batches of all sizes, each `off` times as long as it should be.
fn steps(count: u32, costs: LatencyProfile, off: impl Fn(u32) -> f64) -> Vec<StepReport> {
    let report = |number: u32| {
        let mut shape = StepShape::default();
        if number.is_multiple_of(2) {
            shape.add_prefill(8 << (number / 2 % 6), (number * 37 % 2000) as usize);
        } else {
            (0..1 << (number / 2 % 6)).for_each(|_| shape.add_decode((number * 53 % 900) as usize));
        }
        StepReport { shape, duration: costs.step(&shape).mul_f64(off(number)) }
    };
    (0..count).map(report).collect()
}

#[test]
fn what_steps_cost_is_found_whatever_it_is() {
    let fit = fit_steps(&steps(600, COSTS, |_| 1.0)).unwrap();
    for phase in [fit.prefill, fit.decode] {
        assert!(phase.median_error < 0.01 && phase.p90_error < 0.03, "{fit:?}");
        assert_eq!((phase.learned, phase.held_out), (240, 60), "{fit:?}");
    }
    assert_eq!((fit.prefill.sizes, fit.decode.sizes, fit.mixed), ((8, 256), (1, 32), 0));
    for (found, cost) in fit.costs.coefficients().iter().zip(COSTS.coefficients()) {
        assert!((found / cost - 1.0).abs() < 0.1, "{found} for {cost}: {fit:?}");
    }
}

#[test]
fn the_error_told_is_that_of_steps_it_never_saw() {
    // Every other step of a size takes a fifth longer, and one of fifty ten times as long.
    let noise = |number: u32| match number {
        n if n % 50 == 49 => 10.0,
        n if n / 12 % 2 == 0 => 1.0,
        _ => 1.2,
    };
    let fit = fit_steps(&steps(3000, COSTS, noise)).unwrap();
    for phase in [fit.prefill, fit.decode] {
        assert!((0.04..0.16).contains(&phase.median_error), "{fit:?}");
        assert!((0.06..0.3).contains(&phase.p90_error), "{fit:?}");
    }
}

#[test]
fn too_few_steps_of_a_phase_are_refused() {
    let few = steps(2 * LEAST_STEPS as u32 - 1, COSTS, |_| 1.0);
    let error = MeasureError::TooFew { phase: Role::Decode, steps: LEAST_STEPS - 1 };
    assert_eq!(fit_steps(&few), Err(error));
    assert_eq!(
        error.to_string(),
        "49 decode steps were seen, and a fit takes 50; measure for longer"
    );
    assert!(fit_steps(&[]).is_err());
    assert!(fit_steps(&steps(2 * LEAST_STEPS as u32, COSTS, |_| 1.0)).is_ok());
}

proptest! {
    /// What a profile can't have (`DeviceProfile::validate`) isn't measured either: steps that take no
    /// time, that take for ever, or all the same.
    #[test]
    fn costs_are_always_those_of_a_profile(
        factors in prop::collection::vec(prop_oneof![Just(0.0), Just(1e9), 0.1..10.0], 120..200),
    ) {
        let reports = steps(factors.len() as u32, COSTS, |number| factors[number as usize]);
        let costs = fit_steps(&reports).unwrap().costs;
        for cost in costs.coefficients() {
            prop_assert!(cost.is_finite() && cost >= 0.0, "{costs:?}");
        }
        prop_assert!(costs.prefill_us >= 1.0 && costs.decode_us >= 1.0, "{costs:?}");
    }
}

/// Of `megabytes` over a link, behind a prompt of `prefill_ms`.
fn transfer(link: Link, megabytes: u64, prefill_ms: f64) -> Transfer {
    let bytes = megabytes * 1_000_000;
    let whole = link.rtt_us / 1e6 + bytes as f64 / link.bytes_per_second;
    let prefill = Duration::from_secs_f64(prefill_ms / 1e3);
    Transfer { bytes, prefill, exposed: Duration::from_secs_f64(whole).saturating_sub(prefill) }
}

#[test]
fn a_link_is_the_line_through_what_prompts_did_not_hide() {
    let link = Link { rtt_us: 500.0, bytes_per_second: 1.5e9 };
    // Small ones hide behind 8 ms of prefill; one was held up for a second.
    let mut seen: Vec<Transfer> = (1..60).map(|n| transfer(link, n, 8.0)).collect();
    seen[40].exposed += Duration::from_secs(1);
    let LinkFit::Measured { link: found, transfers } = fit_link(&seen) else { panic!("{seen:?}") };
    assert!((found.bytes_per_second / 1.5e9 - 1.0).abs() < 0.02, "{found:?}");
    assert!((found.rtt_us - 500.0).abs() < 50.0, "{found:?}");
    assert!((40..50).contains(&transfers), "{transfers}");
}

#[test]
fn a_link_that_prompts_hide_is_only_bounded() {
    let link = Link { rtt_us: 500.0, bytes_per_second: 1.5e9 };
    let seen: Vec<Transfer> = (1..60).map(|n| transfer(link, n, 100.0)).collect();
    let LinkFit::AtLeast { bytes_per_second } = fit_link(&seen) else { panic!("{seen:?}") };
    assert!((5e8..1.5e9).contains(&bytes_per_second), "{bytes_per_second}");
    assert_eq!(fit_link(&[]), LinkFit::Unknown);
}
