//! One way to read a configuration: a TOML file, then the environment, then flags; later wins.

use std::path::{Path, PathBuf};

use figment::{
    Figment, Metadata, Profile, Provider,
    providers::{Format, Toml},
    value::{Dict, Map, Value},
};
use serde::{Serialize, de::DeserializeOwned};

/// Why a configuration can't be used. Every variant names the key and the value.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("configuration file {}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("configuration: {}", problems.join("; "))]
    Parse { problems: Vec<String> },
    #[error("configuration: {key} = {value}: {why}")]
    Invalid { key: &'static str, value: String, why: String },
    #[error("configuration: {key} is not set: {hint}")]
    Missing { key: &'static str, hint: &'static str },
    #[error("--set {given:?}: expected KEY=VALUE, such as listen.host=0.0.0.0")]
    Set { given: String },
    #[error("configuration can't be printed: {0}")]
    Print(#[from] toml::ser::Error),
}

impl ConfigError {
    /// A value that parsed and makes no sense.
    pub fn invalid(key: &'static str, value: impl ToString, why: impl Into<String>) -> Self {
        ConfigError::Invalid { key, value: value.to_string(), why: why.into() }
    }
}

/// Where a configuration comes from. Call it with what `main` read; nothing here asks the process.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    file: Option<PathBuf>,
    overrides: Vec<Override>,
    required: Vec<(&'static str, &'static str)>,
}

/// One key from the environment or the command line, and the name it goes by in error messages.
#[derive(Clone, Debug)]
struct Override {
    origin: String,
    key: String,
    value: Value,
}

impl Sources {
    pub fn new(file: Option<&Path>) -> Self {
        Sources { file: file.map(Path::to_owned), ..Sources::default() }
    }

    /// Takes every variable that starts with `prefix`; the rest of its name is the key in lower
    /// case, `__` standing for the dot: with the prefix `BATON_NODE_`, `BATON_NODE_LISTEN__HOST`
    /// is `listen.host`.
    pub fn environment(
        mut self,
        prefix: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        for (name, value) in variables {
            if let Some(key) = name.strip_prefix(prefix) {
                let key = key.to_ascii_lowercase().replace("__", ".");
                self.overrides.push(Override { origin: name, key, value: parse_value(&value) });
            }
        }
        self
    }

    /// Sets one key from the flag called `origin`, when it was given.
    pub fn flag<T: Serialize>(mut self, origin: &str, key: &str, value: Option<T>) -> Self {
        if let Some(value) = value {
            let value = Value::serialize(value).expect("flags are strings, numbers and booleans");
            self.overrides.push(Override { origin: origin.into(), key: key.into(), value });
        }
        self
    }

    /// A key that has no default, and what sets it.
    pub fn required(mut self, key: &'static str, hint: &'static str) -> Self {
        self.required.push((key, hint));
        self
    }

    /// Takes `KEY=VALUE` pairs, the values in TOML.
    pub fn set(mut self, pairs: &[String]) -> Result<Self, ConfigError> {
        for given in pairs {
            let (key, value) = given
                .split_once('=')
                .filter(|(key, _)| !key.trim().is_empty())
                .ok_or_else(|| ConfigError::Set { given: given.clone() })?;
            self.overrides.push(Override {
                origin: format!("--set {key}"),
                key: key.trim().to_owned(),
                value: parse_value(value),
            });
        }
        Ok(self)
    }

    /// Parses everything into `T`, which refuses unknown keys itself.
    pub fn load<T: DeserializeOwned>(self) -> Result<T, ConfigError> {
        let mut figment = Figment::new();
        if let Some(path) = &self.file {
            std::fs::metadata(path)
                .map_err(|source| ConfigError::File { path: path.clone(), source })?;
            figment = figment.merge(Toml::file_exact(path));
        }
        for item in self.overrides {
            figment = figment.merge(item);
        }
        let unset = self.required.iter().find(|(key, _)| figment.find_value(key).is_err());
        if let Some(&(key, hint)) = unset {
            return Err(ConfigError::Missing { key, hint });
        }
        figment.extract().map_err(|error| ConfigError::Parse {
            problems: error.into_iter().map(|error| problem(&figment, &error)).collect(),
        })
    }
}

/// `key = value: what is wrong (where it came from)`.
fn problem(figment: &Figment, error: &figment::Error) -> String {
    let key = error.path.join(".");
    let mut text = String::new();
    if let Ok(value) = figment.find_value(&key)
        && !key.is_empty()
    {
        text = format!("{key} = {}: ", value.to_actual());
    }
    text += &error.kind.to_string();
    if let Some(metadata) = &error.metadata {
        let origin = metadata.source.as_ref().map_or(metadata.name.to_string(), |s| s.to_string());
        text += &format!(" (from {origin})");
    }
    text
}

/// Prints a configuration as the TOML that would give it.
pub fn to_toml<T: Serialize>(config: &T) -> Result<String, ConfigError> {
    Ok(toml::to_string_pretty(config)?)
}

fn parse_value(text: &str) -> Value {
    text.parse().expect("figment takes what it can't parse as a string")
}

impl Provider for Override {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let nested = figment::util::nest(&self.key, self.value.clone());
        let dict = nested.into_dict().expect("a nested key is a table");
        Ok(Profile::Default.collect(dict))
    }
}
