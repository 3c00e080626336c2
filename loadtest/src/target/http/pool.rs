//! Connections over HTTP/1.1: one for each answer on its way, kept for the next.
//!
//! A library's pool opens a connection whenever none is idle *and* waits for one that becomes so, whichever comes first;
//! at ten thousand requests a second it opened one for nearly each. This one takes the connection that was idle last, so
//! that as few are warm as are needed, and opens so many a second at most: a client that has fallen behind would else fall
//! further behind for opening one for each request that is due. Who waits does so in order, and costs nothing meanwhile:
//! whoever ends hands the connection on, or, where that broke, the right to open another; and more may be opened with
//! each tick.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderValue, StatusCode, Uri};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, sync::oneshot};
use tokio_rustls::TlsConnector;

use super::{
    connection::{Connection, Request, Stream, Unanswered},
    refusal::broken,
};
use crate::target::{Failure, failure::Kind};

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Connections that may be opened a second, and at once.
const OPENED_A_SECOND: f64 = 1000.0;
const AT_ONCE: f64 = 64.0;

/// To one server.
#[derive(Debug)]
pub(super) struct Pool {
    host: String,
    port: u16,
    /// What requests name it.
    authority: HeaderValue,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    idle: Mutex<Vec<Connection>>,
    openings: Mutex<Openings>,
    /// In order.
    waiting: Mutex<VecDeque<oneshot::Sender<Grant>>>,
}

/// What somebody waits for.
#[derive(Debug)]
enum Grant {
    Connection(Connection),
    /// The right to open one.
    Opening,
}

/// A bucket of them.
#[derive(Clone, Copy, Debug)]
struct Openings {
    left: f64,
    at: Instant,
}

impl Openings {
    /// Takes one, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        let filled = now.saturating_duration_since(self.at).as_secs_f64() * OPENED_A_SECOND;
        (self.left, self.at) = ((self.left + filled).min(AT_ONCE), now);
        let has_one = self.left >= 1.0;
        self.left -= if has_one { 1.0 } else { 0.0 };
        has_one
    }
}

/// A connection that answers. It goes back to the pool when the answer has been read to its end.
#[derive(Debug)]
pub(super) struct Answering<'a> {
    pub(super) status: StatusCode,
    /// As the server named it.
    pub(super) request_id: Option<String>,
    pub(super) connection: Connection,
    held: Held<'a>,
}

/// A connection, or the right to open one, that is used. Dropped, somebody else may open one.
#[derive(Debug)]
struct Held<'a>(Option<&'a Pool>);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(pool) = self.0 {
            pool.grant(Grant::Opening);
        }
    }
}

impl Pool {
    /// Nobody is connected to yet.
    pub(super) fn new(url: &Uri, tls: &Arc<ClientConfig>) -> Result<Self, Failure> {
        let wrong = |why: String| Failure::new(Kind::Settings, "settings", format!("{url}: {why}"));
        let authority = url.authority().ok_or_else(|| wrong("it has no host".to_owned()))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let is_tls = url.scheme_str() == Some("https");
        let name = |host: &String| {
            ServerName::try_from(host.clone()).map_err(|error| wrong(error.to_string()))
        };
        let tls = is_tls.then(|| Ok((Arc::clone(tls), name(&host)?))).transpose()?;
        Ok(Pool {
            port: authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            authority: HeaderValue::from_str(authority.as_str())
                .map_err(|error| wrong(error.to_string()))?,
            host,
            tls,
            idle: Mutex::default(),
            waiting: Mutex::default(),
            openings: Mutex::new(Openings { left: AT_ONCE, at: Instant::now() }),
        })
    }

    /// Asks, on a connection that is idle or else on a new one; `sending` is called when it needn't wait for one any more.
    pub(super) async fn send(
        &self,
        request: Request<'_>,
        mut sending: impl FnMut(),
    ) -> Result<Answering<'_>, Failure> {
        loop {
            let found = self.find().await;
            let held = Held(Some(self));
            sending();
            let is_new = found.is_none();
            let mut connection = match found {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            // The server may have closed it meanwhile.
            if !is_new && !connection.is_free() {
                continue;
            }
            match connection.ask(&self.authority, &request).await {
                Ok((status, request_id)) => {
                    return Ok(Answering { status, request_id, connection, held });
                }
                Err(Unanswered::Unsent(_)) if !is_new => {}
                Err(Unanswered::Unsent(failure) | Unanswered::Failed(failure)) => {
                    return Err(failure);
                }
            }
        }
    }

    /// One that is idle, or the next that will be; none when another may be opened.
    async fn find(&self) -> Option<Connection> {
        let granted = {
            let mut waiting = self.waiting();
            if waiting.is_empty() {
                let idle = self.idle().pop();
                if idle.is_some() || self.may_open() {
                    return idle;
                }
            }
            let (waiter, granted) = oneshot::channel();
            waiting.push_back(waiter);
            granted
        };
        match granted.await {
            Ok(Grant::Connection(connection)) => Some(connection),
            Ok(Grant::Opening) | Err(_) => None,
        }
    }

    /// It goes to whoever has waited longest.
    fn grant(&self, mut grant: Grant) {
        let mut waiting = self.waiting();
        while let Some(waiter) = waiting.pop_front() {
            match waiter.send(grant) {
                Ok(()) => return,
                // It waits no more.
                Err(unsent) => grant = unsent,
            }
        }
        if let Grant::Connection(connection) = grant {
            self.idle().push(connection);
        }
    }

    /// Some time has passed: so many of those who wait may open one.
    pub(super) fn tick(&self) {
        while !self.waiting().is_empty() && self.may_open() {
            self.grant(Grant::Opening);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<oneshot::Sender<Grant>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_open(&self) -> bool {
        self.openings.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let connect = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            stream.set_nodelay(true)?;
            Ok(match &self.tls {
                None => Stream::Plain(stream),
                Some((tls, name)) => {
                    let tls = TlsConnector::from(Arc::clone(tls));
                    Stream::Tls(Box::new(tls.connect(name.clone(), stream).await?))
                }
            })
        };
        let late = |_| {
            Failure::new(
                Kind::Connection,
                "connection timed out",
                format!("after {CONNECT_PATIENCE:?}"),
            )
        };
        let connected = tokio::time::timeout(CONNECT_PATIENCE, connect).await.map_err(late)?;
        let stream = connected.map_err(|error| broken(&error, &self.authority))?;
        Ok(Connection::new(stream, self.authority.clone()))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answering<'_> {
    /// The answer has been read to its end.
    pub(super) fn finish(self) {
        let Answering { mut connection, mut held, .. } = self;
        let pool = held.0.take_if(|_| connection.is_free());
        if let Some(pool) = pool {
            pool.grant(Grant::Connection(connection));
        }
    }
}
