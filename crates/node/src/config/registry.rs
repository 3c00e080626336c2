//! Where a cluster's routers are found.

use std::{fs, path::PathBuf};

use baton_registry::{EtcdOptions, KubernetesOptions, Login, RegistryError, RegistryOptions, Tls};
use serde::{Deserialize, Serialize};

use super::{ConfigError, Span};

/// A registry outside the cluster; nodes find routers there, and routers elect one of them. Etcd or Kubernetes; neither:
/// there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfig {
    /// Endpoints of one etcd cluster, `http://host:port` or `https://`.
    pub etcd: Vec<String>,
    /// What all keys in etcd begin with; clusters that share an etcd have different ones.
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
    /// The service that the routers are behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesConfig>,
}

/// A service of a Kubernetes cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesConfig {
    /// Its name; leases' names begin with it, so that clusters in one namespace have different ones.
    pub service: String,
    /// Left out: the pod's own, or what the kubeconfig says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name of the port where nodes register.
    #[serde(default = "control")]
    pub port: String,
    /// How to reach the API server. Left out: as a pod is told, or as `KUBECONFIG` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
}

fn control() -> String {
    "control".to_owned()
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
            kubernetes: None,
        }
    }
}

impl RegistryConfig {
    /// What can be said against it without having looked at files.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Some(kubernetes) = &self.kubernetes else { return Ok(()) };
        if !self.etcd.is_empty() {
            let (key, etcd) = ("registry.kubernetes", &self.etcd);
            let why = format!("excludes registry.etcd, which is {etcd:?}: set one of them");
            return Err(ConfigError::invalid(key, &kubernetes.service, why));
        }
        let service = &kubernetes.service;
        self.in_kubernetes(kubernetes).check().map_err(|error| match error {
            RegistryError::ShortLease { .. } => {
                ConfigError::invalid("registry.lease", self.lease, error.to_string())
            }
            _ => ConfigError::invalid("registry.kubernetes", service, error.to_string()),
        })
    }

    /// How to reach it, if there is one. Reads the password.
    pub fn options(&self) -> Result<Option<RegistryOptions>, ConfigError> {
        if let Some(kubernetes) = &self.kubernetes {
            return Ok(Some(RegistryOptions::Kubernetes(self.in_kubernetes(kubernetes))));
        }
        Ok(self.in_etcd()?.map(RegistryOptions::Etcd))
    }

    fn in_kubernetes(&self, config: &KubernetesConfig) -> KubernetesOptions {
        let KubernetesConfig { service, namespace, port, kubeconfig } = config.clone();
        KubernetesOptions { service, namespace, port, lease: self.lease.0, kubeconfig }
    }

    fn in_etcd(&self) -> Result<Option<EtcdOptions>, ConfigError> {
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
