use std::fmt;

use serde::{Deserialize, Serialize};

/// What arrivals were like, and what they should have been.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArrivalVerdict {
    pub arrivals: u64,
    /// Until the last of them.
    pub span_s: f64,
    /// Arrivals a second. `None` if none has come after time zero.
    pub rate: Option<Figure>,
    /// Arrivals that are expected in a window of the index of dispersion,
    pub window: f64,
    /// and how many such windows have passed.
    pub windows: u64,
    /// Variance of the windows' counts over their mean. `None` of fewer than two windows, or if nobody came in them.
    pub dispersion: Option<Figure>,
    /// `None` of no arrival, and of arrivals without a claim.
    pub gaps: Option<Gaps>,
}

/// A number, and the band it should be in if anything was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub seen: f64,
    pub band: Option<Band>,
}

/// Arrivals that are as claimed are within it 999 times of 1,000.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Band {
    pub expected: f64,
    pub low: f64,
    pub high: f64,
}

/// How the gaps are distributed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gaps {
    /// The Kolmogorov–Smirnov distance from the claimed distribution, and how probable one as large is if the
    /// claim holds.
    Fit { distance: f64, p: f64 },
    /// The largest difference of a gap from a clock's, in gaps.
    Clock { largest_deviation: f64 },
}

/// As rare as being out of a [`Band`].
const RARE: f64 = 1e-3;
/// From here on arrivals may have changed places.
const HALF: f64 = 0.5;

impl ArrivalVerdict {
    /// Nothing speaks against the claim. Of right arrivals one stream in some three hundred fails.
    pub fn passes(&self) -> bool {
        let figures = [self.rate, self.dispersion];
        figures.iter().flatten().all(Figure::passes) && self.gaps.is_none_or(|gaps| gaps.passes())
    }
}

impl fmt::Display for ArrivalVerdict {
    /// In a line: what they were like, and whether that is as it should be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} came", self.arrivals)?;
        if let Some(rate) = &self.rate {
            write!(f, ", {:.3} a second{rate}", rate.seen)?;
        }
        if let Some(dispersion) = &self.dispersion {
            write!(f, "; index of dispersion {:.2}{dispersion}", dispersion.seen)?;
        }
        match self.gaps {
            Some(Gaps::Fit { distance, p }) => {
                write!(
                    f,
                    "; gaps are {distance:.3} from the claim (Kolmogorov–Smirnov, p = {p:.3})"
                )?;
            }
            Some(Gaps::Clock { largest_deviation }) => {
                write!(f, "; gaps are off by {largest_deviation:.3} of one at most")?;
            }
            None => {}
        }
        if self.passes() { Ok(()) } else { write!(f, ": NOT as they claim to come") }
    }
}

impl fmt::Display for Figure {
    /// The band, if there is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Band { low, high, .. }) = self.band else { return Ok(()) };
        write!(f, " (expected {low:.2} to {high:.2})")
    }
}

impl Figure {
    pub fn passes(&self) -> bool {
        self.band.is_none_or(|band| (band.low..=band.high).contains(&self.seen))
    }
}

impl Gaps {
    /// A clock's gaps may be off by less than half.
    pub fn passes(&self) -> bool {
        match *self {
            Gaps::Fit { p, .. } => p >= RARE,
            Gaps::Clock { largest_deviation } => largest_deviation < HALF,
        }
    }
}
