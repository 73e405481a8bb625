//! A pod on this node: its worker, and the pure parts that decide for it.
//!
//! ```text
//!  Pod object ─┐                          ┌─▶ record::todo   what to start, stop
//!  shim events ├─▶ worker (owns records) ─┼─▶ status::status what the API is told
//!  probes      ┘                          └─▶ env, volumes, hosts: what a container gets
//! ```

pub(crate) mod action;
pub(crate) mod atomic;
pub(crate) mod backoff;
pub(crate) mod env;
pub(crate) mod expand;
pub(crate) mod fields;
pub(crate) mod hosts;
pub(crate) mod launch;
pub(crate) mod payload;
pub(crate) mod probe;
pub(crate) mod quantity;
pub(crate) mod record;
pub(crate) mod status;
pub(crate) mod tokens;
pub(crate) mod volumes;
pub(crate) mod worker;
