//! Clients of an API server, and what is common to those who watch it.

mod connect;
pub mod informer;

pub use connect::{ConnectError, Source, connect, connect_to, install_crypto};
