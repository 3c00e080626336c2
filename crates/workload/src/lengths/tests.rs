use proptest::prelude::*;

use super::*;
use crate::random::{Purpose, draws};

fn drawn(lengths: &Lengths, count: usize) -> Vec<u32> {
    let mut rng = draws(3, Purpose::Lengths);
    (0..count).map(|_| lengths.draw(&mut rng)).collect()
}

#[test]
fn lengths_have_their_mean_and_stay_in_their_bounds() {
    for (lengths, mean, within, bounds) in [
        (Lengths::Lognormal { mean: 755.0, cv: 0.8, max: 4000 }, 755.0, 20.0, 1..=4000),
        (Lengths::Uniform { min: 3, max: 7 }, 5.0, 0.1, 3..=7),
        (Lengths::Normal { mean: 512.0, sd: 100.0, min: 1, max: 4096 }, 512.0, 3.0, 1..=4096),
        // Half of a normal distribution: its mean is √(2/π) standard deviations from the cut.
        (Lengths::Normal { mean: 100.0, sd: 50.0, min: 100, max: 900 }, 139.9, 1.5, 100..=900),
        // No draw in a hundred falls between: after so many it is an end's turn.
        (Lengths::Normal { mean: 100.5, sd: 5000.0, min: 100, max: 101 }, 100.5, 0.1, 100..=101),
    ] {
        let drawn = drawn(&lengths, 20_000);
        let seen = drawn.iter().map(|&tokens| f64::from(tokens)).sum::<f64>() / 20_000.0;
        assert!((seen - mean).abs() < within, "{lengths}: {seen}");
        assert!(drawn.iter().all(|tokens| bounds.contains(tokens)), "{lengths}");
    }
    let both = drawn(&Lengths::Uniform { min: 3, max: 7 }, 1000);
    assert!(both.contains(&3) && both.contains(&7));
}

#[test]
fn a_normal_lengths_spread_is_its_own() {
    let drawn = drawn(&Lengths::Normal { mean: 512.0, sd: 100.0, min: 1, max: 4096 }, 20_000);
    let variance = drawn.iter().map(|&tokens| (f64::from(tokens) - 512.0).powi(2)).sum::<f64>();
    assert!(((variance / 20_000.0).sqrt() - 100.0).abs() < 2.0);
}

#[test]
fn a_seed_means_the_same_lengths_for_ever() {
    for (lengths, expected) in [
        (Lengths::Uniform { min: 3, max: 900 }, [767, 47, 484]),
        (Lengths::Lognormal { mean: 755.0, cv: 1.0, max: 4096 }, [2212, 279, 561]),
        (Lengths::Empirical { tokens: vec![10, 20, 30] }, [30, 10, 20]),
        (Lengths::Normal { mean: 512.0, sd: 100.0, min: 1, max: 4096 }, [683, 434, 518]),
    ] {
        assert_eq!(drawn(&lengths, 3), expected, "{lengths}");
    }
}

#[test]
fn forms_are_read_and_written() {
    for (text, lengths) in [
        ("512", Lengths::Fixed { tokens: 512 }),
        ("uniform:min=10,max=20", Lengths::Uniform { min: 10, max: 20 }),
        (
            "normal:mean=512,sd=100,min=8,max=4096",
            Lengths::Normal { mean: 512.0, sd: 100.0, min: 8, max: 4096 },
        ),
        (
            "normal:mean=512,sd=100",
            Lengths::Normal { mean: 512.0, sd: 100.0, min: 1, max: u32::MAX },
        ),
        (
            "lognormal:mean=755,cv=1,max=4096",
            Lengths::Lognormal { mean: 755.0, cv: 1.0, max: 4096 },
        ),
        ("lognormal:mean=75.5,cv=1", Lengths::Lognormal { mean: 75.5, cv: 1.0, max: u32::MAX }),
        ("empirical:10,20,30", Lengths::Empirical { tokens: vec![10, 20, 30] }),
    ] {
        assert_eq!(text.parse(), Ok(lengths.clone()));
        assert_eq!(lengths.to_string(), text);
    }
    assert_eq!("fixed:512".parse(), Ok(Lengths::Fixed { tokens: 512 }));
}

#[test]
fn what_is_no_form_is_told() {
    for (given, told) in [
        ("", ["\"\" is unknown", "fixed:512"]),
        ("zipf:1.1", ["\"zipf:1.1\" is unknown", "empirical:10,20,30"]),
        ("0", ["the length is 0", "at least 1 token"]),
        ("5000000000", ["\"5000000000\"", "a number of tokens"]),
        ("fixed", ["the length is \"\"", "a number of tokens"]),
        ("fixed:12.5", ["the length is \"12.5\"", "a number of tokens"]),
        ("uniform:min=10", ["no max", "uniform:min=10,max=20"]),
        ("uniform:min=20,max=10", ["the length is 10", "its own minimum"]),
        ("uniform:10-20", ["\"10-20\" is no key=value", "uniform:min=10,max=20"]),
        ("normal:mean=512,sd=-1", ["the length is -1", "a standard deviation"]),
        ("normal:mean=512,sd=1,max=100", ["the length is 512", "to its maximum"]),
        ("normal:mean=512,cv=1", ["no sd", "normal:mean=512,sd=100"]),
        ("lognormal:mean=0.5,cv=1", ["the length is 0.5", "at least 1 token"]),
        ("lognormal:mean=5,cv=1,min=2", ["\"min\" is no key", "lognormal:mean=755,cv=1"]),
        ("empirical:", ["list of empirical lengths is empty", "at least one"]),
        ("empirical:10,,30", ["a length is \"\"", "a number of tokens"]),
        ("empirical:10,0", ["the length is 0", "at least 1 token"]),
    ] {
        let error = given.parse::<Lengths>().unwrap_err().to_string();
        assert!(told.iter().all(|part| error.contains(part)), "{error:?} doesn't tell {told:?}");
    }
}

fn any_lengths() -> impl Strategy<Value = Lengths> {
    let bounds = || (1_u32..1000, 0_u32..1000).prop_map(|(min, more)| (min, min + more));
    prop_oneof![
        (1_u32..).prop_map(|tokens| Lengths::Fixed { tokens }),
        bounds().prop_map(|(min, max)| Lengths::Uniform { min, max }),
        (bounds(), 0.0..1.0, 0.0..1e4).prop_map(|((min, max), at, sd)| {
            let mean = f64::from(min) + at * f64::from(max - min);
            Lengths::Normal { mean, sd, min, max }
        }),
        (1.0..1e5, 0.0..10.0, 1_u32..).prop_map(|(mean, cv, max)| Lengths::Lognormal {
            mean,
            cv,
            max
        }),
        proptest::collection::vec(1_u32.., 1..5).prop_map(|tokens| Lengths::Empirical { tokens }),
    ]
}

proptest! {
    #[test]
    fn every_form_comes_back(lengths in any_lengths()) {
        prop_assert_eq!(lengths.to_string().parse(), Ok(lengths));
    }
}
