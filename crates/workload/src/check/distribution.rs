//! The distributions that verdicts are about.

/// Of a normal distribution, in standard deviations: outside is one in a thousand.
const WIDE: f64 = 3.290_526_731;

/// Where a chi-squared variable of so many degrees of freedom, over them, is 999 times of 1,000; by Wilson and
/// Hilferty's cube root, which is a little wide for few.
pub(super) fn band(degrees: f64) -> (f64, f64) {
    let variance = 2.0 / (9.0 * degrees);
    let at = |sds: f64| (1.0 - variance + sds * variance.sqrt()).max(0.0).powi(3);
    (at(-WIDE), at(WIDE))
}

/// The index of dispersion in windows of `window` expected arrivals whose gaps are gamma-distributed, at any time
/// long after the first. It goes to `cv²` for long windows.
pub(super) fn gamma_dispersion(cv: f64, window: f64) -> f64 {
    // Counts N of an equilibrium renewal process of rate one have E[N(N−1)] = 2∫m, where m(t), the sum over n of the
    // probability that n gaps are shorter than t, is the renewal function (Cox, Renewal Theory, 4.5). The n-th
    // integral is t·P(nk, kt) − n·P(nk+1, kt), of gaps of shape k.
    let shape = 1.0 / (cv * cv);
    let mut pairs = 0.0;
    for n in 1.. {
        let n = f64::from(n);
        let below = gamma_below(n * shape, shape * window);
        pairs += window * below - n * gamma_below(n * shape + 1.0, shape * window);
        if n > window && below < 1e-13 {
            break;
        }
    }
    (2.0 * pairs + window - window * window) / window
}

/// How probable it is that `count` values are at a distance of `distance` or more from their own distribution, by
/// the limit for many with Stephens's correction for fewer.
pub(super) fn kolmogorov(distance: f64, count: f64) -> f64 {
    let scaled = (count.sqrt() + 0.12 + 0.11 / count.sqrt()) * distance;
    if scaled < 0.3 {
        return 1.0;
    }
    let (mut sum, mut sign) = (0.0, 1.0);
    for j in 1..=20 {
        sum += sign * (-2.0 * (f64::from(j) * scaled).powi(2)).exp();
        sign = -sign;
    }
    (2.0 * sum).clamp(0.0, 1.0)
}

/// The share of a gamma distribution of this shape and of scale one below `x`: the regularised lower incomplete gamma
/// function. By its series below the mean, by its continued fraction (Lentz's way) above.
pub(super) fn gamma_below(shape: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    let front = (shape * x.ln() - x - libm::lgamma(shape)).exp();
    if x < shape + 1.0 {
        let (mut term, mut sum, mut n) = (1.0 / shape, 1.0 / shape, shape);
        while term > sum * f64::EPSILON {
            n += 1.0;
            term *= x / n;
            sum += term;
        }
        return (front * sum).min(1.0);
    }
    let (mut b, mut c) = (x + 1.0 - shape, 1.0 / f64::MIN_POSITIVE);
    let mut d = 1.0 / b;
    let mut fraction = d;
    for n in 1..100_000 {
        let n = f64::from(n);
        let a = n * (shape - n);
        b += 2.0;
        let safe = |value: f64| if value == 0.0 { f64::MIN_POSITIVE } else { value };
        d = 1.0 / safe(a * d + b);
        c = safe(b + a / c);
        fraction *= d * c;
        if (d * c - 1.0).abs() < f64::EPSILON {
            break;
        }
    }
    (1.0 - front * fraction).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn near(a: f64, b: f64, within: f64) {
        assert!((a - b).abs() <= within, "{a} is not {b}");
    }

    #[test]
    fn incomplete_gamma_has_its_known_values() {
        for x in [1e-9, 0.1, 0.9, 2.0, 5.0, 30.0] {
            // An exponential; a sum of two and of three; a squared normal.
            near(gamma_below(1.0, x), -f64::exp_m1(-x), 1e-14);
            near(gamma_below(2.0, x), 1.0 - (1.0 + x) * f64::exp(-x), 1e-14);
            near(gamma_below(3.0, x), 1.0 - (1.0 + x + x * x / 2.0) * f64::exp(-x), 1e-14);
            near(gamma_below(0.5, x), libm::erf(f64::sqrt(x)), 1e-14);
        }
        // The next shape up differs by one term.
        for (shape, x) in [(0.11, 0.3), (7.5, 3.0), (7.5, 12.0), (400.0, 390.0), (400.0, 430.0)] {
            let term = f64::exp(shape * f64::ln(x) - x - libm::lgamma(shape + 1.0));
            near(gamma_below(shape + 1.0, x), gamma_below(shape, x) - term, 1e-11);
        }
        assert_eq!((gamma_below(2.0, 0.0), gamma_below(2.0, -1.0)), (0.0, 0.0));
        near(gamma_below(2.0, f64::MAX), 1.0, 0.0);
    }

    #[test]
    fn counts_of_a_poisson_process_have_dispersion_one_and_others_go_to_their_square() {
        for window in [1.0, 10.0, 100.0] {
            near(gamma_dispersion(1.0, window), 1.0, 1e-9);
        }
        for cv in [0.2, 0.5, 2.0, 3.0] {
            near(gamma_dispersion(cv, 1000.0), cv * cv, 0.02 * f64::max(1.0, cv.powi(4)));
        }
        // Within one gap there is one arrival or none: a Bernoulli variable.
        near(gamma_dispersion(0.05, 0.5), 0.5, 1e-3);
    }

    #[test]
    fn bands_and_p_values_are_those_of_the_tables() {
        // Chi-squared is a gamma distribution: a twentieth of a percent on either side.
        for degrees in [10.0, 100.0, 1e4, 1e6] {
            let (low, high) = band(degrees);
            let below = |share: f64| gamma_below(degrees / 2.0, share * degrees / 2.0);
            for out in [below(low), 1.0 - below(high)] {
                assert!((3e-4..5.3e-4).contains(&out), "{degrees}: {out}");
            }
        }
        // Kolmogorov's at 5 %, 1 % and 0.1 %.
        for (scaled, p) in [(1.358, 0.05), (1.628, 0.01), (1.949, 0.001)] {
            near(kolmogorov(scaled / 1e4, 1e8), p, 0.01 * p);
        }
        assert_eq!(kolmogorov(0.0, 10.0), 1.0);
    }
}
