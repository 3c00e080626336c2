//! Whom to trust over HTTP.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::Access;

#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("the CA certificates can't be read: {0}")]
    Ca(String),
    #[error("the client's certificate or key can't be used: {0}")]
    Identity(String),
    #[error("the system's certificates can't be read: {0}")]
    System(String),
}

pub(super) fn config(access: &Access) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Identity(error.to_string()))?;
    let builder = match &access.ca {
        None => builder.with_root_certificates(system_roots()?),
        Some(pem) => builder.with_root_certificates(roots(pem)?),
    };
    let config = match &access.identity {
        None => builder.with_no_client_auth(),
        Some((certificates, key)) => {
            let wrong = |error: String| TlsError::Identity(error);
            let chain = CertificateDer::pem_slice_iter(certificates)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| wrong(error.to_string()))?;
            let key =
                PrivateKeyDer::from_pem_slice(key).map_err(|error| wrong(error.to_string()))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| wrong(error.to_string()))?
        }
    };
    Ok(Arc::new(config))
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    match found.errors.into_iter().next() {
        Some(error) if roots.is_empty() => Err(TlsError::System(error.to_string())),
        _ => Ok(roots),
    }
}

fn roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let wrong = |error: String| TlsError::Ca(error);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() { Err(wrong("there is none in the file".to_owned())) } else { Ok(roots) }
}
