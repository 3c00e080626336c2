use serde::Serialize;

/// What arrivals were like, and what they should have been.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    pub seen: f64,
    pub band: Option<Band>,
}

/// Arrivals that are as claimed are within it 999 times of 1,000.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Band {
    pub expected: f64,
    pub low: f64,
    pub high: f64,
}

/// How the gaps are distributed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
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
