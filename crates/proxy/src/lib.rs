//! Watches Services and EndpointSlices and keeps a node's rules equal to the model.
//!
//! The flags, the configuration and the pages are kube-proxy's; what decides about packets is in
//! the model, and what writes rules is a backend. [`daemon`] is the loop between them.

mod addresses;
mod args;
mod cleaner;
pub mod config;
pub mod convert;
mod daemon;
mod events;
pub mod health;
mod health_checks;
pub mod http;
mod kernel;
mod log;
pub mod metrics;
mod run;
pub mod stale;
pub mod sync;
mod sysctls;
pub mod tally;
mod watch_file;
pub mod zpages;

pub use args::{Args, Options};
pub use kernel::ModeError;
pub use run::{ProxyError, run, run_with};
