//! What can stop the server from starting or serving. Errors of single requests are Statuses and never come here.

use std::path::PathBuf;

/// A failure of the server itself, as opposed to one request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the certificate directory could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate or key could not be made or parsed.
    #[error("certificate authority: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS refused the key material.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// PEM in the certificate directory does not parse.
    #[error("PEM: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// The store refused a write that the server needs to start.
    #[error("store: {0}")]
    Store(String),
    /// The configuration contradicts itself.
    #[error("configuration: {0}")]
    Config(String),
    /// A listener failed.
    #[error("listener: {0}")]
    Listen(#[from] std::io::Error),
}
