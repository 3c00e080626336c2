//! How to reach a registry.

use std::{path::PathBuf, time::Duration};

/// The shortest lease that etcd grants.
const SHORTEST_LEASE: Duration = Duration::from_secs(2);

/// Where etcd is, and what is kept there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdOptions {
    /// `http://host:port`, or `https://`; one of them has to answer.
    pub endpoints: Vec<String>,
    /// What all keys of this cluster begin with; clusters that share an etcd have different ones.
    pub prefix: String,
    /// How long a router that died without a word is still found and may still be the leader.
    pub lease: Duration,
    pub login: Option<Login>,
    pub tls: Option<Tls>,
}

/// Who to be there.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: String,
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Who signs etcd's certificate.
    pub ca: PathBuf,
    /// The own certificate and its key, if etcd wants one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("this build knows no etcd; build with `--features etcd`, which needs protoc")]
    NotBuilt,
    #[error("etcd's endpoint {given:?} is no http://host:port or https://host:port")]
    Endpoint { given: String },
    #[error("etcd grants no lease shorter than {SHORTEST_LEASE:?}, {given:?} was given")]
    ShortLease { given: Duration },
    #[error("an etcd prefix is not empty and ends without a slash, {given:?} was given")]
    Prefix { given: String },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
}

impl EtcdOptions {
    pub(crate) fn check(&self) -> Result<(), RegistryError> {
        if self.lease < SHORTEST_LEASE {
            return Err(RegistryError::ShortLease { given: self.lease });
        }
        if self.prefix.is_empty() || self.prefix.ends_with('/') {
            return Err(RegistryError::Prefix { given: self.prefix.clone() });
        }
        for given in &self.endpoints {
            let rest = given.strip_prefix("http://").or_else(|| given.strip_prefix("https://"));
            if !rest.is_some_and(|rest| rest.contains(':') && !rest.contains('/')) {
                return Err(RegistryError::Endpoint { given: given.clone() });
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}
