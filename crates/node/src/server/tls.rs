//! Who may talk to the agent: clients with a certificate of the cluster's CA, and among those
//! the API server.

use std::path::Path;
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{NodeError, NodeOptions};

/// The group that may do everything, which the API server's certificate carries.
const MASTERS: &str = "system:masters";

/// A client, by its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// One that may do everything here.
    Master,
    /// Another user of the cluster, by its common name.
    Other(String),
}

/// Accepts TLS as the options' certificates say.
pub(super) fn acceptor(options: &NodeOptions) -> Result<TlsAcceptor, NodeError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&options.client_ca)? {
        roots.add(certificate).map_err(|error| unusable(&options.client_ca, error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        .build()
        .map_err(|error| unusable(&options.client_ca, error))?;
    let chain = certificates(&options.serving_cert)?;
    let key = PrivateKeyDer::from_pem_file(&options.serving_key)
        .map_err(|error| unusable(&options.serving_key, error))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder.with_client_cert_verifier(verifier).with_single_cert(chain, key)
        })
        .map_err(|error| unusable(&options.serving_cert, error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Whom the handshake has shown the client to be.
pub(super) fn client(connection: &ServerConnection) -> Client {
    let leaf = connection.peer_certificates().and_then(|chain| chain.first());
    // The verifier has parsed it already, and let no client in without one.
    leaf.and_then(|leaf| named(leaf)).unwrap_or_else(|| Client::Other(String::new()))
}

fn named(certificate: &CertificateDer<'_>) -> Option<Client> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    if subject.iter_organization().any(|name| name.as_str() == Ok(MASTERS)) {
        return Some(Client::Master);
    }
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    Some(Client::Other(name.to_owned()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, NodeError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(path, error))
}

fn unusable(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> NodeError {
    let source = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
    NodeError::File { what: "use the certificate or key", path: path.to_owned(), source }
}
