//! A registry outside the cluster: where the routers are, and which of them leads.
//!
//! Nodes register with every router there is, over the routers' own streams; that is how nodes are
//! known and missed. What several routers need beside it is a place where they are found and where one of
//! them is elected: etcd or a Kubernetes cluster, each behind the cargo feature of that name. Whatever happens to it,
//! everybody goes on with what was known last.

#[cfg(any(feature = "etcd", feature = "kubernetes"))]
mod backoff;
#[cfg_attr(
    not(all(feature = "etcd", feature = "kubernetes")),
    allow(dead_code, reason = "a registry that isn't built reads nothing of it")
)]
mod held;
mod options;

#[cfg(not(all(feature = "etcd", feature = "kubernetes")))]
mod absent;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "kubernetes")]
mod kubernetes;

#[cfg(not(feature = "etcd"))]
use absent as etcd;
#[cfg(not(feature = "kubernetes"))]
use absent as kubernetes;

use std::collections::{BTreeMap, BTreeSet};

use baton_types::{ModelId, RouterId};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::held::{Elsewhere, Held};
pub use self::options::{
    EtcdOptions, KubernetesOptions, Login, RegistryError, RegistryOptions, Tls,
};

/// Control addresses of the routers there are, `http://host:port`.
pub type Routers = BTreeSet<String>;
/// Requests a second, by model.
pub type Rates = BTreeMap<ModelId, f64>;

/// The routers there are, as the registry tells it. Dropping it ends the watch.
#[derive(Debug)]
pub struct Directory {
    pub routers: watch::Receiver<Routers>,
    _task: AbortOnDropHandle<()>,
}

/// A router as others find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub id: RouterId,
    /// Where nodes register, `http://host:port`.
    pub control_address: String,
}

/// What a router and its fellows tell each other through the registry.
#[derive(Clone, Debug)]
pub struct Fellows {
    /// Whether this router leads. Another one does a lease after it was cut off, at the earliest.
    pub leads: watch::Receiver<bool>,
    /// What comes to this router,
    pub rates: watch::Sender<Rates>,
    /// and to all others.
    pub elsewhere: watch::Receiver<Rates>,
}

/// A router's place in the registry. Dropped, it is forgotten when its lease ends.
#[derive(Debug)]
pub struct Announced {
    pub fellows: Fellows,
    leave: CancellationToken,
    task: AbortOnDropHandle<()>,
    _following: AbortOnDropHandle<()>,
}

impl Directory {
    /// Follows the routers in the registry. Starts empty, and when the registry is away it stays as it was.
    pub fn watch(options: RegistryOptions) -> Result<Self, RegistryError> {
        options.check()?;
        let (sender, routers) = watch::channel(Routers::new());
        let task = match options {
            RegistryOptions::Etcd(options) => owned(etcd::routers(options, sender)),
            RegistryOptions::Kubernetes(options) => owned(kubernetes::routers(options, sender)),
        };
        Ok(Directory { routers, _task: task })
    }
}

impl Announced {
    /// Keeps a router in the registry, and has it stand for election.
    pub fn keep(options: RegistryOptions, router: Announcement) -> Result<Self, RegistryError> {
        options.check()?;
        let (leading, leads) = watch::channel(false);
        let (rates, own_rates) = watch::channel(Rates::new());
        let (sender, elsewhere) = watch::channel(Rates::new());
        let others = Elsewhere { own: router.id, rates: sender, leads: leads.clone() };
        let held = Held { router, rates: own_rates, leads: leading };
        let leave = CancellationToken::new();
        let leaving = leave.clone();
        let (following, task) = match options {
            RegistryOptions::Etcd(options) => (
                owned(etcd::elsewhere(options.clone(), others)),
                owned(etcd::keep(options, held, leaving)),
            ),
            RegistryOptions::Kubernetes(options) => (
                owned(kubernetes::elsewhere(options.clone(), others)),
                owned(kubernetes::keep(options, held, leaving)),
            ),
        };
        let fellows = Fellows { leads, rates, elsewhere };
        Ok(Announced { fellows, leave, task, _following: following })
    }

    /// Takes the router out of the registry, so that nobody has to wait for its lease to end.
    pub async fn leave(self) {
        self.leave.cancel();
        // It ends after a word to the registry, or without one.
        let _ = self.task.await;
    }
}

/// A task that ends with its handle.
fn owned(work: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    #[allow(clippy::disallowed_methods, reason = "the handle is the owner the ban asks for")]
    let handle = tokio::spawn(work);
    AbortOnDropHandle::new(handle)
}
