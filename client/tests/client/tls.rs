//! Who is who.

use baton_client::{Client, Error, Request, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::fake::Router;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    fn issue(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }
}

fn client(router: &Router, tls: Tls) -> Client {
    let retry = baton_client::Retry { attempts: 0, ..Default::default() };
    Client::builder([&router.url]).tls(tls).retry(retry).bearer_token("t").build().unwrap()
}

fn request() -> Request {
    Request::text("fake", "Once").max_tokens(3)
}

#[tokio::test]
async fn routers_are_checked_and_so_are_clients() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue("router.example");
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .client_ca_root(Certificate::from_pem(authority.pem()));
    let router = Router::with_tls(tls).await;
    let known = Tls {
        ca: Some(authority.pem()),
        identity: Some(authority.issue("client.example")),
        domain: Some("router.example".into()),
    };
    let answer = client(&router, known.clone()).answer(request()).await.unwrap();
    assert_eq!(answer.choices[0].token_ids.len(), 3);
    let stranger = Some(Authority::new().issue("client.example"));
    for (wrong, why) in [
        (Tls { identity: None, ..known.clone() }, "no certificate"),
        (Tls { identity: stranger, ..known.clone() }, "somebody else's"),
        (Tls { domain: Some("other.example".into()), ..known.clone() }, "another router"),
        (Tls { ca: Some(Authority::new().pem()), ..known.clone() }, "not to be trusted"),
        (Tls { ca: None, ..known.clone() }, "not the system's"),
    ] {
        let error = client(&router, wrong).answer(request()).await.unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{why}: {error}");
    }
    assert_eq!(router.asked().len(), 1, "nobody else got through");
}
