//! The crate's one error type.

use std::path::PathBuf;

/// Why the node agent, or a part of it, could not go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The agent's own environment is wrong: a path, a certificate, a kubeconfig.
    #[error("{what} {path}: {source}", path = path.display())]
    File {
        /// What was being done with the file.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The API server's client cannot be made.
    #[error(transparent)]
    Connect(#[from] portolan_client::ConnectError),
    /// The node's network cannot be set up.
    #[error("the node's network: {0}")]
    Network(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<crate::network::NetworkError> for NodeError {
    fn from(error: crate::network::NetworkError) -> NodeError {
        NodeError::Network(Box::new(error))
    }
}
