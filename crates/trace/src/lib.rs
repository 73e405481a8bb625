//! Says where a packet to a Service would go and why, and what a change would alter.
//!
//! `portolan trace` and `portolan diff`. Objects come from files or from an API server ([`objects`],
//! [`live`]); a node and its proxy's configuration make a [`view::View`] of them; the tables and the
//! verdict are the model's own, and what stands here only explains them. [`explain`] says of every
//! endpoint why it is in or out, and is held to the model's sets by a property.
//!
//! Everything but [`command`], [`live`] and [`kernel`] is pure.

mod answer;
pub mod command;
pub mod diff;
mod error;
pub mod explain;
pub mod kernel;
pub mod live;
pub mod objects;
mod overlooked;
mod printable;
pub mod question;
mod source;
pub mod trace;
pub mod view;

pub use answer::{Answer, Label, Step, VerdictName};
pub use command::{DiffArgs, Printed, TraceArgs};
pub use error::TraceError;
