use rand_distr::{Distribution, LogNormal};
use serde::{Deserialize, Serialize};

use super::WorkloadError;
use crate::random::{Draws, unit};

/// How long prompts or outputs are, in tokens; never below one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Lengths {
    Fixed {
        tokens: u32,
    },
    /// Both ends belong to it.
    Uniform {
        min: u32,
        max: u32,
    },
    /// By its mean and its coefficient of variation before it is cut to `max`.
    Lognormal {
        mean: f64,
        cv: f64,
        max: u32,
    },
    /// Any of these, as likely as the others.
    Empirical {
        tokens: Vec<u32>,
    },
}

impl Lengths {
    pub(super) fn validate(
        &self,
        path: &'static str,
        name: &'static str,
    ) -> Result<(), WorkloadError> {
        let refuse = |given, must| Err(WorkloadError::Value { name: path, given, must });
        match self {
            Lengths::Fixed { tokens: 0 } => refuse(0.0, "at least 1 token"),
            Lengths::Fixed { .. } => Ok(()),
            Lengths::Uniform { min: 0, .. } => refuse(0.0, "at least 1 token"),
            Lengths::Uniform { min, max } if max < min => {
                refuse(f64::from(*max), "at least its own minimum")
            }
            Lengths::Uniform { .. } => Ok(()),
            Lengths::Lognormal { mean, cv, max } => {
                if !(*mean >= 1.0 && mean.is_finite()) {
                    return refuse(*mean, "a mean of at least 1 token");
                }
                if !(*cv >= 0.0 && cv.is_finite()) {
                    return refuse(*cv, "a coefficient of variation of at least 0");
                }
                if *max == 0 {
                    return refuse(0.0, "cut to at least 1 token");
                }
                Ok(())
            }
            Lengths::Empirical { tokens } if tokens.is_empty() => {
                Err(WorkloadError::NoLengths { name })
            }
            Lengths::Empirical { tokens } if tokens.contains(&0) => {
                refuse(0.0, "a list of lengths of at least 1 token")
            }
            Lengths::Empirical { .. } => Ok(()),
        }
    }

    pub(super) fn draw(&self, rng: &mut Draws) -> u32 {
        match self {
            Lengths::Fixed { tokens } => *tokens,
            Lengths::Uniform { min, max } => {
                min + (unit(rng) * (f64::from(max - min) + 1.0)) as u32
            }
            Lengths::Lognormal { mean, cv, max } => {
                let variance = (cv * cv).ln_1p();
                let normal = LogNormal::new(mean.ln() - variance / 2.0, variance.sqrt());
                let drawn = normal.map_or(*mean, |normal| normal.sample(rng));
                (drawn.round() as u32).clamp(1, *max)
            }
            Lengths::Empirical { tokens } => {
                tokens[(unit(rng) * tokens.len() as f64) as usize % tokens.len()]
            }
        }
    }
}
