//! As much of a Kubernetes API server as a registry asks for: EndpointSlices and Leases, listed, watched, read and
//! written with checked versions, and everything that may go wrong with it, on demand.
//!
//! It has one store and any number of doors, each with a port of its own: behind another door somebody may be cut off
//! alone. It serves the verbs that a router's role allows, and no others.

mod door;
mod http;
mod record;
mod secrets;
mod store;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::watch, time::timeout};

pub use self::door::{Door, Fault};
use self::{record::Record, secrets::Secrets, store::Store};

/// Where everything is.
pub const NAMESPACE: &str = "baton";

/// How long something is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub lists: u64,
    pub watches: u64,
    /// Lists, watches, reads and writes that a fault met, or that came without the right token.
    pub failed: u64,
}

/// What doors share.
#[derive(Debug)]
struct Shared {
    store: Mutex<Store>,
    /// Counts what was written, and wakes who watches.
    written: watch::Sender<u64>,
    /// Another one ends all watches.
    watches: watch::Sender<u64>,
    /// What is told in the store's place.
    record: Mutex<Option<Record>>,
    asked: watch::Sender<Asked>,
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self) -> MutexGuard<'_, Option<Record>> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the store, and tells who watches.
    fn write<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let changed = change(&mut self.store());
        self.written.send_modify(|times| *times += 1);
        changed
    }

    fn asked(&self, count: impl FnOnce(&mut Asked)) {
        self.asked.send_modify(count);
    }
}

/// A server on loopback, with threads of its own.
#[derive(Debug)]
pub struct FakeKubernetes {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl FakeKubernetes {
    pub fn start() -> anyhow::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build()?;
        let shared = Shared {
            store: Mutex::default(),
            written: watch::Sender::new(0),
            watches: watch::Sender::new(0),
            record: Mutex::default(),
            asked: watch::Sender::default(),
        };
        Ok(FakeKubernetes { shared: Arc::new(shared), runtime: Some(runtime) })
    }

    /// A way in.
    pub fn door(&self) -> anyhow::Result<Door> {
        let runtime = self.runtime.as_ref().context("it runs until it is dropped")?;
        Door::open(Arc::clone(&self.shared), runtime.handle().clone(), None)
    }

    /// One that speaks TLS and wants a token; what opens it is put into the folder.
    pub fn secured_door(&self, folder: &Path) -> anyhow::Result<Door> {
        let runtime = self.runtime.as_ref().context("it runs until it is dropped")?;
        let secrets = Secrets::make(folder)?;
        Door::open(Arc::clone(&self.shared), runtime.handle().clone(), Some(secrets))
    }

    /// Has a slice there with these addresses, `host:port`, of pods named after them.
    pub fn put_slice(&self, name: &str, service: &str, addresses: &[String]) {
        self.put("endpointslices", slice(name, service, addresses));
    }

    /// Has an object there, whatever was there before.
    pub fn put(&self, kind: &str, object: Value) {
        self.shared.write(|store| store.put(kind, object));
    }

    pub fn delete(&self, kind: &str, name: &str) {
        self.shared.write(|store| store.delete(kind, name));
    }

    /// What is there of a kind, by name.
    pub fn objects(&self, kind: &str) -> Vec<(String, Value)> {
        self.shared
            .store()
            .list(kind, "")
            .map(|(name, object)| (name.clone(), object.clone()))
            .collect()
    }

    /// Who holds a lease.
    pub fn holder(&self, lease: &str) -> Option<String> {
        let objects = self.objects("leases");
        let (_, object) = objects.iter().find(|(name, _)| name == lease)?;
        object["spec"]["holderIdentity"].as_str().map(str::to_owned)
    }

    /// Forgets everything, and what it was like before: as one whose data are lost.
    pub fn wipe(&self) {
        self.shared.write(Store::wipe);
        self.end_watches();
    }

    /// Forgets what it was like before, so that nobody can go on from there.
    pub fn compact(&self) {
        self.shared.write(Store::compact);
    }

    /// Ends all watches, as an API server does now and then.
    pub fn end_watches(&self) {
        self.shared.watches.send_modify(|generation| *generation += 1);
    }

    /// Tells all watches which version it is at.
    pub fn bookmark(&self, kind: &str) {
        self.shared.write(|store| store.bookmark(kind));
    }

    /// From now on EndpointSlices are what a file says: a JSON value a line, in the order that they were sent in. A list
    /// answers the next request for one, and what comes behind it goes to the watch that is there then, or next.
    pub fn replay(&self, file: &Path) -> anyhow::Result<()> {
        *self.shared.record() = Some(Record::read(file)?);
        Ok(())
    }

    /// Says the next line of the record; none is left: false.
    pub fn say_next(&self) -> bool {
        let said = self.shared.record().as_mut().is_some_and(Record::release);
        self.shared.written.send_modify(|times| *times += 1);
        said
    }

    pub fn asked(&self) -> Asked {
        *self.shared.asked.borrow()
    }

    /// Waits until it was asked for something.
    pub async fn wait(&self, what: &str, is_so: impl Fn(&Asked) -> bool) -> anyhow::Result<()> {
        let mut asked = self.shared.asked.subscribe();
        let waited = timeout(PATIENCE, asked.wait_for(is_so)).await.is_ok();
        ensure!(waited, "not within {PATIENCE:?}: {what}; it was asked for {:?}", self.asked());
        Ok(())
    }
}

impl Drop for FakeKubernetes {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An EndpointSlice as a cluster with IPv4 makes it.
pub fn slice(name: &str, service: &str, addresses: &[String]) -> Value {
    let mut ports: Vec<&str> =
        addresses.iter().filter_map(|one| one.rsplit_once(':')).map(|one| one.1).collect();
    ports.sort_unstable();
    ports.dedup();
    assert!(ports.len() <= 1, "all endpoints of a slice have the same ports: {addresses:?}");
    let ports: Vec<Value> = ports
        .iter()
        .map(|port| json!({"name": "control", "port": port.parse::<u16>().ok(), "protocol": "TCP"}))
        .collect();
    let endpoint = |address: &String| {
        json!({
            "addresses": [address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host)],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "name": format!("pod-{address}"), "namespace": NAMESPACE}
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": ports
    })
}
