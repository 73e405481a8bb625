//! What keeps a question from being answered.

use std::path::PathBuf;

use portolan_backend_nftables::NftablesError;
use portolan_client::ConnectError;
use portolan_model::Family;
use portolan_proxy::config::SettingsError;
use portolan_proxy::config::load::LoadError;
use thiserror::Error;

/// Why there is no answer. Every one of them is the asker's to mend, but for a server or a kernel
/// that refuses.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TraceError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is neither YAML nor JSON, or an object has a field of a wrong type.
    #[error("{}: {reason}", path.display())]
    Objects {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The proxy's configuration is none.
    #[error("{origin}: {source}")]
    Configuration {
        /// Where it came from.
        origin: String,
        /// Why.
        source: LoadError,
    },
    /// Settings that cannot be.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Settings(Vec<SettingsError>),
    /// An argument that cannot be understood.
    #[error("{argument} {value:?}: {reason}")]
    Argument {
        /// Which argument.
        argument: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An object that is not there.
    #[error("there is no {kind} {name}; hint: {hint}")]
    NotFound {
        /// Its kind.
        kind: &'static str,
        /// Its name, with the namespace if it has one.
        name: String,
        /// What to do.
        hint: &'static str,
    },
    /// Which node's rules are asked about is not clear.
    #[error("the rules of which node? hint: --node NAME, one of {}", .0.join(", "))]
    WhichNode(Vec<String>),
    /// Which port of a Service is asked about is not clear.
    #[error("which port of Service {service}? hint: svc/{service}:PORT, one of {}", ports.join(", "))]
    WhichPort {
        /// The Service.
        service: String,
        /// Its ports.
        ports: Vec<String>,
    },
    /// Source and destination have no address family in common.
    #[error("{what} has no {family} address")]
    NoAddress {
        /// Who.
        what: String,
        /// Of which family.
        family: Family,
    },
    /// No client.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The API server refuses or cannot be reached.
    #[error("cannot list {what}: {source}; hint: with -f, objects are read from files instead")]
    List {
        /// What was listed.
        what: &'static str,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// The kernel of this mode cannot be compared with.
    #[error(
        "--kernel: mode {0} cannot be compared with a kernel yet; hint: --proxy-mode iptables or nftables"
    )]
    KernelMode(&'static str),
    /// The kernel does not let its rules be read.
    #[error(
        "--kernel: {0}; hint: run it as root in the node's network namespace (nsenter, `portolan shell --node`)"
    )]
    Kernel(Box<dyn std::error::Error + Send + Sync>),
}

impl TraceError {
    /// Whether the command line is at fault.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Argument { .. } | Self::WhichNode(_) | Self::WhichPort { .. })
    }

    pub(crate) fn argument(
        argument: &'static str,
        value: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self::Argument { argument, value: value.into(), reason: reason.into() }
    }
}

impl From<NftablesError> for TraceError {
    fn from(error: NftablesError) -> Self {
        Self::Kernel(Box::new(error))
    }
}
