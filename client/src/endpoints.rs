//! The routers a client knows, and which of them to ask next.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint as Transport};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{Client, ClientBuilder, Error};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one that failed is passed over: at first, and at most.
const FIRST_REST: Duration = Duration::from_millis(250);
const LONGEST_REST: Duration = Duration::from_secs(10);
/// How long one that failed may take to say that it is well.
const CHECK_PATIENCE: Duration = Duration::from_secs(1);
const SERVICE: &str = "baton.v1.Inference";

/// In turn, but for those that failed.
#[derive(Debug)]
pub(crate) struct Endpoints {
    all: Vec<Arc<Endpoint>>,
    next: AtomicUsize,
    probes: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) channel: Channel,
    health: Mutex<Health>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Health {
    /// In a row.
    failures: u32,
    /// Until when it is passed over.
    rests_until: Option<Instant>,
    is_probed: bool,
}

impl Endpoints {
    pub(crate) fn new(builder: &ClientBuilder) -> Result<Self, Error> {
        let all: Vec<_> = builder
            .endpoints
            .iter()
            .map(|url| Endpoint::new(url, builder).map(Arc::new))
            .collect::<Result<_, _>>()?;
        if all.is_empty() {
            let why = "there is none".to_owned();
            return Err(Error::Endpoint { url: String::new(), why });
        }
        // Clients that start together don't all begin with the same one.
        let next = AtomicUsize::new(rand::random_range(0..all.len()));
        Ok(Endpoints { all, next, probes: Mutex::default() })
    }

    /// The next one that is well; or, if none is, the one that may be so first.
    pub(crate) fn pick(&self) -> Arc<Endpoint> {
        self.probe();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut in_turn = (0..self.all.len()).map(|nth| &self.all[(first + nth) % self.all.len()]);
        let well = in_turn.clone().find(|endpoint| endpoint.health().failures == 0);
        let soonest = || in_turn.by_ref().min_by_key(|endpoint| endpoint.health().rests_until);
        Arc::clone(well.or_else(soonest).expect("there is at least one"))
    }

    /// Asks those that failed whether they are well again, while others are asked for what is wanted.
    fn probe(&self) {
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        while probes.try_join_next().is_some() {}
        let now = Instant::now();
        for endpoint in self.all.iter().filter(|endpoint| endpoint.is_due(now)) {
            let endpoint = Arc::clone(endpoint);
            probes.spawn(async move { endpoint.check().await });
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }
}

impl Endpoint {
    fn new(url: &str, builder: &ClientBuilder) -> Result<Self, Error> {
        let wrong = |why: String| Error::Endpoint { url: url.to_owned(), why };
        let transport =
            Transport::from_shared(url.to_owned()).map_err(|error| wrong(error.to_string()))?;
        let (scheme, host) = (transport.uri().scheme_str(), transport.uri().host());
        let Some(host) = host else { return Err(wrong("it has no host".to_owned())) };
        let is_tls = match scheme {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("its scheme is neither http nor https".to_owned())),
        };
        if builder.token.is_some() && !is_tls && !builder.may_be_plain && !is_loopback(host) {
            return Err(Error::PlainToken { url: url.to_owned() });
        }
        let patience = builder.keep_alive.unwrap_or(Client::KEEP_ALIVE);
        let mut transport = transport
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(patience)
            .keep_alive_timeout(patience);
        if is_tls {
            let config = builder.tls.clone().unwrap_or_default().config();
            transport = transport
                .tls_config(config)
                .map_err(|error| Error::Tls { why: error.to_string() })?;
        }
        Ok(Endpoint { channel: transport.connect_lazy(), health: Mutex::default() })
    }

    pub(crate) fn succeeded(&self) {
        *self.health() = Health::default();
    }

    pub(crate) fn failed(&self) {
        let mut health = self.health();
        let rest = FIRST_REST.saturating_mul(1 << health.failures.min(16)).min(LONGEST_REST);
        health.failures = health.failures.saturating_add(1);
        health.rests_until = Some(Instant::now() + rest);
        health.is_probed = false;
    }

    /// Whether it is to be asked how it does, which it is by who asks this.
    fn is_due(&self, now: Instant) -> bool {
        let mut health = self.health();
        let rests = health.rests_until.is_none_or(|until| until > now);
        !rests && !std::mem::replace(&mut health.is_probed, true)
    }

    /// Asks one that failed.
    async fn check(&self) {
        let mut client = HealthClient::new(self.channel.clone());
        let asked = client.check(HealthCheckRequest { service: SERVICE.to_owned() });
        let said = tokio::time::timeout(CHECK_PATIENCE, asked).await;
        let is_well =
            matches!(said, Ok(Ok(said)) if said.get_ref().status() == ServingStatus::Serving);
        if is_well { self.succeeded() } else { self.failed() }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
