//! The way to the API server, and what may become of it.
//!
//! `kube` reads what Kubernetes itself has in the environment of a pod or of a person (`KUBERNETES_SERVICE_HOST`,
//! `KUBECONFIG`, `HOME`), which is no configuration of this program. It is read again for each new beginning, as a
//! kubeconfig may have been written anew.

use std::{path::PathBuf, time::Duration};

use k8s_openapi::{ListableResource, Metadata, NamespaceResourceScope};
use kube::{
    Api, Client, Config, Resource,
    api::ObjectMeta,
    config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tokio::time::timeout;

use crate::{KubernetesOptions, RegistryError};

/// How long the API server may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Why an answer is of no use, or there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error(transparent)]
    NoCluster(#[from] InferConfigError),
    #[error("{}: {source}", path.display())]
    Kubeconfig { path: PathBuf, source: Box<KubeconfigError> },
    #[error("the API server says {code} {reason}: {message}")]
    Refused { code: u16, reason: String, message: String, wait: Option<Duration> },
    #[error("the API server can't be reached: {0}")]
    Unreachable(kube::Error),
    #[error("the API server said nothing for {0:?}")]
    Silent(Duration),
    #[error("the watch ended {after:?} after it began")]
    Ended { after: Duration },
    #[error("what the API server said has no resourceVersion")]
    NoVersion,
}

impl Lost {
    /// Somebody else wrote first.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Lost::Refused { code: 409, .. })
    }

    /// How long the API server wants to be left alone.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self {
            Lost::Refused { wait, .. } => *wait,
            _ => None,
        }
    }
}

impl From<kube::core::Status> for Lost {
    fn from(status: kube::core::Status) -> Self {
        let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        let wait = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        let kube::core::Status { code, reason, message, .. } = status;
        Lost::Refused { code, reason, message, wait }
    }
}

impl From<kube::Error> for Lost {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => (*status).into(),
            other => Lost::Unreachable(other),
        }
    }
}

/// Whether there is a cluster to be reached, as far as this machine knows.
pub(crate) fn check(options: &KubernetesOptions) -> Result<(), RegistryError> {
    let read = match &options.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let Err(error) = read else { return Ok(()) };
    if options.kubeconfig.is_some() {
        return Err(RegistryError::NoCluster { why: error.to_string() });
    }
    let Err(pod) = Config::incluster() else { return Ok(()) };
    Err(RegistryError::NoCluster { why: format!("{error}, and {pod}") })
}

/// A kind of object in the service's namespace.
pub(super) async fn api<K>(options: &KubernetesOptions) -> Result<Api<K>, Lost>
where
    K: ListableResource + Metadata<Ty = ObjectMeta>,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let mut config = config(options).await?;
    config.connect_timeout = Some(PATIENCE);
    // It is asked again here, with what is known then: a retried renewal would be of a time that is over.
    config.default_retry = false;
    let namespace = options.namespace.clone().unwrap_or(config.default_namespace.clone());
    Ok(Api::namespaced(Client::try_from(config)?, &namespace))
}

async fn config(options: &KubernetesOptions) -> Result<Config, Lost> {
    let Some(path) = &options.kubeconfig else { return Ok(Config::infer().await?) };
    let read = async {
        let read = Kubeconfig::read_from(path)?;
        Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await
    };
    read.await.map_err(|error| Lost::Kubeconfig { path: path.clone(), source: Box::new(error) })
}

pub(super) async fn within<T>(
    patience: Duration,
    asked: impl Future<Output = kube::Result<T>>,
) -> Result<T, Lost> {
    Ok(timeout(patience, asked).await.map_err(|_late| Lost::Silent(patience))??)
}
