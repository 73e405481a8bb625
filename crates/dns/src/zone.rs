//! What a cluster's names are: Services, EndpointSlices, pods and Namespaces as an index for lookups.
//!
//! An [`Index`] takes [`Event`]s and publishes a [`Snapshot`]; whoever answers looks into the latest
//! snapshot and never waits. A snapshot does not change. The next one shares with it everything
//! that no event touched, so an update costs work in proportion to the objects in it.
//!
//! Everything here is pure: no clock, no I/O, no async.
//!
//! Invariants: a snapshot depends on the objects only, not on the order of the events; names are
//! looked up in lower case, as Kubernetes keeps them.
//!
//! Upstream rule: coredns plugin/kubernetes/controller.go and object/*.go.

mod index;
mod input;
mod service;
mod snapshot;
mod trie;

pub use index::{Index, Options};
pub use input::{Endpoint, EndpointSlice, Event, Key, Kind, Port, Protocol, Service};
pub use service::{EndpointName, ServiceEntry, Slice};
pub(crate) use service::{pod_ip, undashed};
pub use snapshot::{Loaded, Snapshot};
