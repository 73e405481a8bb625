//! `/portForward`: connections to the pod's ports, made within its network namespace.

use std::io;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use portolan_stream::portforward::{Dial, Protocol, serve};
use portolan_stream::upgrade::negotiate;
use tokio::net::TcpStream;

use super::query::{BadQuery, Query};
use super::route::{Refusal, refuse_upgrade, switching};
use super::{Body, Context};
use crate::runtime::RuntimeError;
use crate::{PodKey, Runtime};

#[derive(Clone)]
struct PodPorts {
    runtime: Runtime,
    pod: PodKey,
}

impl Dial for PodPorts {
    type Connection = TcpStream;

    async fn dial(&self, port: u16) -> io::Result<TcpStream> {
        let connected = self.runtime.connect(&self.pod, port).await;
        let stream = connected.map_err(|error| {
            let kind = match &error {
                RuntimeError::Io { source, .. } => source.kind(),
                _ => io::ErrorKind::NotFound,
            };
            io::Error::new(
                kind,
                format!("failed to connect to localhost:{port} inside the pod: {error}"),
            )
        })?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn target(&self) -> String {
        format!("pod {}/{}", self.pod.namespace, self.pod.name)
    }
}

pub(super) fn answer(
    context: Context,
    pod: PodKey,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    context.runtime.containers(&pod)?;
    let accepted = match negotiate::<Protocol>(request.headers()) {
        Ok(accepted) => accepted,
        Err(refused) => return Ok(refuse_upgrade(refused)),
    };
    let protocol = accepted.protocol;
    let ports = if protocol.needs_ports() { ports(query)? } else { Vec::new() };
    let dial = PodPorts { runtime: context.runtime, pod };
    let stop = context.stop;
    context.sessions.spawn(async move {
        let session = async {
            let io = hyper::upgrade::on(request).await.map_err(io::Error::other)?;
            serve(TokioIo::new(io), protocol, &ports, dial).await
        };
        if let Some(Err(error)) = stop.run_until_cancelled(session).await {
            tracing::debug!(%error, "port-forward");
        }
    });
    Ok(switching(accepted.response))
}

/// The ports of a request over channels, as kubelet reads them: repeated, or with commas.
fn ports(query: &Query) -> Result<Vec<u16>, BadQuery> {
    let mut ports = Vec::new();
    for text in query.all("port").chain(query.all("ports")).flat_map(|list| list.split(',')) {
        match text.parse() {
            Ok(0) => return Err(BadQuery(format!("port {text:?} must be > 0"))),
            Ok(port) => ports.push(port),
            Err(_) => return Err(BadQuery(format!("unable to parse {text:?} as a port"))),
        }
    }
    // Two channels for each port, and channels are numbered by one byte.
    match ports.len() {
        0 => Err(BadQuery("query parameter \"port\" is required".to_owned())),
        1..=127 => Ok(ports),
        _ => Err(BadQuery("too many ports in one request".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_repeated_or_with_commas() {
        assert_eq!(ports(&Query::parse("ports=80,443&ports=8080")), Ok(vec![80, 443, 8080]));
        assert_eq!(ports(&Query::parse("port=80")), Ok(vec![80]));
    }

    #[test]
    fn ports_that_are_none_are_refused() {
        for query in ["", "ports=0", "ports=65536", "ports=http", "ports=80,"] {
            assert!(ports(&Query::parse(query)).is_err(), "{query}");
        }
    }
}
