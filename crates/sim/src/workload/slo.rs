use std::time::Duration;

use baton_types::Slo;
use serde::{Deserialize, Serialize};

use super::WorkloadError;

/// What users expect. A target that is left out is always met.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SloConfig {
    /// Time to first token,
    #[serde(default)]
    pub ttft_ms: Option<f64>,
    /// and so much more for each token of the prompt.
    #[serde(default)]
    pub ttft_per_prompt_token_us: f64,
    /// Mean time between the tokens after the first.
    #[serde(default)]
    pub tpot_ms: Option<f64>,
    /// Whether requests name their targets to the router, which then orders by them, and refuses
    /// those that can't be in time.
    #[serde(default = "declared")]
    pub declared: bool,
}

fn declared() -> bool {
    SloConfig::default().declared
}

impl Default for SloConfig {
    /// DistServe's for a chat of a 13B model.
    fn default() -> Self {
        SloConfig {
            ttft_ms: Some(250.0),
            ttft_per_prompt_token_us: 0.0,
            tpot_ms: Some(100.0),
            declared: true,
        }
    }
}

impl SloConfig {
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

    pub fn of(&self, prompt_len: u32) -> Slo {
        let extra = self.ttft_per_prompt_token_us * f64::from(prompt_len);
        let duration = |us: f64| Duration::try_from_secs_f64(us / 1e6).unwrap_or_default();
        Slo {
            ttft: self.ttft_ms.map(|ms| duration(ms * 1e3 + extra)),
            tpot: self.tpot_ms.map(|ms| duration(ms * 1e3)),
        }
    }
}
