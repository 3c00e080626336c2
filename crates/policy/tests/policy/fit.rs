//! The latency model's fit against hidden profiles.

use std::time::Duration;

use baton_policy::{ClusterView, FitConfig, FitError, LatencyFit};
use baton_types::{Generation, LatencyProfile, Mixing, Role, StepReport, StepShape};
use proptest::prelude::*;
use rand_core::RngCore;

use crate::cluster::{Draws, ask, cluster, hello, placed, request};

/// Reports within which the fit has found a profile, or another one.
const ENOUGH: usize = 1500;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Work {
    Prefill,
    Decode,
    Mixed,
}

/// A node with a profile that nobody knows.
struct Hidden {
    profile: LatencyProfile,
    /// Standard deviation of the logarithm of each step's time.
    noise: f64,
    draws: Draws,
}

impl Hidden {
    fn new(profile: LatencyProfile, noise: f64, seed: u64) -> Self {
        Hidden { profile, noise, draws: Draws(seed) }
    }

    fn below(&mut self, end: u64) -> usize {
        (self.draws.next_u64() % end) as usize
    }

    /// In (0, 1].
    fn uniform(&mut self) -> f64 {
        (self.draws.next_u64() >> 11) as f64 / (1_u64 << 53) as f64 + f64::EPSILON / 2.0
    }

    /// Box and Muller's.
    fn normal(&mut self) -> f64 {
        let (radius, angle) = (self.uniform(), self.uniform());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    /// A few chunks, short and long, at the beginning and far into a prompt; one to 64 sequences.
    fn shape(&mut self, work: Work) -> StepShape {
        let mut shape = StepShape::default();
        if work != Work::Decode {
            for _ in 0..=self.below(3) {
                shape.add_prefill(1 + self.below(512), self.below(8192));
            }
        }
        if work != Work::Prefill {
            let longest = 1 + self.below(8192) as u64;
            for _ in 0..=self.below(64) {
                shape.add_decode(1 + self.below(longest));
            }
        }
        shape
    }

    fn run(&mut self, shape: StepShape) -> StepReport {
        let factor = (self.noise * self.normal()).exp();
        StepReport { shape, duration: self.profile.step(&shape).mul_f64(factor) }
    }

    fn teach(&mut self, fit: &mut LatencyFit, work: Work, reports: usize) {
        for _ in 0..reports {
            let shape = self.shape(work);
            fit.observe(&self.run(shape));
        }
    }

    /// The root mean square of the relative error of predictions.
    fn error(&mut self, fit: &LatencyFit, work: Work) -> f64 {
        const SHAPES: usize = 200;
        let squares = (0..SHAPES).map(|_| {
            let shape = self.shape(work);
            let [predicted, actual] = [fit.profile(), self.profile].map(|p| p.step(&shape));
            (predicted.as_secs_f64() / actual.as_secs_f64() - 1.0).powi(2)
        });
        (squares.sum::<f64>() / SHAPES as f64).sqrt()
    }
}

fn times(profile: &LatencyProfile, factors: [f64; 6]) -> LatencyProfile {
    let coefficients = profile.coefficients();
    let coefficients = std::array::from_fn(|at| coefficients[at] * factors[at]);
    LatencyProfile::from_coefficients(coefficients, profile.mixing)
}

/// Six factors from a tenth to ten.
fn factors() -> impl Strategy<Value = [f64; 6]> {
    prop::array::uniform6((-1.0..1.0_f64).prop_map(|exponent| 10_f64.powf(exponent)))
}

fn work() -> impl Strategy<Value = Work> {
    prop_oneof![Just(Work::Prefill), Just(Work::Decode)]
}

fn mixing() -> impl Strategy<Value = Mixing> {
    prop_oneof![Just(Mixing::Sum), Just(Mixing::Max)]
}

fn any_report() -> impl Strategy<Value = StepReport> {
    let tokens = || prop_oneof![Just(0), Just(1), Just(u32::MAX), any::<u32>()];
    let context = prop_oneof![Just(0), Just(u64::MAX), any::<u64>()];
    let attention = prop_oneof![
        Just(0.0),
        Just(-1.0),
        Just(1e29),
        Just(f64::MAX),
        Just(f64::NAN),
        Just(f64::INFINITY),
        any::<f64>(),
        0.0..1e9_f64,
    ];
    let duration = prop_oneof![
        Just(Duration::ZERO),
        Just(Duration::from_nanos(1)),
        Just(Duration::MAX),
        any::<u64>().prop_map(Duration::from_micros),
        (0..10_000_000_u64).prop_map(Duration::from_micros),
    ];
    (tokens(), attention, tokens(), context, duration).prop_map(
        |(prefill_tokens, prefill_attention, decode_batch, decode_context, duration)| {
            let shape =
                StepShape { prefill_tokens, prefill_attention, decode_batch, decode_context };
            StepReport { shape, duration }
        },
    )
}

fn is_sound(fit: &LatencyFit) -> bool {
    let FitError { prefill, decode } = fit.error();
    let coefficients = fit.profile().coefficients();
    coefficients.iter().chain(&[prefill, decode]).all(|x| x.is_finite() && *x >= 0.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However wrong the seed, and again when everything becomes slower or faster.
    #[test]
    fn hidden_profiles_are_found_and_followed(
        hidden in factors(),
        seed in factors(),
        slower in prop_oneof![Just(2.0), Just(0.5)],
        work in work(),
        draws in any::<u64>(),
    ) {
        let profile = times(&LatencyProfile::default(), hidden);
        let mut node = Hidden::new(profile, 0.05, draws);
        let mut fit = LatencyFit::new(times(&profile, seed), FitConfig::default());
        node.teach(&mut fit, work, ENOUGH);
        let error = node.error(&fit, work);
        prop_assert!(error < 0.03, "off by {error}: {:?}", fit.profile());

        node.profile = times(&profile, [slower; 6]);
        node.teach(&mut fit, work, ENOUGH);
        let error = node.error(&fit, work);
        prop_assert!(error < 0.03, "off by {error} after the change: {:?}", fit.profile());
    }

    #[test]
    fn errors_tell_the_noise(
        noise in 0.02..0.3_f64,
        seed in factors(),
        work in work(),
        draws in any::<u64>(),
    ) {
        let profile = LatencyProfile::default();
        let mut node = Hidden::new(profile, noise, draws);
        let mut fit = LatencyFit::new(times(&profile, seed), FitConfig::default());
        node.teach(&mut fit, work, 2 * ENOUGH);
        let FitError { prefill, decode } = fit.error();
        let told = if work == Work::Prefill { prefill } else { decode };
        prop_assert!((0.7..1.4).contains(&(told / noise)), "{told} of {noise}");
    }

    /// Never negative, never without end; and what is false is forgotten.
    #[test]
    fn nonsense_is_survived(
        reports in prop::collection::vec(any_report(), 1..200),
        seed in prop::array::uniform6(any::<f64>()),
        work in work(),
        draws in any::<u64>(),
    ) {
        let mut fit = LatencyFit::new(times(&LatencyProfile::default(), seed), FitConfig::default());
        prop_assert!(is_sound(&fit), "{fit:?}");
        for report in reports {
            fit.observe(&report);
            prop_assert!(is_sound(&fit), "{report:?}: {fit:?}");
        }
        let mut node = Hidden::new(LatencyProfile::default(), 0.05, draws);
        node.teach(&mut fit, work, 4 * ENOUGH);
        let error = node.error(&fit, work);
        prop_assert!(error < 0.1, "off by {error}: {:?}", fit.profile());
    }

    /// What mixed steps cost is found, whatever was believed.
    #[test]
    fn mixing_is_found(
        hidden in mixing(),
        believed in mixing(),
        seed in factors(),
        draws in any::<u64>(),
    ) {
        let profile = LatencyProfile { mixing: hidden, ..LatencyProfile::default() };
        let mut node = Hidden::new(profile, 0.05, draws);
        let believed = LatencyProfile { mixing: believed, ..times(&profile, seed) };
        let mut fit = LatencyFit::new(believed, FitConfig::default());
        for _ in 0..ENOUGH {
            for work in [Work::Prefill, Work::Decode, Work::Mixed] {
                node.teach(&mut fit, work, 1);
            }
        }
        prop_assert_eq!(fit.profile().mixing, hidden);
        for work in [Work::Prefill, Work::Decode, Work::Mixed] {
            let error = node.error(&fit, work);
            prop_assert!(error < 0.03, "{work:?} off by {error}: {:?}", fit.profile());
        }
    }

    /// Steps that add up teach both their parts, though not which of them has what is constant.
    #[test]
    fn mixed_steps_alone_teach_both_parts(seed in factors(), draws in any::<u64>()) {
        let profile = LatencyProfile::default();
        let mut node = Hidden::new(profile, 0.05, draws);
        let mut fit = LatencyFit::new(times(&profile, seed), FitConfig::default());
        node.teach(&mut fit, Work::Mixed, 2 * ENOUGH);
        let error = node.error(&fit, Work::Mixed);
        prop_assert!(error < 0.03, "off by {error}: {:?}", fit.profile());
        for at in [1, 4] {
            let (found, hidden) = (fit.profile().coefficients()[at], profile.coefficients()[at]);
            prop_assert!((0.7..1.4).contains(&(found / hidden)), "{found} of {hidden}");
        }
    }
}

/// A fit that knows the default profile well.
fn settled(node: &mut Hidden) -> LatencyFit {
    let mut fit =
        LatencyFit::new(times(&LatencyProfile::default(), [2.0; 6]), FitConfig::default());
    node.teach(&mut fit, Work::Prefill, ENOUGH);
    node.teach(&mut fit, Work::Decode, ENOUGH);
    fit
}

#[test]
fn no_report_leaves_the_seed_and_one_part_the_other() {
    let seed = times(&LatencyProfile::default(), [3.0; 6]);
    let mut fit = LatencyFit::new(seed, FitConfig::default());
    assert_eq!((fit.profile(), fit.error()), (seed, FitError { prefill: 0.5, decode: 0.5 }));
    let mut node = Hidden::new(LatencyProfile::default(), 0.05, 1);
    node.teach(&mut fit, Work::Prefill, ENOUGH);
    assert_eq!(fit.profile().coefficients()[3..], seed.coefficients()[3..]);
    assert_eq!(fit.error().decode, 0.5);
    assert!(node.error(&fit, Work::Prefill) < 0.03);
}

#[test]
fn steps_without_time_or_work_teach_nothing() {
    let mut fit = LatencyFit::default();
    let before = fit.profile();
    let shape = StepShape { decode_batch: 1, decode_context: 9, ..StepShape::default() };
    fit.observe(&StepReport { shape, duration: Duration::ZERO });
    let shape = StepShape::default();
    fit.observe(&StepReport { shape, duration: Duration::from_millis(1) });
    assert_eq!((fit.profile(), fit.reports()), (before, 0));
}

#[test]
fn a_trusted_seed_gives_way_later() {
    let truth = LatencyProfile::default();
    let after = |seed_spread| {
        let mut node = Hidden::new(truth, 0.05, 2);
        let config = FitConfig { seed_spread, ..FitConfig::default() };
        let mut fit = LatencyFit::new(times(&truth, [1.5; 6]), config);
        node.teach(&mut fit, Work::Decode, 30);
        node.error(&fit, Work::Decode)
    };
    let (trusted, doubted) = (after(0.02), after(1.0));
    assert!(trusted > 0.3 && doubted < 0.1, "{trusted}, {doubted}");
}

/// No wind-up: what a constant load says nothing of stays, and can still be learned anew.
#[test]
fn a_million_steps_alike_blur_nothing_else() {
    let mut node = Hidden::new(LatencyProfile::default(), 0.05, 3);
    let mut fit = settled(&mut node);
    let mut alike = StepShape::default();
    (0..8).for_each(|_| alike.add_decode(1000));
    for _ in 0..1_000_000 {
        fit.observe(&node.run(alike));
    }
    let (decode, prefill) = (node.error(&fit, Work::Decode), node.error(&fit, Work::Prefill));
    assert!(decode < 0.05 && prefill < 0.03, "{decode}, {prefill}: {:?}", fit.profile());

    node.profile = times(&node.profile, [1.0, 1.0, 1.0, 0.5, 3.0, 2.0]);
    node.teach(&mut fit, Work::Decode, ENOUGH);
    let error = node.error(&fit, Work::Decode);
    assert!(error < 0.03, "{error}: {:?}", fit.profile());
}

/// A load that hardly varies says of the slopes hardly more than its noise.
#[test]
fn noise_about_a_steady_load_is_not_taken_for_slopes() {
    let mut node = Hidden::new(LatencyProfile::default(), 0.05, 4);
    let mut fit = settled(&mut node);
    for _ in 0..50_000 {
        let mut shape = StepShape::default();
        let batch = 8 + node.below(2);
        (0..batch).for_each(|_| shape.add_decode(1000));
        fit.observe(&node.run(shape));
    }
    let error = node.error(&fit, Work::Decode);
    assert!(error < 0.25, "{error}: {:?}", fit.profile());
}

#[test]
fn stopped_processes_are_not_slow_ones() {
    let mut node = Hidden::new(LatencyProfile::default(), 0.05, 5);
    let mut fit = settled(&mut node);
    let (profile, told) = (fit.profile(), fit.error());
    let shape = node.shape(Work::Decode);
    let mut stopped = node.run(shape);
    stopped.duration *= 100;
    fit.observe(&stopped);
    for (now, before) in fit.profile().coefficients().into_iter().zip(profile.coefficients()) {
        assert!((now / before - 1.0).abs() < 0.001, "{now}, before {before}");
    }
    assert!(fit.error().decode < 1.2 * told.decode, "{:?}, before {told:?}", fit.error());

    // Not even when it happens all the time.
    for n in 0..2 * ENOUGH {
        let shape = node.shape(Work::Decode);
        let mut report = node.run(shape);
        if n % 50 == 0 {
            report.duration *= 100;
        }
        fit.observe(&report);
    }
    let error = node.error(&fit, Work::Decode);
    assert!(error < 0.03, "{error}: {:?}", fit.profile());
}

/// Two nodes say that they are alike; one is four times slower.
#[test]
fn decisions_follow_what_was_learned() {
    let mut view = cluster(&["p", "x", "y"]);
    let mut slow = Hidden::new(times(&LatencyProfile::default(), [4.0; 6]), 0.05, 6);
    let reports: Vec<_> = (0..ENOUGH)
        .map(|_| {
            let shape = slow.shape(Work::Decode);
            slow.run(shape)
        })
        .collect();
    let stranger = Generation(9);
    view.observe_steps(&"x".into(), stranger, &reports);
    assert_eq!(view.decode[0].fit.reports(), 0, "another incarnation's steps");
    view.observe_steps(&"x".into(), Generation(1), &reports);
    let chosen = |view: &ClusterView, seed| {
        let placement = placed(ask(view, &request(100, 50, 0), seed));
        (placement.path.decode().expect("a decode node").node.to_string(), placement.predicted.tpot)
    };
    for seed in 0..20 {
        assert_eq!(chosen(&view, seed).0, "y");
    }
    // It is only back: what was learned stays.
    view.join(&hello("x", Role::Decode), LatencyFit::default());
    assert_eq!(view.decode[0].latency.profile, view.decode[0].fit.profile());
    view.leave(&"y".into());
    let (predicted, actual) = (chosen(&view, 0).1, slow.profile.decode_us / 1e6);
    assert!((actual..1.3 * actual).contains(&predicted.as_secs_f64()), "{predicted:?}");
}
