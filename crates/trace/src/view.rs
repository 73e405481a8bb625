//! One node's view of the objects: its name, addresses and zone, and its proxy's settings.
//!
//! Upstream rule: what cmd/kube-proxy/app/server_linux.go hands to each mode's proxier; Services and
//! slices are those that its informers list (labels `service-proxy-name` and `headless`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use portolan_model::{
    Config, EndpointSlice, Event, Family, ForwardingTable, LocalDetector, ModeProfile, Model,
    NamespacedName, Node, NodePortAddresses,
};
use portolan_proxy::config::types::KubeProxyConfiguration;
use portolan_proxy::config::{DetectLocal, NodePorts, Settings};
use portolan_proxy::convert;

use crate::TraceError;
use crate::objects::Objects;

/// Says that another proxy serves a Service.
pub(crate) const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Says that a slice is of a headless Service.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Names the Service of a slice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What is known of a proxy before it is known on which node it runs.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Its configuration, as it stands in the file.
    pub configuration: KubeProxyConfiguration,
    /// The node's addresses, the primary one of each family first; none: those of its object.
    pub node_ips: Vec<IpAddr>,
}

/// A node and its proxy.
#[derive(Debug, Clone)]
pub struct View {
    /// The node's name; empty when none is known, and then every endpoint is elsewhere.
    pub node_name: Arc<str>,
    /// Its zone and addresses.
    pub node: Node,
    /// Its primary addresses, at most one of each family.
    pub primary: BTreeSet<IpAddr>,
    /// What the mode does with what is no front.
    pub profile: ModeProfile,
    /// The proxy's settings.
    pub config: Config,
    /// Where node ports answer.
    pub node_ports: NodePortAddresses,
    /// The mark that asks for masquerading.
    pub masquerade_mark: u32,
}

impl View {
    /// The view of a node of this name.
    ///
    /// # Errors
    /// Settings that cannot be.
    pub fn new(objects: &Objects, setup: &Setup, node_name: &str) -> Result<Self, TraceError> {
        let mut configuration = setup.configuration.clone();
        configuration.set_defaults();
        known(&configuration.mode)?;
        let settings =
            Settings::check(configuration, if node_name.is_empty() { "-" } else { node_name })
                .map_err(TraceError::Settings)?;

        let object = objects.nodes.get(node_name);
        let mut node = object.map(convert::node).unwrap_or_default();
        let mut primary = object.map(convert::primary_addresses).unwrap_or_default();
        if !setup.node_ips.is_empty() {
            node.addresses.extend(&setup.node_ips);
            primary = firsts(&setup.node_ips);
        }
        let node_ports = match &settings.node_ports {
            NodePorts::All => NodePortAddresses::AllLocal,
            NodePorts::Primary => NodePortAddresses::Only(primary.clone()),
            NodePorts::Within(ranges) => {
                let within = |ip: &&IpAddr| ranges.iter().any(|range| range.contains(*ip));
                NodePortAddresses::Only(node.addresses.iter().filter(within).copied().collect())
            }
        };
        let local_detector = match &settings.detect_local {
            DetectLocal::ClusterCidr(ranges) if ranges.is_empty() => LocalDetector::None,
            DetectLocal::ClusterCidr(ranges) => LocalDetector::Cidrs(ranges.clone()),
            DetectLocal::NodeCidr => match object.map(convert::pod_cidrs).unwrap_or_default() {
                ranges if ranges.is_empty() => LocalDetector::None,
                ranges => LocalDetector::Cidrs(ranges),
            },
            DetectLocal::Bridge(name) => LocalDetector::Bridge(name.as_str().into()),
            DetectLocal::InterfacePrefix(prefix) => {
                LocalDetector::InterfacePrefix(prefix.as_str().into())
            }
        };
        let config = Config { node_name: node_name.into(), ..settings.model(local_detector) };
        Ok(Self {
            node_name: node_name.into(),
            node,
            primary,
            profile: settings.profile(),
            config,
            node_ports,
            masquerade_mark: settings.masquerade_mark,
        })
    }

    /// The forwarding tables of both families.
    #[must_use]
    pub fn tables(&self, objects: &Objects) -> [ForwardingTable; 2] {
        [Family::Ipv4, Family::Ipv6].map(|family| self.table(objects, family))
    }

    /// The forwarding table of one family.
    #[must_use]
    pub fn table(&self, objects: &Objects, family: Family) -> ForwardingTable {
        let mut model = Model::new(family, self.config.clone());
        model.apply(Event::Node(self.node.clone()));
        model.apply(Event::NodePortAddresses(self.node_ports.clone()));
        model.apply(Event::ServiceCidrs(objects.ranges()));
        let services = objects.services.values().filter(|s| is_ours(&s.metadata));
        services.filter_map(convert::service).for_each(|s| model.apply(Event::Service(s)));
        slices(objects).for_each(|slice| model.apply(Event::EndpointSlice(slice)));
        model.flush();
        model.table().clone()
    }

    /// The primary address of a family.
    #[must_use]
    pub fn primary_address(&self, family: Family) -> Option<IpAddr> {
        let all = self.primary.iter().chain(&self.node.addresses);
        all.copied().find(|address| Family::of(*address) == family)
    }

    /// The zone of the node.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.node.zone.as_deref()
    }
}

/// The slices that a proxy sees, in the order of their names.
pub(crate) fn slices(objects: &Objects) -> impl Iterator<Item = EndpointSlice> + '_ {
    let seen = objects
        .slices
        .values()
        .filter(|slice| is_ours(&slice.metadata) && label(&slice.metadata, HEADLESS).is_none());
    seen.filter_map(convert::endpoint_slice)
}

/// The slices of a Service that a proxy does not see, and why.
pub(crate) fn unseen(objects: &Objects, service: &NamespacedName) -> Vec<String> {
    let is_of = |metadata: &ObjectMeta| label(metadata, SERVICE_NAME) == Some(&*service.name);
    let mut told = Vec::new();
    for (name, slice) in &objects.slices {
        if name.namespace != service.namespace || !is_of(&slice.metadata) {
            continue;
        }
        let why = match label(&slice.metadata, PROXY_NAME) {
            Some(proxy) => format!("its label service-proxy-name gives it to proxy {proxy}"),
            None if label(&slice.metadata, HEADLESS).is_some() => {
                "its label says that the Service is headless".into()
            }
            None if convert::endpoint_slice(slice).is_none() => {
                format!("its addresses are of type {}", slice.address_type)
            }
            None => continue,
        };
        told.push(format!("all of slice {} out: {why}", name.name));
    }
    told
}

/// Whether no other proxy is asked to serve it.
pub(crate) fn is_ours(metadata: &ObjectMeta) -> bool {
    label(metadata, PROXY_NAME).is_none()
}

/// A label's value.
pub(crate) fn label<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(name).map(String::as_str)
}

/// Whoever asks may have misspelt the mode.
fn known(mode: &str) -> Result<(), TraceError> {
    let all = [ModeProfile::IPTABLES, ModeProfile::NFTABLES, ModeProfile::IPVS];
    match all.into_iter().any(|profile| profile.mode == mode) {
        true => Ok(()),
        false => {
            Err(TraceError::argument("mode", mode, "the modes are iptables, nftables and ipvs"))
        }
    }
}

fn firsts(ips: &[IpAddr]) -> BTreeSet<IpAddr> {
    let mut firsts: BTreeMap<Family, IpAddr> = BTreeMap::new();
    for ip in ips {
        firsts.entry(Family::of(*ip)).or_insert(*ip);
    }
    firsts.into_values().collect()
}
