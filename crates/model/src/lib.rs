//! Services, EndpointSlices and Nodes as one forwarding table, its changes, and the walk of a packet.
//!
//! Everything here is pure: no clock, no I/O, no async. The owner of the watches feeds [`Event`]s to a
//! [`Model`] (one for each address family), takes the [`Delta`] since the last [`Model::flush`], and
//! hands both the table and the delta to a [`Backend`]. A backend never sees a Service.
//!
//! Invariants: the table depends only on the objects, not on the order in which they came; the delta,
//! applied to the table before, gives the table after; a change costs work in proportion to the
//! services it touches, never to the table.

mod backend;
mod claims;
mod delta;
mod endpoints;
mod engine;
mod few;
mod input;
mod name;
mod profile;
mod service;
mod table;
mod walk;

pub use backend::{Applied, Backend, Drift, RuleCount};
pub use delta::{Change, Delta};
pub use engine::Model;
pub use input::{
    Conditions, Config, Endpoint, EndpointPort, EndpointSlice, Event, Hints, IpMode,
    LoadBalancerIngress, LocalDetector, LocalhostNodePorts, MasqueradeAll, Node, NodePortAddresses,
    Service, ServicePort, SessionAffinity, SourceRangesHold, TrafficPolicy,
};
pub use name::{Family, NamespacedName, NodePort, Protocol, ServicePortName};
pub use profile::{
    InvalidPackets, ModeProfile, ServiceAddresses, ShortCircuit, UnallocatedClusterIp,
    UndefinedPort,
};
pub use table::{
    Action, EndpointSet, ForwardingTable, Front, FrontKey, HealthCheck, Location, Masquerade,
    MasqueradeReason, Origin, OwnAddress, PerSource, Scope, Selection, SetId, Settings, Slots,
    SourceClass, SourceRanges, Target, Topology,
};
pub use walk::{Arrival, Choice, Packet, Reason, Transport, Verdict, walk};
