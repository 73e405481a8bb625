//! The node agent's HTTPS server, with kubelet's paths: logs, exec, attach, port-forward, pods.
//!
//! Clients need a certificate of the cluster's CA, and of the group `system:masters`: that is the
//! API server, which has already decided whether its own client may do this. Requests are small;
//! what is large is streamed, with backpressure all the way from process to client.
//!
//! ```text
//!   GET  /healthz
//!   GET  /pods
//!   GET  /containerLogs/{namespace}/{pod}/{container}?follow&previous&tailLines…
//!   ANY  /exec/{namespace}/{pod}/{container}?command=…&input&output&error&tty    upgrade
//!   ANY  /attach/{namespace}/{pod}/{container}?input&output&error&tty            upgrade
//!   ANY  /portForward/{namespace}/{pod}?port=…                                   upgrade
//! ```

mod exec;
mod logs;
mod portforward;
mod query;
mod route;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Pod;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{NodeError, NodeOptions, Runtime};

/// How long a client may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long connections may take to end once the agent stops.
const STOPPING: Duration = Duration::from_secs(2);
/// After a failed accept (out of descriptors, mostly) the next is tried this much later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// The pods that this node is to run, as the API server last said, for `/pods`.
pub(crate) type PodSource = Arc<dyn Fn() -> Vec<Pod> + Send + Sync>;

/// What each request needs.
#[derive(Clone)]
struct Context {
    runtime: Runtime,
    pods: PodSource,
    /// Upgraded sessions, which outlive their requests.
    sessions: TaskTracker,
    stop: CancellationToken,
}

/// The server, bound and ready.
pub(crate) struct Server {
    listener: TcpListener,
    tls: TlsAcceptor,
    context: Context,
}

impl Server {
    /// Binds the node's address and reads the certificates.
    ///
    /// # Errors
    /// A certificate that cannot be read or used, or an address that cannot be bound.
    pub(crate) async fn bind(
        options: &NodeOptions,
        runtime: Runtime,
        pods: PodSource,
        stop: CancellationToken,
    ) -> Result<Server, NodeError> {
        let tls = tls::acceptor(options)?;
        let listener = TcpListener::bind((options.node_ips.primary(), options.port))
            .await
            .map_err(|source| NodeError::System { what: "bind the agent's address", source })?;
        let context = Context { runtime, pods, sessions: TaskTracker::new(), stop };
        Ok(Server { listener, tls, context })
    }

    /// Serves until told to stop; then ends every connection and session.
    pub(crate) async fn run(self) {
        let connections = TaskTracker::new();
        let stop = self.context.stop.clone();
        while let Some(accepted) = stop.run_until_cancelled(self.listener.accept()).await {
            match accepted {
                Ok((stream, _)) => {
                    let (tls, context) = (self.tls.clone(), self.context.clone());
                    connections.spawn(connection(stream, tls, context));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept on the agent's address");
                    stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await;
                }
            }
        }
        for tasks in [connections, self.context.sessions] {
            tasks.close();
            // Whoever does not hear the stop in time is dropped with the runtime.
            let _ = tokio::time::timeout(STOPPING, tasks.wait()).await;
        }
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, context: Context) {
    let stop = context.stop.clone();
    let serving = async {
        stream.set_nodelay(true)?;
        let stream = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await??;
        let client = tls::client(stream.get_ref().1);
        let service = service_fn(move |request| {
            let (context, client) = (context.clone(), client.clone());
            async move { Ok::<_, std::convert::Infallible>(route::answer(context, client, request)) }
        });
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await
            .map_err(std::io::Error::other)
    };
    if let Some(Err(error)) = stop.run_until_cancelled(serving).await {
        tracing::debug!(%error, "connection to the agent");
    }
}

#[cfg(test)]
mod tests;
