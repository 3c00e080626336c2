use std::collections::BTreeMap;

use baton_node::config::{ConfigError, Span};
use baton_policy::{Class, ClassId, Service};
use serde::{Deserialize, Serialize};

/// What a request is of that names no class, and what a batch's line is of.
pub(crate) const DEFAULT: &str = "default";
const BATCH: &str = "batch";
/// In `service_tier`, OpenAI's word for whatever is usual.
const AUTO: &str = "auto";
/// Each is a label in the metrics.
const MAX_CLASSES: usize = 64;
const MAX_NAME: usize = 64;

/// The classes that requests may name. `default` and `batch` are always among them; what is said of a
/// class changes that alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, Changes>")]
pub struct ClassesConfig(BTreeMap<String, ClassConfig>);

/// What holds for requests of one class, unless they say otherwise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ClassConfig {
    /// Of two classes the one with more goes first while requests wait.
    pub priority: u8,
    /// Whether somebody waits for the answers, or nobody does, as for a batch's.
    pub service: Service,
    /// Time to first token: so much,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft: Option<Span>,
    /// and so much more for each token of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_per_prompt_token: Option<Span>,
    /// Time per output token after the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpot: Option<Span>,
    /// Whether who can't have its first token in time is refused rather than served late.
    pub refuse_late: bool,
}

/// A class as it is configured.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Changes {
    priority: Option<u8>,
    service: Option<Service>,
    ttft: Option<Span>,
    ttft_per_prompt_token: Option<Span>,
    tpot: Option<Span>,
    refuse_late: Option<bool>,
}

impl Default for ClassConfig {
    fn default() -> Self {
        ClassConfig {
            priority: 100,
            service: Service::Interactive,
            ttft: None,
            ttft_per_prompt_token: None,
            tpot: None,
            refuse_late: true,
        }
    }
}

impl Default for ClassesConfig {
    fn default() -> Self {
        let batch = ClassConfig { priority: 0, service: Service::Batch, ..ClassConfig::default() };
        let all = [(DEFAULT, ClassConfig::default()), (BATCH, batch)];
        ClassesConfig(all.map(|(name, class)| (name.to_owned(), class)).into())
    }
}

impl From<BTreeMap<String, Changes>> for ClassesConfig {
    fn from(changes: BTreeMap<String, Changes>) -> Self {
        let ClassesConfig(mut all) = ClassesConfig::default();
        for (name, changed) in changes {
            let class = all.entry(name).or_default();
            *class = ClassConfig {
                priority: changed.priority.unwrap_or(class.priority),
                service: changed.service.unwrap_or(class.service),
                ttft: changed.ttft.or(class.ttft),
                ttft_per_prompt_token: changed
                    .ttft_per_prompt_token
                    .or(class.ttft_per_prompt_token),
                tpot: changed.tpot.or(class.tpot),
                refuse_late: changed.refuse_late.unwrap_or(class.refuse_late),
            };
        }
        ClassesConfig(all)
    }
}

impl ClassesConfig {
    /// The class of this name, as the policy sees it, and what holds for it.
    pub(crate) fn named(&self, name: &str) -> Option<(&str, Class, &ClassConfig)> {
        let name = if name == AUTO { DEFAULT } else { name };
        let (id, (name, class)) =
            (0..).zip(&self.0).find(|(_, (configured, _))| *configured == name)?;
        let ClassConfig { priority, service, .. } = *class;
        Some((name, Class { id: ClassId(id), priority, service }, class))
    }

    /// OpenAI's name of the default.
    pub(crate) const AUTO: &str = AUTO;
    /// What a batch's lines are of.
    pub(crate) const BATCH: &str = BATCH;

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.0.len() > MAX_CLASSES {
            let why = format!("there may be {MAX_CLASSES} at most");
            return Err(ConfigError::invalid("classes", self.0.len(), why));
        }
        for (name, class) in &self.0 {
            let is_good =
                |byte: u8| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-');
            if name == AUTO || !(1..=MAX_NAME).contains(&name.len()) || !name.bytes().all(is_good) {
                let why = "a class's name has up to 64 letters, digits, _ and -, and is not auto";
                return Err(ConfigError::invalid("classes", format!("{name:?}"), why));
            }
            for span in [class.ttft, class.tpot].into_iter().flatten() {
                if span.0.is_zero() {
                    let why = format!("an objective of {name} must be longer");
                    return Err(ConfigError::invalid("classes", span, why));
                }
            }
        }
        match self.0.get(BATCH) {
            Some(batch) if batch.service == Service::Interactive => {
                let why = "batches' lines are of this class: its service must stay batch";
                Err(ConfigError::invalid("classes.batch.service", "interactive", why))
            }
            _ => Ok(()),
        }
    }
}
