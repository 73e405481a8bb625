//! The API server as its clients see it: in this process, over TLS, and through kubectl.

#![expect(clippy::unwrap_used, reason = "a failing helper fails its test")]
#![expect(clippy::print_stdout, reason = "skipped tests say so")]

mod access;
mod apply;
mod bad_input;
mod cases;
mod clients;
mod delete;
mod documents;
mod field_validation;
mod kinds;
mod kubectl;
mod limits;
mod lists;
mod nodes;
mod objects;
mod service_cidrs;
mod services;
mod support;
mod tls;
mod watch;
