//! How to reach an API server.
//!
//! TLS is rustls with the ring provider, which is made the process's default once, whoever asks
//! first. Requests have a connect timeout; watches are bounded by the informer, not here.

use std::path::PathBuf;
use std::sync::Once;
use std::time::Duration;

use kube::config::{
    InClusterError, InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError,
};
use thiserror::Error;

/// How long a TCP connection and TLS handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request's body may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the address and credentials of the API server come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Source {
    /// A kubeconfig file; its current context counts.
    Kubeconfig(PathBuf),
    /// A context of a kubeconfig.
    Context {
        /// The file; none: `$KUBECONFIG` or `~/.kube/config`.
        path: Option<PathBuf>,
        /// The context's name.
        context: String,
    },
    /// The service account of the pod that this process runs in.
    InCluster,
    /// `$KUBECONFIG`, `~/.kube/config`, or the service account, the first that is there.
    #[default]
    Default,
}

/// Why there is no client.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A kubeconfig file that cannot be used.
    #[error("cannot use the kubeconfig {}: {source}; hint: `kubectl --kubeconfig {} config view` shows what it says", path.display(), path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KubeconfigError,
    },
    /// A context that the default kubeconfig does not have.
    #[error(
        "cannot use the kubeconfig: {0}; hint: `kubectl config get-contexts` lists its contexts"
    )]
    Context(#[source] KubeconfigError),
    /// No service account.
    #[error("cannot use the pod's service account: {0}; hint: outside a cluster name a kubeconfig")]
    InCluster(#[source] InClusterError),
    /// Neither a kubeconfig nor a service account.
    #[error("no API server is known: {0}; hint: set KUBECONFIG, or name a kubeconfig")]
    Default(#[source] InferConfigError),
    /// A server's address that is none.
    #[error("{0:?} is not the URL of an API server: {1}")]
    Url(String, #[source] http::uri::InvalidUri),
    /// Credentials or certificates that cannot be used.
    #[error("cannot make a client for {url}: {source}")]
    Client {
        /// The API server.
        url: String,
        /// What went wrong.
        source: kube::Error,
    },
}

/// Makes rustls use ring for whatever names no provider; once, and never again.
pub fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Somebody else's choice, made before, stands.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// Makes a client. Nothing is sent yet, so a server that is away is no error here.
///
/// # Errors
/// When the source is unusable; every message says what to do.
pub async fn connect(source: Source) -> Result<kube::Client, ConnectError> {
    connect_to(source, None).await
}

/// As [`connect`], with another address of the API server than the source names.
///
/// # Errors
/// As [`connect`], and when the address is no URL.
pub async fn connect_to(
    source: Source,
    server: Option<&str>,
) -> Result<kube::Client, ConnectError> {
    install_crypto();
    let mut config = match source {
        Source::Kubeconfig(path) => from_file(path, &KubeConfigOptions::default()).await?,
        Source::Context { path: Some(path), context } => from_file(path, &options(context)).await?,
        Source::Context { path: None, context } => {
            kube::Config::from_kubeconfig(&options(context)).await.map_err(ConnectError::Context)?
        }
        Source::InCluster => kube::Config::incluster().map_err(ConnectError::InCluster)?,
        Source::Default => kube::Config::infer().await.map_err(ConnectError::Default)?,
    };
    if let Some(server) = server {
        config.cluster_url = server.parse().map_err(|e| ConnectError::Url(server.to_owned(), e))?;
    }
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.write_timeout = Some(WRITE_TIMEOUT);
    let url = config.cluster_url.to_string();
    kube::Client::try_from(config).map_err(|source| ConnectError::Client { url, source })
}

fn options(context: String) -> KubeConfigOptions {
    KubeConfigOptions { context: Some(context), ..KubeConfigOptions::default() }
}

async fn from_file(
    path: PathBuf,
    options: &KubeConfigOptions,
) -> Result<kube::Config, ConnectError> {
    let read = async {
        let kubeconfig = Kubeconfig::read_from(&path)?;
        kube::Config::from_custom_kubeconfig(kubeconfig, options).await
    };
    read.await.map_err(|source| ConnectError::Kubeconfig { path: path.clone(), source })
}
