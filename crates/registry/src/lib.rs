//! A registry outside the cluster: where the routers are, and which of them leads.
//!
//! Nodes register with every router there is, over the routers' own streams; that is how nodes are
//! known and missed. What several routers need beside it is a place where they are found and where one of
//! them is elected: etcd, behind the cargo feature of that name. Whatever happens to it, everybody goes on with what
//! was known last.

#[cfg(feature = "etcd")]
mod etcd;
mod options;

use std::collections::BTreeSet;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

pub use self::options::{EtcdOptions, Login, RegistryError, Tls};

/// Control addresses of the routers there are, `http://host:port`.
pub type Routers = BTreeSet<String>;

/// The routers there are, as the registry tells it. Dropping it ends the watch.
#[derive(Debug)]
pub struct Directory {
    pub routers: watch::Receiver<Routers>,
    _task: AbortOnDropHandle<()>,
}

/// A router's place in the registry. Dropped, it is forgotten when its lease ends.
#[derive(Debug)]
pub struct Announced {
    /// Whether this router leads. At no time do two.
    pub leads: watch::Receiver<bool>,
    leave: tokio_util::sync::CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Directory {
    /// Follows the routers in the registry. Starts empty, and when the registry is away it stays as it was.
    pub fn watch(options: EtcdOptions) -> Result<Self, RegistryError> {
        options.check()?;
        let (sender, routers) = watch::channel(Routers::new());
        #[cfg(feature = "etcd")]
        return Ok(Directory { routers, _task: owned(etcd::follow(options, sender)) });
        #[cfg(not(feature = "etcd"))]
        {
            let _ = (sender, routers);
            Err(RegistryError::NotBuilt)
        }
    }
}

impl Announced {
    /// Keeps a router in the registry, and has it stand for election.
    pub fn keep(options: EtcdOptions, router: Announcement) -> Result<Self, RegistryError> {
        options.check()?;
        let (sender, leads) = watch::channel(false);
        let leave = tokio_util::sync::CancellationToken::new();
        #[cfg(feature = "etcd")]
        {
            let task = owned(etcd::announce(options, router, sender, leave.clone()));
            Ok(Announced { leads, leave, task })
        }
        #[cfg(not(feature = "etcd"))]
        {
            let _ = (sender, leads, leave, router);
            Err(RegistryError::NotBuilt)
        }
    }

    /// Takes the router out of the registry, so that nobody has to wait for its lease to end.
    pub async fn leave(self) {
        self.leave.cancel();
        // It ends after a word to the registry, or without one.
        let _ = self.task.await;
    }
}

/// A router as others find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub id: baton_types::RouterId,
    /// Where nodes register, `http://host:port`.
    pub control_address: String,
}

/// A task that ends with its handle.
#[cfg(feature = "etcd")]
fn owned(work: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    #[allow(clippy::disallowed_methods, reason = "the handle is the owner the ban asks for")]
    let handle = tokio::spawn(work);
    AbortOnDropHandle::new(handle)
}
