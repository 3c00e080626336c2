//! What a few runs say of all.

use serde::Serialize;

/// Two-sided 95 % quantiles of Student's t for 1, 2, … degrees of freedom.
const T95: [f64; 10] = [12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];

/// A mean and half the width of its 95 % confidence interval (Student's t).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    pub mean: f64,
    pub half_width: f64,
}

impl Estimate {
    /// Of independent values; of one alone nothing is known about the spread.
    pub fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let Some(freedom) = values.len().checked_sub(1).filter(|freedom| *freedom > 0) else {
            return Estimate { mean, half_width: f64::INFINITY };
        };
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (squares / freedom as f64).sqrt();
        let t = T95.get(freedom - 1).copied().unwrap_or(2.0);
        Estimate { mean, half_width: t * deviation / count.sqrt() }
    }
}
