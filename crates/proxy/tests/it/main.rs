//! The proxy against the embedded API server, each test in an anonymous network namespace of its
//! own: what is written to the API is what the kernel does with packets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "skipped tests say so")]

mod apiserver;
mod fixture;
mod mirrored;
mod modes;
mod pages;
mod rights;
mod rules;
mod udp;
mod vm;
