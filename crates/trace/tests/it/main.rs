//! `portolan trace` and `portolan diff` on files, against an API server in this process, and held to
//! the model by properties.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "skipped tests say so")]

mod ask;
mod diff;
mod golden;
mod kernel;
mod live;
mod plans;
mod properties;
mod random;
