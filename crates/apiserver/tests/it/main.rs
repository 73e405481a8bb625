//! The API server as its clients see it: in this process, over TLS, and through kubectl.

#![expect(clippy::unwrap_used, reason = "a failing helper fails its test")]
#![expect(clippy::print_stdout, reason = "skipped tests say so")]

mod access;
mod bad_input;
mod delete;
mod kubectl;
mod nodes;
mod objects;
mod services;
mod support;
mod tls;
mod watch;
