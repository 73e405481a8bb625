//! port-forward: connections to a pod's ports, over SPDY streams or WebSocket channels.
//!
//! Over SPDY, be it raw or tunnelled in a WebSocket, the client opens a pair of streams for each
//! connection: `error`, which we write, and `data`; the header `requestID` says which belong
//! together. Over the older channels there is one connection for each port of the request, on
//! channels 2n (data) and 2n+1 (error), and each begins with the port as 16 bits, little endian.

mod channels;
mod pairs;

use std::future::Future;
use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::StreamError;
use crate::spdy::{Limits, Role, connect};
use crate::upgrade;
use crate::websocket::Tunnel;
use crate::websocket::channels::Codec;

/// What was negotiated for port-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// SPDY in the binary messages of a WebSocket.
    Tunnel,
    /// SPDY.
    Spdy,
    /// Channels of a WebSocket.
    Channels(Codec),
}

impl Protocol {
    /// Whether the request must name its ports.
    #[must_use]
    pub fn needs_ports(self) -> bool {
        matches!(self, Self::Channels(_))
    }
}

impl upgrade::Protocol for Protocol {
    const WEBSOCKET: &'static [(&'static str, Self)] = &[
        ("SPDY/3.1+portforward.k8s.io", Self::Tunnel),
        ("v4.channel.k8s.io", Self::Channels(Codec::Binary)),
        ("v4.base64.channel.k8s.io", Self::Channels(Codec::Base64)),
        ("", Self::Channels(Codec::Binary)),
    ];
    const SPDY: &'static [(&'static str, Self)] =
        &[("portforward.k8s.io", Self::Spdy), ("", Self::Spdy)];
}

/// Reaches a pod's ports.
pub trait Dial: Clone + Send + Sync + 'static {
    /// A connection to a port.
    type Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Connects to a port of the pod.
    fn dial(&self, port: u16) -> impl Future<Output = io::Result<Self::Connection>> + Send;

    /// How the pod is named in messages, as in `pod web-0, uid 2f1c-…`.
    fn target(&self) -> String;
}

/// Runs a session on an upgraded connection, until the client closes it. `ports` are those of
/// the request, which only [`Protocol::Channels`] needs.
///
/// # Errors
/// When the connection fails or the client breaks a rule of its protocol.
pub async fn serve<IO, D>(
    io: IO,
    protocol: Protocol,
    ports: &[u16],
    dial: D,
) -> Result<(), StreamError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    D: Dial,
{
    match protocol {
        Protocol::Spdy => {
            let (connection, driver) = connect(io, Role::Server, Limits::default());
            pairs::serve(connection, driver, dial).await
        }
        Protocol::Tunnel => {
            let tunnel = Tunnel::new(crate::websocket::server(io).await);
            let (connection, driver) = connect(tunnel, Role::Server, Limits::default());
            pairs::serve(connection, driver, dial).await
        }
        Protocol::Channels(codec) => {
            let socket = crate::websocket::server(io).await;
            channels::serve(socket, codec, ports, dial).await
        }
    }
}

/// What the client is told of a connection that failed; `None` when the pod's process merely
/// closed it, which kubectl must not take for the end of all forwarding (#111825, #74551).
fn complaint(port: u16, target: &str, error: &io::Error) -> Option<String> {
    match error.kind() {
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted => None,
        _ => Some(format!("error forwarding port {port} to {target}: {error}")),
    }
}

#[cfg(test)]
mod tests;
