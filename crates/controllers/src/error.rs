//! What can go wrong while controllers run.
//!
//! A failed reconciliation is retried by its queue and never ends `run`; what ends `run` is only
//! what no retry can mend.

/// An error of a controller.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The API server refused or failed a request; the queue tries again.
    #[error("API request failed")]
    Api(#[from] kube::Error),
    /// The configuration cannot work; a user's mistake.
    #[error("bad configuration: {0}")]
    Config(String),
    /// An object that the API server accepted cannot be acted upon; a user's mistake or our bug.
    #[error("{kind} {namespace}/{name}: {problem}")]
    Object {
        /// The object's kind.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A task of ours panicked or was aborted; our bug.
    #[error("controller task failed")]
    Task(#[from] tokio::task::JoinError),
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
