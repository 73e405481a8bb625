//! What the index is fed: the parts of objects that names depend on.

use std::net::IpAddr;
use std::sync::Arc;

use crate::wire::Name;

pub use portolan_model::NamespacedName as Key;

/// What happened to an object; without one, it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A Service.
    Service(Key, Option<Service>),
    /// An EndpointSlice.
    EndpointSlice(Key, Option<EndpointSlice>),
    /// The addresses of a pod that runs, for verified pod records.
    Pod(Key, Option<Vec<IpAddr>>),
    /// A Namespace that is there.
    Namespace(Arc<str>),
    /// A Namespace that is gone.
    NamespaceGone(Arc<str>),
}

/// A protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The label in names of SRV records, without its underscore.
    #[must_use]
    pub fn label(self) -> &'static [u8] {
        match self {
            Self::Tcp => b"tcp",
            Self::Udp => b"udp",
            Self::Sctp => b"sctp",
        }
    }
}

/// A port of a Service or of endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Port {
    /// Its name, empty for none.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// What a Service's name leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Its cluster IPs; none as long as none are allocated.
    ClusterIp(Box<[IpAddr]>),
    /// Its endpoints.
    Headless,
    /// Another name.
    ExternalName(Name),
    /// Nothing: an external name that cannot be one.
    Nothing,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What its name leads to.
    pub kind: Kind,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// An EndpointSlice of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The name of the Service, in the slice's namespace.
    pub service: Arc<str>,
    /// The ports of each endpoint.
    pub ports: Vec<Port>,
    /// The endpoints that are ready; with publishNotReadyAddresses, all are.
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its name under the Service's.
    pub hostname: Option<Arc<str>>,
    /// The pod that it is.
    pub pod: Option<Arc<str>>,
}
