//! Where values lie along an axis, and which of them are written at it.

/// From 0, at its beginning, to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) struct Scale {
    low: f64,
    high: f64,
    is_log: bool,
}

const MANTISSAS: [f64; 3] = [1.0, 2.0, 5.0];
/// Where those are too many.
const FEWER: [f64; 2] = [1.0, 3.0];

impl Scale {
    pub(in super::super) fn linear(low: f64, high: f64) -> Self {
        let high = if high > low && high.is_finite() { high } else { low + 1.0 };
        Scale { low, high, is_log: false }
    }

    /// From zero on, with some room above all values.
    pub(in super::super) fn from_zero(values: impl IntoIterator<Item = f64>) -> Self {
        let most = finite(values).fold(0.0, f64::max);
        let high = match most > 0.0 {
            true => (1.05 * most / step(most, 8)).ceil() * step(most, 8),
            false => 1.0,
        };
        Scale::linear(0.0, high)
    }

    /// Around all values above zero, its ends at 1, 2 or 5 times a power of ten.
    pub(in super::super) fn log(values: impl IntoIterator<Item = f64>) -> Self {
        let (least, most) = extremes(values);
        if most <= 0.0 {
            return Scale { low: 1.0, high: 10.0, is_log: true };
        }
        let low = nice(least, |mantissa, of| mantissa <= of * (1.0 + 1e-9));
        let high = nice(most, |mantissa, of| mantissa < of * (1.0 - 1e-9));
        let high = next(high);
        Scale { low, high: if high > low { high } else { next(low) }, is_log: true }
    }

    /// Logarithmic where values differ that much, else from zero.
    pub(in super::super) fn fitting(values: impl IntoIterator<Item = f64> + Clone) -> Self {
        const MANY_TIMES: f64 = 25.0;
        let (least, most) = extremes(values.clone());
        if most > MANY_TIMES * least { Scale::log(values) } else { Scale::from_zero(values) }
    }

    pub(in super::super) fn low(&self) -> f64 {
        self.low
    }

    pub(in super::super) fn high(&self) -> f64 {
        self.high
    }

    pub(in super::super) fn is_log(&self) -> bool {
        self.is_log
    }

    /// What lies outside is at the nearer end.
    pub(in super::super) fn at(&self, value: f64) -> f64 {
        let at = match self.is_log {
            true => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        if at.is_finite() { at.clamp(0.0, 1.0) } else { 0.0 }
    }

    #[cfg(test)]
    fn has(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// At most so many.
    pub(in super::super) fn ticks(&self, most: usize) -> Vec<f64> {
        let ticks = if self.is_log { self.log_ticks(most) } else { Vec::new() };
        if ticks.len() < 2 { self.linear_ticks(most) } else { ticks }
    }

    fn linear_ticks(&self, most: usize) -> Vec<f64> {
        let step = step(self.high - self.low, most.max(2) - 1);
        let (first, last) =
            ((self.low / step).ceil() as i64, (self.high / step + 1e-9).floor() as i64);
        (first..=last).map(|times| times as f64 * step).collect()
    }

    /// All of 1, 2 and 5, or of 1 and 3, or powers of ten, or every so many of those.
    fn log_ticks(&self, most: usize) -> Vec<f64> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let within =
            |tick: &f64| *tick >= self.low * (1.0 - 1e-9) && *tick <= self.high * (1.0 + 1e-9);
        for mantissas in [&MANTISSAS[..], &FEWER] {
            let of_power = |power| mantissas.iter().map(move |mantissa| mantissa * ten(power));
            let fine: Vec<f64> = (first..=last).flat_map(of_power).filter(within).collect();
            if fine.len() <= most {
                return fine;
            }
        }
        let powers: Vec<f64> = (first..=last).map(ten).filter(within).collect();
        let every = powers.len().div_ceil(most.max(1)).max(1);
        powers.into_iter().step_by(every).collect()
    }
}

fn ten(power: i32) -> f64 {
    10_f64.powi(power)
}

fn finite(values: impl IntoIterator<Item = f64>) -> impl Iterator<Item = f64> {
    values.into_iter().filter(|value| value.is_finite())
}

/// Of those above zero; both 0 if there is none.
fn extremes(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let all = finite(values).filter(|value| *value > 0.0);
    let (least, most) = all.fold((f64::INFINITY, 0.0), |(least, most): (f64, f64), value| {
        (least.min(value), most.max(value))
    });
    if most > 0.0 { (least, most) } else { (0.0, 0.0) }
}

/// The smallest of 1, 2 and 5 times a power of ten with which `span` has at most `most` steps.
fn step(span: f64, most: usize) -> f64 {
    let least = span / most as f64;
    let power = ten(least.log10().floor() as i32);
    let mantissas = [1.0, 2.0, 5.0, 10.0].into_iter();
    let mut fitting = mantissas.filter(|mantissa| mantissa * power >= least * (1.0 - 1e-9));
    fitting.next().unwrap_or(10.0) * power
}

/// The largest of 1, 2 and 5 times a power of ten that is `below` the value.
fn nice(value: f64, below: fn(f64, f64) -> bool) -> f64 {
    let power = value.log10().floor() as i32;
    let candidates = [ten(power - 1), ten(power)]
        .into_iter()
        .flat_map(|power| MANTISSAS.map(|mantissa| mantissa * power));
    candidates.filter(|candidate| below(*candidate, value)).fold(ten(power - 1), f64::max)
}

/// The one after one of those.
fn next(nice: f64) -> f64 {
    let power = ten((nice.log10() + 1e-9).floor() as i32);
    let mantissa = (nice / power).round();
    power
        * if mantissa < 2.0 {
            2.0
        } else if mantissa < 5.0 {
            5.0
        } else {
            10.0
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(scale: Scale, most: usize, expected: &[f64]) {
        let ticks = scale.ticks(most);
        let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-9 * b.abs();
        assert!(
            ticks.len() == expected.len() && ticks.iter().zip(expected).all(near),
            "{ticks:?} instead of {expected:?}"
        );
    }

    #[test]
    fn ticks_are_at_round_numbers() {
        check(Scale::linear(0.0, 1.0), 6, &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        check(Scale::linear(0.0, 9.7), 6, &[0.0, 2.0, 4.0, 6.0, 8.0]);
        check(Scale::linear(3.0, 61.0), 5, &[20.0, 40.0, 60.0]);
        check(Scale::log([3.0, 70.0]), 6, &[2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        check(Scale::log([20.0, 2400.0]), 6, &[30.0, 100.0, 300.0, 1000.0, 3000.0]);
        check(Scale::log([0.009, 2400.0]), 6, &[0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]);
        check(Scale::log([1e-9, 1e9]), 4, &[1e-9, 1e-4, 1e1, 1e6]);
    }

    #[test]
    fn scales_hold_all_values() {
        for values in
            [vec![], vec![0.0], vec![7.0], vec![5.0, 5.0], vec![1e-3, 1e6], vec![f64::NAN]]
        {
            for scale in [Scale::log(values.clone()), Scale::from_zero(values.clone())] {
                assert!(scale.low() < scale.high(), "{values:?}: {scale:?}");
                for value in values.iter().filter(|value| **value > 0.0) {
                    assert!(scale.has(*value), "{values:?}: {scale:?}");
                }
                assert!(
                    (2..=6).contains(&scale.ticks(6).len()),
                    "{values:?}: {:?}",
                    scale.ticks(6)
                );
            }
        }
    }

    #[test]
    fn what_is_outside_is_at_an_end() {
        let scale = Scale::log([10.0, 100.0]);
        for (value, expected) in [(0.0, 0.0), (10.0, 0.0), (31.622_776_6, 0.5), (1e9, 1.0)] {
            assert!((scale.at(value) - expected).abs() < 1e-6, "{value}: {}", scale.at(value));
        }
        assert_eq!(Scale::linear(0.0, 1.0).at(f64::NAN), 0.0);
    }
}
