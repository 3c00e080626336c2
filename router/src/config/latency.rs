use std::collections::BTreeMap;

use baton_node::config::ConfigError;
use baton_policy::{FitConfig, LatencyFit, Link};
use baton_types::{LatencyProfile, ModelId};
use serde::{Deserialize, Serialize};

/// In microseconds: nothing in a profile is larger.
const MOST: f64 = 1e9;
/// From a modem's to more than any machine's memory.
const LINKS: std::ops::RangeInclusive<f64> = 1e3..=1e13;

/// What steps are taken to cost before nodes have reported any, and how it is learned from there;
/// see `docs/latency.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LatencyConfig {
    /// How far off these profiles may be: the standard deviation of the logarithm of actual/predicted
    /// step times, 0.001 to 10. 0.7 is a factor of two, 0.02 a profile measured on the nodes
    /// themselves. The less, the more reports it takes to change one.
    pub seed_spread: f64,
    /// Reports after which one counts 1/e, 10 to 100,000. Fewer follow changes sooner, more see
    /// through noise.
    pub memory_steps: u32,
    /// How fast pages move to a decode node.
    pub link: Link,
    /// Of any model,
    pub default: LatencyProfile,
    /// but for these, by name.
    pub models: BTreeMap<String, LatencyProfile>,
}

impl Default for LatencyConfig {
    fn default() -> Self {
        let FitConfig { seed_spread, memory_steps } = FitConfig::default();
        LatencyConfig {
            seed_spread,
            memory_steps,
            link: Link::default(),
            default: LatencyProfile::default(),
            models: BTreeMap::new(),
        }
    }
}

impl LatencyConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if !FitConfig::SEED_SPREADS.contains(&self.seed_spread) {
            let why = "must be from 0.001 to 10";
            return Err(ConfigError::invalid("latency.seed_spread", self.seed_spread, why));
        }
        if !FitConfig::MEMORIES.contains(&self.memory_steps) {
            let why = "must be from 10 to 100000";
            return Err(ConfigError::invalid("latency.memory_steps", self.memory_steps, why));
        }
        let Link { rtt_us, bytes_per_second } = self.link;
        if !(0.0..=MOST).contains(&rtt_us) {
            return Err(ConfigError::invalid(
                "latency.link.rtt_us",
                rtt_us,
                "must be from 0 to 1e9",
            ));
        }
        if !LINKS.contains(&bytes_per_second) {
            let why = "must be from 1e3 to 1e13";
            return Err(ConfigError::invalid(
                "latency.link.bytes_per_second",
                bytes_per_second,
                why,
            ));
        }
        check("latency.default", None, &self.default)?;
        for (model, profile) in &self.models {
            check("latency.models", Some(model), profile)?;
        }
        Ok(())
    }

    /// Where learning of a node with this model begins.
    pub(crate) fn fit(&self, model: &ModelId) -> LatencyFit {
        let LatencyConfig { seed_spread, memory_steps, .. } = *self;
        let seed = self.models.get(&*model.0).unwrap_or(&self.default);
        LatencyFit::new(*seed, FitConfig { seed_spread, memory_steps })
    }
}

/// Refuses coefficients that make no sense.
fn check(
    key: &'static str,
    model: Option<&str>,
    profile: &LatencyProfile,
) -> Result<(), ConfigError> {
    let coefficients = LatencyProfile::COEFFICIENTS.into_iter().zip(profile.coefficients());
    for (name, us) in coefficients {
        if !(0.0..=MOST).contains(&us) {
            let of = model.map(|model| format!(" of {model}")).unwrap_or_default();
            let why = format!("{name}_us{of} must be from 0 to {MOST} microseconds");
            return Err(ConfigError::invalid(key, us, why));
        }
    }
    Ok(())
}
