use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::WorkloadError;

/// What users expect. A target that is left out is always met.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Slo {
    /// Time to first token,
    pub ttft_ms: Option<f64>,
    /// and so much more for each token of the prompt.
    pub ttft_per_prompt_token_us: f64,
    /// Mean time between the tokens after the first.
    pub tpot_ms: Option<f64>,
}

/// One request's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    pub ttft: Option<Duration>,
    pub tpot: Option<Duration>,
}

impl Default for Slo {
    /// DistServe's for a chat of a 13B model.
    fn default() -> Self {
        Slo { ttft_ms: Some(250.0), ttft_per_prompt_token_us: 0.0, tpot_ms: Some(100.0) }
    }
}

impl Slo {
    pub fn validate(&self) -> Result<(), WorkloadError> {
        let per_token = Some(self.ttft_per_prompt_token_us + f64::MIN_POSITIVE);
        for (name, given) in [
            ("slo.ttft_ms", self.ttft_ms),
            ("slo.tpot_ms", self.tpot_ms),
            ("slo.ttft_per_prompt_token_us", per_token),
        ] {
            if let Some(given) = given.filter(|given| !(*given > 0.0 && given.is_finite())) {
                return Err(WorkloadError::Value { name, given, must: "a number above 0" });
            }
        }
        Ok(())
    }

    pub fn targets(&self, prompt_len: u32) -> Targets {
        let extra = self.ttft_per_prompt_token_us * f64::from(prompt_len);
        let duration = |us: f64| Duration::try_from_secs_f64(us / 1e6).unwrap_or_default();
        Targets {
            ttft: self.ttft_ms.map(|ms| duration(ms * 1e3 + extra)),
            tpot: self.tpot_ms.map(|ms| duration(ms * 1e3)),
        }
    }
}

impl Targets {
    /// Whether a request with these times met both. One token alone has no time per token.
    pub fn met(&self, ttft: Duration, tpot: Option<Duration>) -> bool {
        self.ttft.is_none_or(|target| ttft <= target)
            && self.tpot.zip(tpot).is_none_or(|(target, tpot)| tpot <= target)
    }
}
