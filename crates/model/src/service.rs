//! What one Service contributes to the forwarding table.
//!
//! Upstream rule: the loop over services of `syncProxyRules` in `pkg/proxy/nftables/proxier.go`, and
//! `pkg/proxy/serviceport.go` for which port uses which endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use crate::claims::{SetIds, SetKey};
use crate::endpoints::{self, Here, Selected};
use crate::input::{EndpointSlice, IpMode, Service, ServicePort, SourceRangesHold, TrafficPolicy};
use crate::table::{
    Action, Front, FrontKey, HealthCheck, Location, Masquerade, MasqueradeReason, Origin,
    OwnAddress, PerSource, Scope, Selection, SourceClass, SourceRanges,
};
use crate::{Config, Family, LocalDetector, MasqueradeAll, Node, NodePort, ServicePortName};

/// Who claims a front: the order decides between two claims.
pub(crate) type Owner = (Origin, ServicePortName);

/// A Service's part of the table, sets still without slots.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contribution {
    pub(crate) fronts: BTreeMap<(FrontKey, Owner), Front>,
    pub(crate) sets: BTreeMap<SetKey, Selected>,
    pub(crate) cluster_ips: BTreeSet<IpAddr>,
    pub(crate) hairpins: BTreeSet<IpAddr>,
    pub(crate) source_prefixes: BTreeSet<u8>,
    pub(crate) health_check: Option<(NodePort, HealthCheck)>,
}

/// What else decides about a Service's fronts and sets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) family: Family,
    pub(crate) config: &'a Config,
    pub(crate) node: &'a Node,
    pub(crate) detector: &'a LocalDetector,
}

/// Works out a Service's part of the table.
pub(crate) fn contribute<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    around: Surroundings<'_>,
    set_ids: &mut SetIds,
) -> Contribution {
    let mut contribution = Contribution::default();
    let of_family = |ip: &IpAddr| Family::of(*ip) == around.family;
    let Some(cluster_ip) = service.cluster_ips.iter().copied().find(of_family) else {
        return contribution;
    };
    contribution.cluster_ips.insert(cluster_ip);
    let external = external_addresses(service, around);
    let node_port_ranges = match around.config.source_ranges_hold {
        SourceRangesHold::AtLoadBalancerIps => None,
        SourceRangesHold::AtNodePortsToo => {
            let ranges = source_ranges(service, around);
            ranges.map(|ranges| Arc::new(at_node_ports(ranges, around.node, around.family)))
        }
    };
    let mut local = BTreeSet::new();
    for port in &service.ports {
        let name = ServicePortName {
            service: service.name.clone(),
            port: port.name.clone(),
            protocol: port.protocol,
        };
        let mut sets = PortSets::new(name, slices.clone(), around);
        let mut fronts = Vec::new();
        let internal = sets.internal(service.internal_traffic_policy, set_ids);
        let at = |ip| FrontKey::Address { ip, protocol: port.protocol, port: port.port.get() };
        fronts.push((at(cluster_ip), Origin::ClusterIp, internal, None));
        if port.node_port.is_some() || !external.is_empty() {
            let way = sets.external(service.external_traffic_policy, set_ids);
            for (ip, origin, ranges) in &external {
                fronts.push((at(*ip), *origin, way, ranges.clone()));
            }
            let ranges = || node_port_ranges.clone();
            fronts.extend(node_port(port).map(|key| (key, Origin::NodePort, way, ranges())));
        }
        for (key, origin, way, source_ranges) in fronts {
            let Way { inside, outside, masquerade } = way;
            let port = sets.name.clone();
            let owner = (origin, port.clone());
            if let Some(ranges) = &source_ranges {
                let lengths = ranges.admitted(key.address()).map(|range| range.prefix_len());
                contribution.source_prefixes.extend(lengths);
            }
            let front = Front { port, origin, inside, outside, masquerade, source_ranges };
            contribution.fronts.insert((key, owner), front);
        }
        contribution.hairpins.extend(sets.hairpins(around.node));
        // What only terminates still serves, but asks load balancers to send no more.
        if sets.local.selection == Selection::Ready {
            local.extend(sets.local.targets.iter().map(|target| target.address.ip()));
        }
        contribution.sets.extend(sets.used);
    }
    contribution.health_check = service.health_check_node_port.map(|port| {
        (port, HealthCheck { service: service.name.clone(), local_endpoints: local.len() })
    });
    contribution
}

fn node_port(port: &ServicePort) -> Option<FrontKey> {
    port.node_port.map(|number| FrontKey::NodePort { protocol: port.protocol, port: number })
}

/// External IPs and load balancer IPs of the family, with who may use them.
fn external_addresses(
    service: &Service,
    around: Surroundings<'_>,
) -> Vec<(IpAddr, Origin, Option<Arc<SourceRanges>>)> {
    let of_family = |ip: &IpAddr| Family::of(*ip) == around.family;
    let ranges = source_ranges(service, around).map(Arc::new);
    let balanced = service
        .load_balancer_ingress
        .iter()
        .filter(|ingress| ingress.mode == IpMode::Vip && of_family(&ingress.ip))
        .map(|ingress| (ingress.ip, Origin::LoadBalancerIp, ranges.clone()));
    let external = service.external_ips.iter().copied().filter(of_family);
    balanced.chain(external.map(|ip| (ip, Origin::ExternalIp, None))).collect()
}

/// A range of all addresses is no restriction; ranges of the other family alone admit nobody.
fn source_ranges(service: &Service, around: Surroundings<'_>) -> Option<SourceRanges> {
    let all = &service.load_balancer_source_ranges;
    let of_family = |range: &&IpNet| Family::of(range.addr()) == around.family;
    if all.is_empty() || all.iter().filter(of_family).any(|range| range.prefix_len() == 0) {
        return None;
    }
    let ranges: BTreeSet<_> = all.iter().filter(of_family).map(IpNet::trunc).collect();
    let within = |address: &IpAddr| ranges.iter().any(|range| range.contains(address));
    let own_address = match around.node.addresses.iter().any(within) {
        true => OwnAddress::Allowed,
        false => OwnAddress::ByRanges,
    };
    Some(SourceRanges { ranges, own_address })
}

/// What a process sends from to a node port at a loopback address.
const LOOPBACK: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));

/// At node ports this node sends from any of its addresses, loopback ones included.
fn at_node_ports(mut ranges: SourceRanges, node: &Node, family: Family) -> SourceRanges {
    if ranges.own_address == OwnAddress::Allowed {
        ranges.ranges.extend(node.addresses.iter().copied().map(IpNet::from));
        if family == Family::Ipv4 {
            ranges.ranges.insert(LOOPBACK);
        }
        ranges.own_address = OwnAddress::ByRanges;
    }
    ranges
}

/// What becomes of packets at a front.
#[derive(Clone, Copy)]
struct Way {
    inside: Action,
    outside: Action,
    masquerade: PerSource<Masquerade>,
}

impl Way {
    /// Who goes nowhere needs no other source.
    fn new(inside: Action, outside: Action, masquerade: PerSource<Masquerade>) -> Self {
        let masquerade = PerSource::from_fn(|class| {
            let action = if class == SourceClass::Outside { outside } else { inside };
            match action {
                Action::Balance(_) => *masquerade.of(class),
                Action::Reject | Action::Drop => Masquerade::No,
            }
        });
        Self { inside, outside, masquerade }
    }
}

/// A Service port's endpoints in both scopes, and which of the two its fronts use.
struct PortSets<'a> {
    name: ServicePortName,
    around: Surroundings<'a>,
    cluster: Selected,
    local: Selected,
    used: BTreeMap<SetKey, Selected>,
}

impl<'a> PortSets<'a> {
    fn new<'s>(
        name: ServicePortName,
        slices: impl Iterator<Item = &'s EndpointSlice>,
        around: Surroundings<'a>,
    ) -> Self {
        let here = Here { node: &around.config.node_name, zone: around.node.zone.as_ref() };
        let joined = endpoints::join(slices, (&name.port, name.protocol), around.family, here);
        let cluster = endpoints::cluster(&joined, here);
        let local = endpoints::local(&joined);
        Self { name, around, cluster, local, used: BTreeMap::new() }
    }

    /// At the cluster IP. Who is not a pod is masqueraded: a route for the service range may lead
    /// anybody to any node, and the answer must come back through it.
    fn internal(&mut self, policy: TrafficPolicy, ids: &mut SetIds) -> Way {
        let action = match policy {
            TrafficPolicy::Cluster => self.action(Scope::Cluster, ids),
            TrafficPolicy::Local => self.action(Scope::Local, ids),
        };
        let off_cluster = Masquerade::Yes(MasqueradeReason::OffCluster);
        let masquerade = match (self.around.config.masquerade_all, self.around.detector) {
            (MasqueradeAll::Always, _) => {
                PerSource::from_fn(|_| Masquerade::Yes(MasqueradeReason::MasqueradeAll))
            }
            (_, LocalDetector::None) => PerSource::default(),
            _ => PerSource { pod: Masquerade::No, node: off_cluster, outside: off_cluster },
        };
        Way::new(action, action, masquerade)
    }

    /// At external IPs, load balancer IPs and node ports. Under policy Local only who comes from
    /// outside is bound to this node's endpoints: pods and the node itself get the cluster's, as if
    /// they had gone up to the load balancer and come back in at any node.
    fn external(&mut self, policy: TrafficPolicy, ids: &mut SetIds) -> Way {
        let inside = self.action(Scope::Cluster, ids);
        match policy {
            TrafficPolicy::Cluster => {
                let masquerade = Masquerade::Yes(MasqueradeReason::ClusterPolicy);
                Way::new(inside, inside, PerSource::from_fn(|_| masquerade))
            }
            TrafficPolicy::Local => {
                let node = Masquerade::Yes(MasqueradeReason::OwnAddress);
                let masquerade = PerSource { node, ..PerSource::default() };
                Way::new(inside, self.action(Scope::Local, ids), masquerade)
            }
        }
    }

    /// No usable endpoint anywhere is a refusal, none within the policy's scope a drop. The cluster's
    /// set is empty only when there is none anywhere, since it falls back to terminating ones.
    fn action(&mut self, scope: Scope, ids: &mut SetIds) -> Action {
        let selected = match scope {
            _ if self.cluster.targets.is_empty() => return Action::Reject,
            Scope::Cluster => &self.cluster,
            Scope::Local => &self.local,
        };
        if selected.targets.is_empty() {
            return Action::Drop;
        }
        let key = SetKey { port: self.name.clone(), scope };
        let set = ids.allocate(&key);
        self.used.entry(key).or_insert_with(|| selected.clone());
        Action::Balance(set)
    }

    /// Targets on this node in the sets in use. One in the node's own network is left out: packets
    /// from the node to itself need no other source.
    fn hairpins(&self, node: &Node) -> BTreeSet<IpAddr> {
        self.used
            .values()
            .flat_map(|selected| &selected.targets)
            .filter(|target| target.location == Location::ThisNode)
            .map(|target| target.address.ip())
            .filter(|address| !node.addresses.contains(address))
            .collect()
    }
}
