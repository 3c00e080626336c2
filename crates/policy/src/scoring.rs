use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{NodeView, Prediction};

/// How candidates are compared. The least score wins, and near-equals draw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scoring {
    /// The least predicted time of the request to its end, the time it costs others added.
    #[default]
    LeastTime,
    /// The fewest requests on the two nodes.
    LeastRequests,
    /// None is better than another.
    Random,
}

/// What a score rests on.
pub(crate) struct Candidate<'a> {
    pub(crate) prefill: &'a NodeView,
    pub(crate) decode: Option<&'a NodeView>,
    pub(crate) predicted: Prediction,
    /// Tokens expected after the first.
    pub(crate) more_tokens: u32,
}

impl Scoring {
    /// In seconds, or in requests.
    pub(crate) fn score(self, candidate: &Candidate<'_>) -> f64 {
        match self {
            Scoring::LeastTime => least_time(candidate),
            Scoring::LeastRequests => least_requests(candidate),
            Scoring::Random => 0.0,
        }
    }

    /// Scores that differ by less are as good as equal: `share` of what the first two tokens take.
    pub(crate) fn near(self, share: f64, best: &Prediction) -> f64 {
        match self {
            Scoring::LeastTime => share * seconds(best.ttft + best.exposed_transfer + best.tpot),
            Scoring::LeastRequests | Scoring::Random => 0.0,
        }
    }
}

fn least_time(candidate: &Candidate<'_>) -> f64 {
    let Prediction { ttft, exposed_transfer, tpot, harm } = candidate.predicted;
    seconds(ttft + exposed_transfer)
        + f64::from(candidate.more_tokens) * (seconds(tpot) + seconds(harm))
}

fn least_requests(candidate: &Candidate<'_>) -> f64 {
    let decoding = candidate.decode.map_or(0, NodeView::batch);
    (candidate.prefill.batch() + decoding) as f64
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
