use super::*;
use crate::random::{Draws, Purpose, draws, unit};

const CLAIMS: [Arrivals; 9] = [
    Arrivals::Poisson { rate: 5.0 },
    Arrivals::Poisson { rate: 2000.0 },
    Arrivals::Gamma { rate: 5.0, cv: 1.0 },
    Arrivals::Gamma { rate: 5.0, cv: 2.0 },
    Arrivals::Gamma { rate: 50.0, cv: 3.0 },
    Arrivals::Gamma { rate: 5.0, cv: 0.5 },
    Arrivals::Constant { rate: 30.0 },
    Arrivals::Ramp { from: 1.0, to: 40.0, over_s: 300.0 },
    Arrivals::Surge { rate: 5.0, peak: 50.0, from_s: 60.0, to_s: 160.0 },
];

fn times(arrivals: Arrivals, seed: u64, count: usize) -> Vec<Duration> {
    let mut rng = draws(seed, Purpose::Arrivals);
    let mut now = Duration::ZERO;
    let next = |_| {
        now += arrivals.gap(now, &mut rng);
        now
    };
    (0..count).map(next).collect()
}

fn verdict(mut check: ArrivalCheck, times: impl IntoIterator<Item = Duration>) -> ArrivalVerdict {
    times.into_iter().for_each(|at| check.arrived(at));
    check.verdict()
}

fn by_gaps(seed: u64, count: usize, gap: impl Fn(&mut Draws) -> f64) -> Vec<Duration> {
    let mut rng = draws(seed, Purpose::Arrivals);
    let mut now = Duration::ZERO;
    let next = |_| {
        now += Duration::from_secs_f64(gap(&mut rng));
        now
    };
    (0..count).map(next).collect()
}

#[test]
fn right_arrivals_pass() {
    for claim in CLAIMS {
        for count in [1, 30, 500, 8000] {
            let seeds = 0..100;
            let passes = |seed: &u64| {
                verdict(ArrivalCheck::new(&claim), times(claim, *seed, count)).passes()
            };
            let failed: Vec<u64> = seeds.filter(|seed| !passes(seed)).collect();
            // Three in a thousand may, and chance has it that as many as these do.
            assert!(failed.len() <= 3, "{claim}, {count} arrivals: {failed:?}");
        }
    }
}

#[test]
fn workers_that_share_a_seed_are_caught() {
    for seed in 0..20 {
        // Ten each draw the same; between the copies of an arrival is a little time.
        let copies = |at: Duration| (0..10).map(move |worker| at + Duration::from_micros(worker));
        let times = times(Arrivals::Poisson { rate: 2.0 }, seed, 1000).into_iter().flat_map(copies);
        let mut times: Vec<Duration> = times.collect();
        times.sort();
        let verdict = verdict(ArrivalCheck::new(&Arrivals::Poisson { rate: 20.0 }), times);
        let dispersion = verdict.dispersion.unwrap();
        assert!((8.0..12.0).contains(&dispersion.seen), "{verdict:?}");
        assert!(!dispersion.passes() && !verdict.gaps.unwrap().passes(), "{verdict:?}");
        assert!(!verdict.passes());
    }
}

#[test]
fn what_claims_to_be_something_else_is_caught() {
    let poisson = Arrivals::Poisson { rate: 5.0 };
    let gamma = |cv| Arrivals::Gamma { rate: 5.0, cv };
    let constant = Arrivals::Constant { rate: 5.0 };
    let ramp = Arrivals::Ramp { from: 1.0, to: 10.0, over_s: 400.0 };
    for seed in 0..20 {
        let drawn = |arrivals| times(arrivals, seed, 10_000);
        let even = by_gaps(seed, 10_000, |rng| 0.4 * unit(rng));
        let jitter = by_gaps(seed, 10_000, |rng| 0.2 + 0.15 * (unit(rng) - 0.5));
        let late = |at: Duration| at.mul_f64(1.1);
        for (what, claim, times) in [
            ("gamma", poisson, drawn(gamma(1.2))),
            ("smooth gamma", poisson, drawn(gamma(0.8))),
            ("uniform gaps", poisson, even),
            ("a clock", poisson, drawn(constant)),
            ("Poisson", gamma(1.2), drawn(poisson)),
            ("Poisson", constant, drawn(poisson)),
            ("a ramp", poisson, drawn(ramp)),
            ("Poisson", ramp, drawn(poisson)),
            ("10 % more", poisson, drawn(poisson.at_rate(5.5))),
            ("10 % less", poisson, drawn(poisson.at_rate(4.5))),
            ("10 % later", gamma(1.2), drawn(gamma(1.2)).into_iter().map(late).collect()),
            ("10 % later", constant, drawn(constant).into_iter().map(late).collect()),
            ("10 % later", ramp, drawn(ramp).into_iter().map(late).collect()),
        ] {
            let verdict = verdict(ArrivalCheck::new(&claim), times);
            assert!(!verdict.passes(), "{what} as {claim}, seed {seed}: {verdict:?}");
        }
        let clock = verdict(ArrivalCheck::new(&constant), jitter);
        assert!(clock.gaps.unwrap().passes(), "{clock:?}");
    }
}

#[test]
fn each_question_finds_what_the_others_miss() {
    // The right gaps in the wrong order: only their counts are too even or too bursty.
    let sorted = |seed| {
        let mut gaps: Vec<f64> = Vec::new();
        by_gaps(seed, 10_000, |rng| -(1.0 - unit(rng)).ln() / 5.0).into_iter().fold(
            Duration::ZERO,
            |before, at| {
                gaps.push((at - before).as_secs_f64());
                at
            },
        );
        gaps.sort_by(f64::total_cmp);
        let mut now = 0.0;
        gaps.into_iter().map(move |gap| {
            now += gap;
            Duration::from_secs_f64(now)
        })
    };
    let check = || ArrivalCheck::new(&Arrivals::Poisson { rate: 5.0 });
    let verdict_of = verdict(check(), sorted(1));
    let passes = |it: &ArrivalVerdict| {
        (it.rate.unwrap().passes(), it.dispersion.unwrap().passes(), it.gaps.unwrap().passes())
    };
    assert_eq!(passes(&verdict_of), (true, false, true), "{verdict_of:?}");
    // Pairs: half as many places, two at each.
    let pairs = by_gaps(2, 5000, |rng| -(1.0 - unit(rng)).ln() / 2.5);
    let pairs = verdict(check(), pairs.into_iter().flat_map(|at| [at, at]));
    assert_eq!(passes(&pairs), (true, false, false), "{pairs:?}");
}

#[test]
fn arrivals_without_a_claim_are_only_described() {
    let times = times(Arrivals::Gamma { rate: 5.0, cv: 2.0 }, 1, 20_000);
    let verdict = verdict(ArrivalCheck::unclaimed(5.0), times);
    let (rate, dispersion) = (verdict.rate.unwrap(), verdict.dispersion.unwrap());
    assert!((rate.seen - 5.0).abs() < 0.3, "{verdict:?}");
    assert!((2.5..4.0).contains(&dispersion.seen), "{verdict:?}");
    assert_eq!((rate.band, dispersion.band, verdict.gaps), (None, None, None));
    assert!(verdict.passes());
}

#[test]
fn nothing_and_little_pass_and_are_numbers() {
    for claim in CLAIMS {
        let nobody = ArrivalCheck::new(&claim).verdict();
        assert!(nobody.passes(), "{nobody:?}");
        assert_eq!((nobody.arrivals, nobody.windows, nobody.dispersion), (0, 0, None));
        for count in [1, 2, 50] {
            let verdict = verdict(ArrivalCheck::new(&claim), times(claim, 1, count));
            let json = serde_json::to_string(&verdict).unwrap();
            assert!(!json.contains("null") || verdict.dispersion.is_none(), "{json}");
        }
    }
}
