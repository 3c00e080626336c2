//! What a client must know to be let in where somebody asks: who signs the server's certificate, and a token.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};

const TOKEN: &str = "open sesame";

/// Files, as a pod has them in its service account's folder.
#[derive(Clone)]
pub(crate) struct Secrets {
    folder: PathBuf,
    pub(crate) acceptor: TlsAcceptor,
}

impl Secrets {
    /// Makes an authority, a certificate by it, and a token.
    pub(crate) fn make(folder: &Path) -> anyhow::Result<Self> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let of = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        let certificate = of.signed_by(&key, &authority)?;
        let der = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        let server = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], der)?;
        let secrets =
            Secrets { folder: folder.to_owned(), acceptor: TlsAcceptor::from(Arc::new(server)) };
        for (file, text) in [("ca.crt", authority.pem()), ("token", TOKEN.to_owned())] {
            let path = secrets.folder.join(file);
            fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
        Ok(secrets)
    }

    /// How a kubeconfig names the authority,
    pub(crate) fn cluster(&self) -> Value {
        json!({"certificate-authority": self.folder.join("ca.crt")})
    }

    /// and who asks.
    pub(crate) fn user(&self) -> Value {
        json!({"tokenFile": self.folder.join("token")})
    }

    /// Whether a header lets in.
    pub(crate) fn allow(&self, authorization: Option<&[u8]>) -> bool {
        authorization == Some(format!("Bearer {TOKEN}").as_bytes())
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("folder", &self.folder).finish_non_exhaustive()
    }
}
