//! Whole labs, driven through the `portolan` binary: what a user types and what it leaves behind.
//!
//! Every lab has a data directory and an API port of its own, so the tests run side by side, with
//! each other and with any lab of the machine's user. Nothing waits for a fixed time: each wait is
//! for something that can be seen, and has an end.

mod arguments;
mod harness;
mod host;
mod kubectl;
mod life;
mod published;
mod shell;
mod trace;
