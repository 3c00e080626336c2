//! A port that the server listens on, and what may be wrong with it.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, mpsc},
};

use anyhow::Context;
use axum::Router;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime::Handle,
    sync::watch,
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{NAMESPACE, Shared, http, secrets::Secrets};

/// What whoever asks gets in the place of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// An HTTP status.
    Status(u16),
    /// The same, for watches alone.
    Watches(u16),
    /// Nothing, and watches say nothing more.
    Hang,
}

/// One way to the store. Dropped, it is closed.
#[derive(Debug)]
pub struct Door {
    shared: Arc<Shared>,
    runtime: Handle,
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    /// Where somebody asks who comes.
    secrets: Option<Secrets>,
    serving: Option<Serving>,
}

#[derive(Debug)]
struct Serving {
    task: AbortOnDropHandle<()>,
    /// Nobody says anything there; it ends with the last connection.
    ended: mpsc::Receiver<()>,
}

impl Door {
    pub(crate) fn open(
        shared: Arc<Shared>,
        runtime: Handle,
        secrets: Option<Secrets>,
    ) -> anyhow::Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = bind(any, &runtime)?;
        let address = listener.local_addr()?;
        let fault = watch::Sender::default();
        let mut door = Door { shared, runtime, address, fault, secrets, serving: None };
        door.serve(listener);
        Ok(door)
    }

    pub fn url(&self) -> String {
        let scheme = if self.secrets.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Writes a kubeconfig that leads here.
    pub fn kubeconfig(&self, path: &Path) -> anyhow::Result<()> {
        let mut cluster = self.secrets.as_ref().map_or(json!({}), Secrets::cluster);
        cluster["server"] = self.url().into();
        let user = self.secrets.as_ref().map_or(json!({}), Secrets::user);
        let context = json!({"cluster": "fake", "user": "baton", "namespace": NAMESPACE});
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": cluster}],
            "users": [{"name": "baton", "user": user}],
            "contexts": [{"name": "fake", "context": context}],
            "current-context": "fake"
        });
        // JSON is YAML.
        fs::write(path, config.to_string()).with_context(|| path.display().to_string())
    }

    /// What is wrong from now on.
    pub fn set_fault(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Breaks all connections, and takes no more. Afterwards nobody is inside.
    pub fn stop(&mut self) {
        if let Some(Serving { task, ended }) = self.serving.take() {
            drop(task);
            let _ = ended.recv();
        }
    }

    /// Listens where it did before.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let listener = bind(self.address, &self.runtime)?;
        self.serve(listener);
        Ok(())
    }

    fn serve(&mut self, listener: TcpListener) {
        let (fault, secrets) = (self.fault.subscribe(), self.secrets.clone());
        let routes = http::routes(Arc::clone(&self.shared), fault, secrets.clone());
        let (alive, ended) = mpsc::sync_channel(0);
        let task =
            AbortOnDropHandle::new(self.runtime.spawn(accept(listener, routes, secrets, alive)));
        self.serving = Some(Serving { task, ended });
    }
}

fn bind(address: SocketAddr, runtime: &Handle) -> anyhow::Result<TcpListener> {
    let _guard = runtime.enter();
    let socket = TcpSocket::new_v4()?;
    // Where it listened before there may be the rests of connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| address.to_string())?;
    Ok(socket.listen(64)?)
}

/// Dropping it breaks every connection.
async fn accept(
    listener: TcpListener,
    routes: Router,
    secrets: Option<Secrets>,
    alive: mpsc::SyncSender<()>,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (service, secrets) = (TowerToHyperService::new(routes.clone()), secrets.clone());
        let alive = alive.clone();
        connections.spawn(async move {
            let _alive = alive;
            let serving = hyper::server::conn::http1::Builder::new();
            // Clients go as they like.
            let _ = match secrets {
                None => serving.serve_connection(TokioIo::new(stream), service).await,
                Some(secrets) => match secrets.acceptor.accept(stream).await {
                    Ok(stream) => serving.serve_connection(TokioIo::new(stream), service).await,
                    Err(_refused) => return,
                },
            };
        });
        while connections.try_join_next().is_some() {}
    }
}
