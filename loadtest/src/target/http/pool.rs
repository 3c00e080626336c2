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

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, Uri,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    header::{HOST, HeaderValue},
    rt::{Read, Write},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, sync::oneshot, task::JoinSet};
use tokio_rustls::TlsConnector;

use super::refusal::{broken, broken_io};
use crate::target::{Failure, failure::Kind};

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Connections that may be opened a second, and at once.
const OPENED_A_SECOND: f64 = 1000.0;
const AT_ONCE: f64 = 64.0;

type Sender = SendRequest<Full<Bytes>>;

/// To one server.
#[derive(Debug)]
pub(super) struct Pool {
    host: String,
    port: u16,
    /// What requests name it.
    authority: HeaderValue,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    idle: Mutex<Vec<Sender>>,
    openings: Mutex<Openings>,
    /// In order.
    waiting: Mutex<VecDeque<oneshot::Sender<Grant>>>,
    driven: Mutex<JoinSet<()>>,
}

/// What somebody waits for.
#[derive(Debug)]
enum Grant {
    Connection(Sender),
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
    pub(super) response: Response<Incoming>,
    sender: Sender,
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
            driven: Mutex::default(),
        })
    }

    /// Asks, on a connection that is idle or else on a new one; `sending` is called when it needn't wait for one any more.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        mut sending: impl FnMut(),
    ) -> Result<Answering<'_>, Failure> {
        request.headers_mut().insert(HOST, self.authority.clone());
        loop {
            let found = self.find().await;
            let held = Held(Some(self));
            sending();
            let (mut sender, is_new) = match found {
                Some(sender) => (sender, false),
                None => (self.connect().await?, true),
            };
            // One that the server has closed meanwhile.
            if sender.ready().await.is_err() && !is_new {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(Answering { response, sender, held }),
                // Nothing of it was sent: another connection may have it.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !is_new => request = unsent,
                    _ => return Err(broken(error.error())),
                },
            }
        }
    }

    /// One that is idle, or the next that will be; none when another may be opened.
    async fn find(&self) -> Option<Sender> {
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
            Ok(Grant::Connection(sender)) => Some(sender),
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
        if let Grant::Connection(sender) = grant {
            self.idle().push(sender);
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

    async fn connect(&self) -> Result<Sender, Failure> {
        let connect = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port));
            let stream = stream.await.map_err(|error| broken_io(&error, &self.authority))?;
            stream.set_nodelay(true).map_err(|error| broken_io(&error, &self.authority))?;
            match &self.tls {
                None => self.drive(TokioIo::new(stream)).await,
                Some((tls, name)) => {
                    let tls = TlsConnector::from(Arc::clone(tls));
                    let stream = tls.connect(name.clone(), stream).await;
                    let stream = stream.map_err(|error| broken_io(&error, &self.authority))?;
                    self.drive(TokioIo::new(stream)).await
                }
            }
        };
        let late = |_| {
            Failure::new(
                Kind::Connection,
                "connection timed out",
                format!("after {CONNECT_PATIENCE:?}"),
            )
        };
        tokio::time::timeout(CONNECT_PATIENCE, connect).await.map_err(late)?
    }

    async fn drive(
        &self,
        io: impl Read + Write + Unpin + Send + 'static,
    ) -> Result<Sender, Failure> {
        let (sender, connection) = handshake(io).await.map_err(|error| broken(&error))?;
        let mut driven = self.driven.lock().unwrap_or_else(PoisonError::into_inner);
        while driven.try_join_next().is_some() {}
        // What goes wrong with it is told by the answer it had.
        driven.spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Sender>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answering<'_> {
    /// The answer has been read to its end.
    pub(super) fn finish(self) {
        let Answering { sender, mut held, .. } = self;
        let pool = held.0.take_if(|_| !sender.is_closed());
        if let Some(pool) = pool {
            pool.grant(Grant::Connection(sender));
        }
    }
}
