//! DNS for a cluster: the names of its Services and pods, and everything else by forwarding.
//!
//! ```text
//!   Service, EndpointSlice,        ┌── zone (pure) ── answer (pure) ──┐
//!   Pod, Namespace    ──watch──▶   │   index, snapshot   names        │──▶ UDP, TCP
//!   Corefile, flags   ──reload─▶   └── cache ◀── forward ◀── upstreams┘
//! ```

pub mod answer;
pub mod cache;
pub mod corefile;
mod duration;
pub mod engine;
pub mod forward;
pub mod metrics;
mod random;
pub mod wire;
pub mod zone;
