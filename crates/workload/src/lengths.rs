use std::{fmt, str::FromStr};

use rand_distr::{Distribution, LogNormal, StandardNormal};
use serde::{Deserialize, Serialize};

use crate::{
    FormError, WorkloadError,
    form::{Form, tokens, unknown},
    random::{Draws, unit},
};

/// How often a length outside its bounds is drawn again.
const REDRAWS: u32 = 16;

/// How long prompts or outputs are, in tokens; never below one.
///
/// On a command line: `512` or `fixed:512`, `uniform:min=10,max=20`, `normal:mean=512,sd=100,min=1,max=4096` (`min`
/// and `max` may be left out), `lognormal:mean=755,cv=1,max=4096` (`max` may be left out), `empirical:10,20,30`.
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
    /// By its mean and its standard deviation before it is cut to `min..=max`: what falls outside is drawn
    /// again, and after sixteen times is set to the nearer end.
    Normal {
        mean: f64,
        sd: f64,
        min: u32,
        max: u32,
    },
    /// Any of these, as likely as the others.
    Empirical {
        tokens: Vec<u32>,
    },
}

impl Lengths {
    /// Refuses what can't be drawn from. Errors call the whole `path`, like `workload.prompt`, and its lengths
    /// `name` lengths.
    pub fn validate(&self, path: &'static str, name: &'static str) -> Result<(), WorkloadError> {
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
            Lengths::Normal { mean, sd, min, max } => {
                if *min == 0 {
                    return refuse(0.0, "cut to at least 1 token");
                }
                if max < min {
                    return refuse(f64::from(*max), "at least its own minimum");
                }
                if !(f64::from(*min)..=f64::from(*max)).contains(mean) {
                    return refuse(*mean, "a mean from its minimum to its maximum");
                }
                if !(*sd >= 0.0 && sd.is_finite()) {
                    return refuse(*sd, "a standard deviation of at least 0");
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

    /// The next length. How many draws it takes from `rng` depends on the kind and on what is drawn, so other
    /// purposes need a stream of their own.
    ///
    /// # Panics
    ///
    /// May panic for lengths that [`Lengths::validate`] refuses.
    pub fn draw(&self, rng: &mut Draws) -> u32 {
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
            Lengths::Normal { mean, sd, min, max } => {
                let mut draw = || -> f64 {
                    let normal: f64 = StandardNormal.sample(rng);
                    (mean + sd * normal).round()
                };
                let bounds = f64::from(*min)..=f64::from(*max);
                let mut drawn = draw();
                for _ in 0..REDRAWS {
                    if bounds.contains(&drawn) {
                        break;
                    }
                    drawn = draw();
                }
                (drawn as u32).clamp(*min, *max)
            }
            Lengths::Empirical { tokens } => {
                tokens[(unit(rng) * tokens.len() as f64) as usize % tokens.len()]
            }
        }
    }
}

const FIXED: &str = "fixed:512";
const UNIFORM: &str = "uniform:min=10,max=20";
const NORMAL: &str = "normal:mean=512,sd=100[,min=1][,max=4096]";
const LOGNORMAL: &str = "lognormal:mean=755,cv=1[,max=4096]";
const EMPIRICAL: &str = "empirical:10,20,30";

impl FromStr for Lengths {
    type Err = FormError;

    fn from_str(given: &str) -> Result<Self, FormError> {
        if given.bytes().next().is_some_and(|byte| byte.is_ascii_digit()) {
            return valid(Lengths::Fixed { tokens: tokens("the length", given)? });
        }
        let (name, rest) =
            given.split_once(':').map_or((given, None), |(name, rest)| (name, Some(rest)));
        let form = |expected| Form::new(given, rest, expected);
        let lengths = match name {
            "fixed" => Lengths::Fixed { tokens: tokens("the length", rest.unwrap_or_default())? },
            "empirical" => {
                let list = rest.filter(|rest| !rest.is_empty());
                let list = list.into_iter().flat_map(|list| list.split(','));
                let list = list.map(|given| tokens("a length", given)).collect::<Result<_, _>>()?;
                Lengths::Empirical { tokens: list }
            }
            "uniform" => {
                let mut form = form(UNIFORM)?;
                let (min, max) = (form.tokens("min")?, form.tokens("max")?);
                form.end()?;
                Lengths::Uniform { min, max }
            }
            "normal" => {
                let mut form = form(NORMAL)?;
                let (mean, sd) = (form.number("mean")?, form.number("sd")?);
                let (min, max) = (form.tokens_or("min", 1)?, form.tokens_or("max", u32::MAX)?);
                form.end()?;
                Lengths::Normal { mean, sd, min, max }
            }
            "lognormal" => {
                let mut form = form(LOGNORMAL)?;
                let (mean, cv) = (form.number("mean")?, form.number("cv")?);
                let max = form.tokens_or("max", u32::MAX)?;
                form.end()?;
                Lengths::Lognormal { mean, cv, max }
            }
            _ => return Err(unknown(given, &[FIXED, UNIFORM, NORMAL, LOGNORMAL, EMPIRICAL])),
        };
        valid(lengths)
    }
}

fn valid(lengths: Lengths) -> Result<Lengths, FormError> {
    lengths.validate("the length", "empirical")?;
    Ok(lengths)
}

/// As it is parsed. A `max` of 2³²−1 is none.
impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = |f: &mut fmt::Formatter<'_>, max: u32| match max {
            u32::MAX => Ok(()),
            max => write!(f, ",max={max}"),
        };
        match self {
            Lengths::Fixed { tokens } => write!(f, "{tokens}"),
            Lengths::Uniform { min, max } => write!(f, "uniform:min={min},max={max}"),
            Lengths::Normal { mean, sd, min, max } => {
                write!(f, "normal:mean={mean},sd={sd}")?;
                if *min > 1 {
                    write!(f, ",min={min}")?;
                }
                cut(f, *max)
            }
            Lengths::Lognormal { mean, cv, max } => {
                write!(f, "lognormal:mean={mean},cv={cv}")?;
                cut(f, *max)
            }
            Lengths::Empirical { tokens } => {
                let list: Vec<String> = tokens.iter().map(u32::to_string).collect();
                write!(f, "empirical:{}", list.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests;
