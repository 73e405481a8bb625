//! WebSocket channels and SPDY/3.1 frames of exec, attach and port-forward.
//!
//! kubectl and its relatives talk to a container over one of several upgraded connections:
//!
//! | client | transport | inside |
//! |---|---|---|
//! | kubectl ≥ 1.31 exec, attach | WebSocket `v5.channel.k8s.io` | channels, with CLOSE for half close |
//! | kube-rs, Python and others | WebSocket `v4.channel.k8s.io` and base64 variants | channels |
//! | kubectl ≥ 1.31 port-forward | WebSocket `SPDY/3.1+portforward.k8s.io` | SPDY frames in binary messages |
//! | older kubectl | `Upgrade: SPDY/3.1` | SPDY frames |
//!
//! [`upgrade`] reads the request's headers and chooses; [`remotecommand::serve`] and
//! [`portforward::serve`] then run the session, and hide from their callers which one it was.
//! Everything a peer can make us hold is bounded: frames, inflated headers, streams, buffers.
//! Where a consumer is slow the connection is read no further, so that the peer feels it.

mod error;
pub mod portforward;
pub mod remotecommand;
pub mod spdy;
pub mod status;
pub mod upgrade;
pub mod websocket;

pub use error::StreamError;
pub use status::ExitStatus;
