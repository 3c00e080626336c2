use super::*;
use crate::random::{Purpose, draws};

fn times(arrivals: Arrivals, count: usize) -> Vec<f64> {
    let mut rng = draws(3, Purpose::Arrivals);
    let mut now = Duration::ZERO;
    let next = |_| {
        now += arrivals.gap(now, &mut rng);
        now.as_secs_f64()
    };
    (0..count).map(next).collect()
}

fn mean_and_cv(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
    (mean, variance.sqrt() / mean)
}

#[test]
fn arrivals_have_their_rate_and_their_burstiness() {
    for (arrivals, cv) in [
        (Arrivals::Poisson { rate: 5.0 }, 1.0),
        (Arrivals::Gamma { rate: 5.0, cv: 3.0 }, 3.0),
        (Arrivals::Gamma { rate: 5.0, cv: 0.5 }, 0.5),
        (Arrivals::Constant { rate: 5.0 }, 0.0),
    ] {
        let times = times(arrivals, 20_000);
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let (mean, spread) = mean_and_cv(&gaps);
        assert!((mean - 0.2).abs() < 0.015, "{arrivals:?}: {mean}");
        assert!((spread - cv).abs() < 0.1 * cv.max(0.01), "{arrivals:?}: {spread}");
    }
}

const RAMP: Arrivals = Arrivals::Ramp { from: 10.0, to: 50.0, over_s: 100.0 };
const SURGE: Arrivals = Arrivals::Surge { rate: 10.0, peak: 50.0, from_s: 60.0, to_s: 100.0 };

#[test]
fn a_rate_that_changes_is_where_it_is_meant_to_be() {
    for (arrivals, parts) in [
        (RAMP, [(0.0, 10.0, 120.0), (45.0, 55.0, 300.0), (100.0, 120.0, 1000.0)]),
        (SURGE, [(0.0, 60.0, 600.0), (60.0, 100.0, 2000.0), (100.0, 150.0, 500.0)]),
    ] {
        let times = times(arrivals, 6000);
        for (from, to, expected) in parts {
            let by = |at| arrivals.expected_by(Duration::from_secs_f64(at));
            assert!((by(to) - by(from) - expected).abs() < 1e-9, "{arrivals}: {from}–{to} s");
            let count = times.iter().filter(|t| (from..to).contains(*t)).count() as f64;
            assert!((count - expected).abs() < 4.0 * f64::sqrt(expected), "{from}–{to} s: {count}");
        }
    }
}

#[test]
fn a_seed_means_the_same_arrivals_for_ever() {
    for (arrivals, nanos) in [
        (Arrivals::Poisson { rate: 5.0 }, [306776303, 351302944, 59730161]),
        (Arrivals::Gamma { rate: 5.0, cv: 3.0 }, [2352178, 37991360, 543760951]),
        (Arrivals::Constant { rate: 3.0 }, [333333333, 333333333, 333333333]),
        (RAMP, [152920458, 175038701, 29847263]),
        (SURGE, [153388152, 175651472, 29865081]),
    ] {
        let mut rng = draws(3, Purpose::Arrivals);
        let drawn = [0; 3].map(|_| arrivals.gap(Duration::ZERO, &mut rng).as_nanos());
        assert_eq!(drawn, nanos, "{arrivals}");
    }
}

#[test]
fn forms_are_read_and_written() {
    for (text, arrivals) in [
        ("poisson:rate=4", Arrivals::Poisson { rate: 4.0 }),
        ("gamma:rate=4.5,cv=2", Arrivals::Gamma { rate: 4.5, cv: 2.0 }),
        ("constant:rate=0.25", Arrivals::Constant { rate: 0.25 }),
        ("ramp:from=1,to=10,over=1m", Arrivals::Ramp { from: 1.0, to: 10.0, over_s: 60.0 }),
        (
            "surge:rate=2,peak=8,from=10s,to=20500ms",
            Arrivals::Surge { rate: 2.0, peak: 8.0, from_s: 10.0, to_s: 20.5 },
        ),
    ] {
        assert_eq!(text.parse(), Ok(arrivals));
        assert_eq!(arrivals.to_string(), text);
    }
    let swapped = "gamma:cv=2,rate=4".parse();
    assert_eq!(swapped, Ok(Arrivals::Gamma { rate: 4.0, cv: 2.0 }));
    let shaped = |text| Arrivals::shaped(text, 4.0).map_err(|error| error.to_string());
    assert_eq!(shaped("gamma:cv=2"), swapped.map_err(|error| error.to_string()));
    assert_eq!(shaped("poisson"), Ok(Arrivals::Poisson { rate: 4.0 }));
    for given in ["poisson:rate=2", "ramp:from=1,to=10,over=60s"] {
        assert!(shaped(given).unwrap_err().contains("rates of its own"), "{given}");
    }
}

#[test]
fn what_is_no_form_is_told() {
    for (given, told) in [
        ("", ["\"\" is unknown", "poisson:rate=4"]),
        ("burst:rate=4", ["\"burst:rate=4\" is unknown", "surge:rate=2,peak=8"]),
        ("poisson", ["\"poisson\" has no rate", "poisson:rate=4"]),
        ("poisson:", ["\"\" is no key=value", "poisson:rate=4"]),
        ("poisson:4", ["\"4\" is no key=value", "poisson:rate=4"]),
        ("poisson:rate=4,cv=2", ["\"cv\" is no key", "poisson:rate=4"]),
        ("poisson:rate=4,rate=5", ["rate twice", "poisson:rate=4"]),
        ("poisson:rate=many", ["rate is \"many\"", "a number"]),
        ("poisson:rate=0", ["rate is 0", "above 0"]),
        ("gamma:rate=4", ["no cv", "gamma:rate=4,cv=2"]),
        ("gamma:rate=4,cv=nan", ["cv is NaN", "above 0"]),
        ("ramp:from=1,to=2,over=60", ["over: \"60\" is no duration", "ms"]),
        ("surge:rate=2,peak=8,from=20s,to=10s", ["to_s is 10", "above from_s"]),
    ] {
        let error = given.parse::<Arrivals>().unwrap_err().to_string();
        assert!(told.iter().all(|part| error.contains(part)), "{error:?} doesn't tell {told:?}");
    }
}
