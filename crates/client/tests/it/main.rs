//! The informer against API streams of every odd kind.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod streams;
