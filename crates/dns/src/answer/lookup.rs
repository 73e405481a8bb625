//! What a name in the zone stands for.
//!
//! ```text
//!   port.protocol.service.namespace.svc.ZONE      endpoint.service.namespace.svc.ZONE
//!   service.namespace.svc.ZONE                    ip-with-dashes.namespace.pod.ZONE
//! ```
//!
//! Upstream rule: coredns plugin/kubernetes/parse.go `parseRequest`, kubernetes.go `findServices`,
//! `findPods`.

use std::net::IpAddr;

use super::authority::{Authority, PodMode};
use super::query::Query;
use super::shuffle::Shuffle;
use super::{MOST_ALIASES, nameserver};
use crate::wire::{Labels, Name, rtype};
use crate::zone::{EndpointName, Kind, Port, ServiceEntry, Slice, Snapshot, pod_ip, undashed};

/// The name does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Missing;

/// What a name leads to.
pub(super) enum Found {
    /// Addresses of the family asked for; none when the name has only others, or none.
    Addresses(Vec<IpAddr>),
    /// Another name.
    Alias(Name),
}

/// One target of SRV records.
pub(super) struct Item<'a> {
    /// The Service.
    pub(super) service: &'a ServiceEntry,
    /// The endpoint's name under it; none for the Service itself.
    pub(super) endpoint: Option<EndpointName<'a>>,
    /// An address of the target.
    pub(super) ip: IpAddr,
    /// The port; none for an endpoint without.
    pub(super) port: Option<u16>,
}

/// What the labels of a name say. Empty means any.
#[derive(Default)]
struct Request<'q> {
    port: &'q [u8],
    protocol: &'q [u8],
    endpoint: &'q [u8],
}

/// A name within a zone.
pub(super) struct Place<'a> {
    lower: &'a [u8],
    zone_at: usize,
    snapshot: &'a Snapshot,
    authority: &'a Authority,
}

/// What kind of name it is.
enum Shape<'a> {
    /// The zone itself, or one of the names between it and the namespaces.
    Between,
    /// The zone's name server.
    NameServer,
    /// A namespace, below `svc` or `pod`.
    Namespace(&'a [u8], Branch),
    /// A Service, an endpoint or a port of it.
    Service(&'a [u8], &'a [u8], Request<'a>),
    /// A pod.
    Pod(&'a [u8], &'a [u8]),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Branch {
    Svc,
    Pod,
}

impl<'a> Place<'a> {
    /// A name in lower case, in the zone that begins at `zone_at`.
    pub(super) fn new(
        lower: &'a [u8],
        zone_at: usize,
        snapshot: &'a Snapshot,
        authority: &'a Authority,
    ) -> Self {
        Self { lower, zone_at, snapshot, authority }
    }

    /// The labels before the zone.
    fn labels(&self) -> Labels<'a> {
        Labels(&self.lower[..self.zone_at])
    }

    /// Whether this is the name of the specification's version.
    pub(super) fn is_schema_version(&self) -> bool {
        self.labels().eq([b"dns-version".as_slice()])
    }

    fn shape(&self) -> Result<Shape<'a>, Missing> {
        let mut labels = [&[] as &[u8]; 5];
        let mut count = 0;
        for label in self.labels() {
            *labels.get_mut(count).ok_or(Missing)? = label;
            count += 1;
        }
        let labels = &labels[..count];
        let branch = match labels {
            [] | [b"dns"] => return Ok(Shape::Between),
            [b"ns", b"dns"] => return Ok(Shape::NameServer),
            [.., b"svc"] => Branch::Svc,
            [.., b"pod"] => Branch::Pod,
            _ => return Err(Missing),
        };
        Ok(match (&labels[..count - 1], branch) {
            ([], _) => Shape::Between,
            ([namespace], branch) => Shape::Namespace(namespace, branch),
            ([.., pod, namespace], Branch::Pod) => Shape::Pod(namespace, pod),
            ([service, namespace], _) => Shape::Service(namespace, service, Request::default()),
            ([endpoint, service, namespace], _) => {
                let request = Request { endpoint, ..Request::default() };
                Shape::Service(namespace, service, request)
            }
            ([port, protocol, service, namespace], _) => {
                let bare = |label: &'a [u8]| label.strip_prefix(b"_").unwrap_or(label);
                let request =
                    Request { port: bare(port), protocol: bare(protocol), ..Request::default() };
                Shape::Service(namespace, service, request)
            }
            _ => return Err(Missing),
        })
    }

    fn check_namespace(&self, namespace: &[u8]) -> Result<(), Missing> {
        let is_there = self.authority.exposes(namespace) && self.snapshot.has_namespace(namespace);
        is_there.then_some(()).ok_or(Missing)
    }

    /// Whether the name exists at all.
    pub(super) fn exists(&self) -> Result<(), Missing> {
        self.addresses(rtype::A).map(|_| ())
    }

    /// The addresses of the name, or its alias.
    pub(super) fn addresses(&self, qtype: u16) -> Result<Found, Missing> {
        let is_wanted = |ip: &IpAddr| ip.is_ipv4() == (qtype == rtype::A);
        match self.shape()? {
            Shape::Between => Ok(Found::Addresses(Vec::new())),
            Shape::NameServer => {
                let zone = &self.lower[self.zone_at..];
                let mut ips = nameserver::addresses(zone, self.snapshot, self.authority);
                ips.retain(is_wanted);
                Ok(Found::Addresses(ips))
            }
            Shape::Namespace(namespace, branch) => {
                self.check_namespace(namespace)?;
                if branch == Branch::Pod && self.authority.pods == PodMode::Disabled {
                    return Err(Missing);
                }
                Ok(Found::Addresses(Vec::new()))
            }
            Shape::Pod(namespace, pod) => {
                self.check_namespace(namespace)?;
                let ip = pod_ip(pod).ok_or(Missing)?;
                let is_there = match self.authority.pods {
                    PodMode::Disabled => false,
                    PodMode::Insecure => true,
                    PodMode::Verified => self.snapshot.has_pod(namespace, ip),
                };
                let ips = [ip].into_iter().filter(is_wanted).collect();
                is_there.then_some(Found::Addresses(ips)).ok_or(Missing)
            }
            Shape::Service(namespace, name, request) => {
                self.check_namespace(namespace)?;
                let entry = self.snapshot.service(namespace, name).ok_or(Missing)?;
                let service = self.service(entry)?;
                if let Kind::ExternalName(target) = &service.kind {
                    let is_whole = request.endpoint.is_empty();
                    return is_whole.then(|| Found::Alias(target.clone())).ok_or(Missing);
                }
                self.service_addresses(entry, service, &request, is_wanted).map(Found::Addresses)
            }
        }
    }

    /// What an entry is, when it has a name.
    fn service<'e>(&self, entry: &'e ServiceEntry) -> Result<&'e crate::zone::Service, Missing> {
        let service = entry.service.as_deref().ok_or(Missing)?;
        match service.kind {
            Kind::Nothing => Err(Missing),
            Kind::ClusterIp(_) if self.authority.ignore_empty_service && !entry.has_endpoints() => {
                Err(Missing)
            }
            _ => Ok(service),
        }
    }

    fn service_addresses(
        &self,
        entry: &ServiceEntry,
        service: &crate::zone::Service,
        request: &Request<'_>,
        is_wanted: impl Fn(&IpAddr) -> bool,
    ) -> Result<Vec<IpAddr>, Missing> {
        if let (Kind::ClusterIp(ips), true) = (&service.kind, request.endpoint.is_empty()) {
            if !has_port(&service.ports, request) {
                return Err(Missing);
            }
            return Ok(ips.iter().copied().filter(is_wanted).collect());
        }
        let (mut is_there, mut ips) = (false, Vec::new());
        for slice in entry.slices() {
            if !has_port(&slice.ports, request) {
                continue;
            }
            let mut take = |ip: IpAddr| {
                is_there = true;
                if is_wanted(&ip) {
                    ips.push(ip);
                }
            };
            match called(slice, request) {
                Some(some) => some.for_each(|(_, ip)| take(ip)),
                None => slice.addresses().for_each(take),
            }
        }
        if !is_there {
            return between(service, entry, request).map(|()| Vec::new());
        }
        // Names of the same address, and slices while endpoints move from one to another.
        ips.sort_unstable();
        ips.dedup();
        Ok(ips)
    }

    /// The targets of SRV records: empty when the name exists without any.
    pub(super) fn endpoints(&self) -> Result<Vec<Item<'a>>, Missing> {
        let Shape::Service(namespace, name, request) = self.shape()? else {
            return self.exists().map(|()| Vec::new());
        };
        self.check_namespace(namespace)?;
        let entry = self.snapshot.service(namespace, name).ok_or(Missing)?;
        let service = self.service(entry)?;
        let mut items = Vec::new();
        match &service.kind {
            Kind::ExternalName(_) => return self.exists().map(|()| Vec::new()),
            Kind::ClusterIp(ips) if request.endpoint.is_empty() => {
                if !has_port(&service.ports, &request) {
                    return Err(Missing);
                }
                for port in ports(&service.ports, &request) {
                    let item = |ip: &IpAddr| Item { service: entry, endpoint: None, ip: *ip, port };
                    items.extend(ips.iter().map(item));
                }
            }
            _ => {
                for slice in entry.slices() {
                    let mut take = |(name, ip): (EndpointName<'a>, IpAddr)| {
                        let item = |port| Item { service: entry, endpoint: Some(name), ip, port };
                        items.extend(ports(&slice.ports, &request).map(item));
                    };
                    match called(slice, &request) {
                        Some(some) => some.for_each(&mut take),
                        None => slice.endpoints().for_each(&mut take),
                    }
                }
                if items.is_empty() {
                    return between(service, entry, &request).map(|()| Vec::new());
                }
            }
        }
        Ok(items)
    }
}

/// A name that does not exist itself, but names under it do: `_tcp.service…`.
fn between(
    service: &crate::zone::Service,
    entry: &ServiceEntry,
    request: &Request<'_>,
) -> Result<(), Missing> {
    let protocol = request.endpoint.strip_prefix(b"_").ok_or(Missing)?;
    let has = |ports: &[Port]| {
        ports.iter().any(|port| !port.name.is_empty() && port.protocol.label() == protocol)
    };
    let is_there = match service.kind {
        Kind::Headless => entry.slices().any(|slice| !slice.is_empty() && has(&slice.ports)),
        _ => has(&service.ports),
    };
    is_there.then_some(()).ok_or(Missing)
}

/// The endpoints of a slice that are called as asked; none when all are asked for.
fn called<'a>(
    slice: &'a Slice,
    request: &Request<'_>,
) -> Option<impl Iterator<Item = (EndpointName<'a>, IpAddr)>> {
    if request.endpoint.is_empty() {
        return None;
    }
    let label = std::str::from_utf8(request.endpoint).unwrap_or_default();
    Some(slice.called(label, undashed(request.endpoint)))
}

fn matches(port: &Port, request: &Request<'_>) -> bool {
    (request.port.is_empty() || port.name.as_bytes() == request.port)
        && (request.protocol.is_empty() || port.protocol.label() == request.protocol)
}

/// Whether any port is asked for; where there are none, one without name, protocol and number is.
fn has_port(ports: &[Port], request: &Request<'_>) -> bool {
    if ports.is_empty() {
        return request.port.is_empty() && request.protocol.is_empty();
    }
    ports.iter().any(|port| matches(port, request))
}

/// The numbers of the ports that are asked for.
fn ports<'a>(
    ports: &'a [Port],
    request: &'a Request<'_>,
) -> impl Iterator<Item = Option<u16>> + 'a {
    let nothing = (ports.is_empty() && has_port(ports, request)).then_some(None);
    let some = ports.iter().filter(|port| matches(port, request)).map(|port| Some(port.port));
    some.chain(nothing)
}

/// Where aliases lead.
pub(super) enum Followed {
    /// In circles, or to a name without addresses.
    Nothing,
    /// To addresses of the zone.
    Inside(Vec<(Name, Name)>, Vec<IpAddr>),
    /// Out of the zone.
    Outside(Vec<(Name, Name)>),
}

/// Follows an alias of the question's name as long as it stays in the zone.
pub(super) fn follow(
    query: &Query<'_>,
    target: Name,
    place: &Place<'_>,
    shuffle: &mut Shuffle,
) -> Followed {
    let zone = &place.lower[place.zone_at..];
    let mut aliases: Vec<(Name, Name)> = Vec::new();
    let (mut owner, mut target) = (query.name(), target);
    loop {
        let is_known = aliases.iter().any(|known| known.0 == owner);
        if target.is_under(&owner) || is_known || aliases.len() >= MOST_ALIASES {
            return Followed::Nothing;
        }
        aliases.push((owner, target.clone()));
        let lower = target.lowercased();
        let Some(zone_at) = crate::wire::is_suffix(lower.wire(), zone) else {
            return Followed::Outside(aliases);
        };
        let next = Place::new(lower.wire(), zone_at, place.snapshot, place.authority);
        match next.addresses(query.qtype) {
            Err(Missing) => return Followed::Nothing,
            Ok(Found::Addresses(ips)) if ips.is_empty() => return Followed::Nothing,
            Ok(Found::Addresses(mut ips)) => {
                shuffle.shuffle(&mut ips);
                return Followed::Inside(aliases, ips);
            }
            Ok(Found::Alias(further)) => (owner, target) = (target, further),
        }
    }
}
