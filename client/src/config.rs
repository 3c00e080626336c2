use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::{Client, Error};

/// How often a call is tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Failures in a row after which a call ends. Each token that comes begins anew.
    pub attempts: u32,
    /// The longest first pause; it doubles. Each is drawn from nothing to that.
    pub first_pause: Duration,
    pub longest_pause: Duration,
    /// Retries of all calls together, but for the first of each in a row where a connection broke: so many at once,
    pub budget: u32,
    /// and so many more for each call, at most 1.
    pub earned: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            attempts: 6,
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(2),
            budget: 20,
            earned: 0.2,
        }
    }
}

/// Asks another router, too, when one hasn't answered for a while: for calls that change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedge {
    pub after: Duration,
}

/// Whom to trust, and who one is. PEM.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Certificates that routers' are signed by; without them those that the system trusts.
    pub ca: Option<Vec<u8>>,
    /// The client's own certificate and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in routers' certificates, if it isn't their host.
    pub domain: Option<String>,
}

/// A client to be made.
#[derive(Clone, Debug, Default)]
pub struct ClientBuilder {
    pub(crate) endpoints: Vec<String>,
    pub(crate) tls: Option<Tls>,
    pub(crate) token: Option<String>,
    pub(crate) may_be_plain: bool,
    pub(crate) tenant: Option<String>,
    pub(crate) retry: Retry,
    pub(crate) hedge: Option<Hedge>,
    pub(crate) keep_alive: Option<Duration>,
}

impl ClientBuilder {
    /// Routers, each like `http://host:8000`, or `https`.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        ClientBuilder { endpoints, ..ClientBuilder::default() }
    }

    /// For `https` endpoints.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sent with each call. Refused with plain `http` endpoints, but for loopback.
    #[must_use]
    pub fn bearer_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Sends the token in plain text where the endpoints are `http`.
    #[must_use]
    pub fn allow_plain_token(mut self) -> Self {
        self.may_be_plain = true;
        self
    }

    /// Whose the requests are, unless they say so themselves.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// For calls that change nothing: models, tokenise, detokenise.
    #[must_use]
    pub fn hedge(mut self, after: Duration) -> Self {
        self.hedge = Some(Hedge { after });
        self
    }

    /// A router that doesn't answer a ping for so long while a call is open counts as gone; unset: 2 s.
    #[must_use]
    pub fn keep_alive(mut self, patience: Duration) -> Self {
        self.keep_alive = Some(patience);
        self
    }

    /// The client. It connects when it is first used.
    ///
    /// # Errors
    ///
    /// An endpoint that is none, TLS settings that can't be used, a token that would travel in plain text.
    pub fn build(self) -> Result<Client, Error> {
        Client::from_builder(self)
    }
}

impl Tls {
    pub(crate) fn config(&self) -> ClientTlsConfig {
        let mut config = match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(domain) = &self.domain {
            config = config.domain_name(domain);
        }
        config
    }
}
