//! How to reach a registry.

use std::{path::PathBuf, time::Duration};

/// The shortest lease that etcd grants. A Kubernetes lease counts whole seconds, and is renewed five times while it
/// lasts: shorter ones would be lost to an API server that is merely busy.
const SHORTEST_LEASE: Duration = Duration::from_secs(2);
/// The longest label of a name in DNS, which names of services and namespaces are.
const LONGEST_LABEL: usize = 63;
/// The longest name of a port.
const LONGEST_PORT: usize = 15;

/// One of the registries there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistryOptions {
    Etcd(EtcdOptions),
    Kubernetes(KubernetesOptions),
}

/// Which service of a Kubernetes cluster the routers are behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesOptions {
    /// The service's name, which the names of all leases begin with.
    pub service: String,
    /// Where it is. None: where this pod is, or where the kubeconfig says.
    pub namespace: Option<String>,
    /// The name of the service's port where nodes register.
    pub port: String,
    /// How long a router that died without a word may still be the leader, and its rates count.
    pub lease: Duration,
    /// How to reach the API server. None: as the pod is told, or as `KUBECONFIG` and `~/.kube/config` say.
    pub kubeconfig: Option<PathBuf>,
}

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
    NoEtcd,
    #[error("this build knows no Kubernetes; build with `--features kubernetes`")]
    NoKubernetes,
    #[error("etcd's endpoint {given:?} is no http://host:port or https://host:port")]
    Endpoint { given: String },
    #[error("a registry's lease is {SHORTEST_LEASE:?} at least, {given:?} was given")]
    ShortLease { given: Duration },
    #[error("an etcd prefix is not empty and ends without a slash, {given:?} was given")]
    Prefix { given: String },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error(
        "a Kubernetes {what} is of 1 to {longest} characters a-z, 0-9 and -, and - is neither first nor last; \
         {given:?} was given"
    )]
    Name { what: &'static str, longest: usize, given: String },
    #[error(
        "there is no Kubernetes cluster to be reached: {why}; name a kubeconfig, or run in a pod"
    )]
    NoCluster { why: String },
}

impl RegistryOptions {
    pub(crate) fn check(&self) -> Result<(), RegistryError> {
        match self {
            RegistryOptions::Etcd(_) if !cfg!(feature = "etcd") => Err(RegistryError::NoEtcd),
            RegistryOptions::Etcd(options) => options.check(),
            RegistryOptions::Kubernetes(_) if !cfg!(feature = "kubernetes") => {
                Err(RegistryError::NoKubernetes)
            }
            RegistryOptions::Kubernetes(options) => {
                options.check()?;
                crate::kubernetes::check(options)
            }
        }
    }
}

impl KubernetesOptions {
    /// Whether these can be names of what they name; whether such things are there is the API server's to say.
    pub fn check(&self) -> Result<(), RegistryError> {
        long_enough(self.lease)?;
        name("service", LONGEST_LABEL, &self.service)?;
        name("port", LONGEST_PORT, &self.port)?;
        self.namespace.iter().try_for_each(|given| name("namespace", LONGEST_LABEL, given))
    }
}

fn name(what: &'static str, longest: usize, given: &str) -> Result<(), RegistryError> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_name = (1..=longest).contains(&given.len())
        && given.bytes().all(fits)
        && !given.starts_with('-')
        && !given.ends_with('-');
    if is_name {
        return Ok(());
    }
    Err(RegistryError::Name { what, longest, given: given.to_owned() })
}

fn long_enough(given: Duration) -> Result<(), RegistryError> {
    if given < SHORTEST_LEASE {
        return Err(RegistryError::ShortLease { given });
    }
    Ok(())
}

impl EtcdOptions {
    pub(crate) fn check(&self) -> Result<(), RegistryError> {
        long_enough(self.lease)?;
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
