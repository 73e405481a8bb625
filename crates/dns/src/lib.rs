//! DNS for a cluster: the names of its Services and pods, and everything else by forwarding.
//!
//! ```text
//!   Service, EndpointSlice,        ┌── zone (pure) ── answer (pure) ──┐
//!   Pod, Namespace    ──watch──▶   │   index, snapshot   names        │──▶ UDP, TCP
//!   Corefile, flags   ──reload─▶   └── cache ◀── forward ◀── upstreams┘
//! ```
//!
//! What decides is pure: [`zone`], [`answer`], [`corefile`], and [`cache`] with its times as
//! arguments. [`engine`] puts them together, [`server`] has the sockets, [`run()`] the process.

pub mod answer;
mod args;
pub mod cache;
pub mod convert;
pub mod corefile;
mod duration;
pub mod engine;
mod feed;
pub mod forward;
pub mod loops;
pub mod metrics;
pub mod pages;
mod random;
mod run;
pub mod server;
pub mod wire;
pub mod zone;

pub use args::{Args, with_two_dashes};
pub use run::{DnsError, run, run_until};
