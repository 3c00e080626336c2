//! Routers in Kubernetes, against an API server that does what it is told to.

#![allow(clippy::unwrap_used, reason = "tests")]

mod elections;
mod finding;
mod rates;

use std::{fmt::Debug, path::PathBuf, time::Duration};

use baton_fake_kubernetes::{Door, FakeKubernetes};
use baton_registry::{Announced, Announcement, KubernetesOptions, RegistryOptions};
use baton_types::RouterId;
use tempfile::TempDir;
use tokio::{sync::watch, time::timeout};

const SERVICE: &str = "baton-router";
/// The shortest there is.
const LEASE: Duration = Duration::from_secs(2);
/// Longer than anything here takes on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);

/// A door to an API server, and what leads there.
struct Client {
    door: Door,
    folder: TempDir,
}

impl Client {
    fn of(api: &FakeKubernetes) -> Self {
        let (door, folder) = (api.door().unwrap(), tempfile::tempdir().unwrap());
        let client = Client { door, folder };
        client.door.kubeconfig(&client.kubeconfig()).unwrap();
        client
    }

    /// As a pod is let in: by who signs the server's certificate, and a token.
    fn secured(api: &FakeKubernetes) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let client = Client { door: api.secured_door(folder.path()).unwrap(), folder };
        client.door.kubeconfig(&client.kubeconfig()).unwrap();
        client
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    fn options(&self) -> RegistryOptions {
        RegistryOptions::Kubernetes(KubernetesOptions {
            service: SERVICE.into(),
            namespace: None,
            port: "control".into(),
            lease: LEASE,
            kubeconfig: Some(self.kubeconfig()),
        })
    }

    fn router(&self, id: u64) -> Announced {
        let control_address = "http://nobody:1".into();
        Announced::keep(self.options(), Announcement { id: RouterId(id), control_address }).unwrap()
    }
}

/// Waits until it is so.
async fn until<T: Debug + Clone>(
    what: &str,
    channel: &watch::Receiver<T>,
    is_so: impl FnMut(&T) -> bool,
) -> T {
    let mut channel = channel.clone();
    let waited =
        timeout(PATIENCE, channel.wait_for(is_so)).await.map(|found| found.unwrap().clone());
    let now = || channel.borrow().clone();
    waited.unwrap_or_else(|_late| panic!("not within {PATIENCE:?}: {what}; it is {:?}", now()))
}
