//! Whole questions and answers, over the crate's public face.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;
mod daemon;
mod hostile;
mod server;
