//! Where a cluster's routers are found.

use std::{fs, path::PathBuf};

use baton_registry::{EtcdOptions, Login, Tls};
use serde::{Deserialize, Serialize};

use super::{ConfigError, Span};

/// A registry outside the cluster; nodes find routers there, and routers elect one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfig {
    /// Endpoints of one etcd cluster, `http://host:port` or `https://`. Empty: there is no registry.
    pub etcd: Vec<String>,
    /// What all keys begin with; clusters that share an etcd have different ones.
    pub prefix: String,
    /// How long a router that died without a word is still found; at least 2 s.
    pub lease: Span,
    /// Who to be there, if etcd asks; the password is in a file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// PEM file with who signs etcd's certificate; needed for `https://`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// PEM files with the own certificate and its key, if etcd wants one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        RegistryConfig {
            etcd: Vec::new(),
            prefix: "/baton".to_owned(),
            lease: Span::from_secs(5),
            user: String::new(),
            password_file: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
        }
    }
}

impl RegistryConfig {
    /// How to reach it, if there is one. Reads the password.
    pub fn options(&self) -> Result<Option<EtcdOptions>, ConfigError> {
        if self.etcd.is_empty() {
            return Ok(None);
        }
        let login = match (&self.password_file, self.user.as_str()) {
            (None, "") => None,
            (Some(path), user) if !user.is_empty() => {
                let read = fs::read_to_string(path);
                let password =
                    read.map_err(|source| ConfigError::File { path: path.clone(), source })?;
                Some(Login { user: user.to_owned(), password: password.trim_end().to_owned() })
            }
            _ => {
                let why = "user and password_file belong together";
                return Err(ConfigError::invalid("registry.user", &self.user, why));
            }
        };
        let identity = match (&self.certificate_file, &self.key_file) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            (one, other) => {
                let given = one.as_ref().or(other.as_ref()).map(|path| path.display().to_string());
                let why = "certificate_file and key_file belong together";
                let given = given.unwrap_or_default();
                return Err(ConfigError::invalid("registry.certificate_file", given, why));
            }
        };
        let secure = self.etcd.iter().find(|endpoint| endpoint.starts_with("https://"));
        if let (Some(endpoint), None) = (secure, &self.ca_file) {
            let why = "set registry.ca_file to the PEM file with who signs etcd's certificate";
            return Err(ConfigError::invalid("registry.etcd", endpoint, why));
        }
        let tls = match (&self.ca_file, identity) {
            (Some(ca), identity) => Some(Tls { ca: ca.clone(), identity }),
            (None, None) => None,
            (None, Some((certificate, _))) => {
                let why = "needs ca_file too";
                let given = certificate.display();
                return Err(ConfigError::invalid("registry.certificate_file", given, why));
            }
        };
        let (endpoints, prefix) = (self.etcd.clone(), self.prefix.clone());
        Ok(Some(EtcdOptions { endpoints, prefix, lease: self.lease.0, login, tls }))
    }
}
