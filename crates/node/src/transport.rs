//! How to listen and how to dial: the one place that will know about TLS.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};

/// Largest gRPC message a node or router reads. A hello carries a model's whole vocabulary.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Pings find a peer that vanished without closing; a request whose caller is gone is cancelled.
const KEEPALIVE: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("{what} can't listen on {address}: {source}")]
    Bind { what: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("{address:?} is not an address to dial, expected http://host:port: {source}")]
    Address { address: String, source: tonic::transport::Error },
    #[error("serving gRPC: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// A bound listener and the address it got.
#[derive(Debug)]
pub struct Bound {
    pub listener: TcpListener,
    pub address: SocketAddr,
}

impl Bound {
    /// Listens on `host:port`; port 0 takes a free one. `what` names the listener in errors.
    pub async fn new(what: &'static str, host: IpAddr, port: u16) -> Result<Self, TransportError> {
        let address = SocketAddr::new(host, port);
        let refused = |source| TransportError::Bind { what, address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Bound { listener, address })
    }

    /// `host:port` to tell others: the advertised host, or the one listened on.
    pub fn advertised(&self, host: Option<&str>) -> String {
        match host {
            Some(host) => format!("{host}:{}", self.address.port()),
            None => self.address.to_string(),
        }
    }
}

/// Serves gRPC until `shutdown`, then lets open streams end.
pub async fn serve(
    bound: Bound,
    routes: Routes,
    shutdown: CancellationToken,
) -> Result<(), TransportError> {
    let incoming = TcpIncoming::from(bound.listener).with_nodelay(Some(true));
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned())
        .await?;
    Ok(())
}

/// A channel to `http://host:port` that connects when it is first used, and again when it broke.
pub fn dial(address: &str) -> Result<Channel, TransportError> {
    let endpoint = Endpoint::from_shared(address.to_owned())
        .map_err(|source| TransportError::Address { address: address.to_owned(), source })?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .connect_lazy())
}
