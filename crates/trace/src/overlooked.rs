//! What a person may have expected of an address that is no front on this node.

use std::net::IpAddr;

use portolan_model::{Family, IpMode, LocalhostNodePorts, NodePortAddresses, Packet, Transport};
use portolan_proxy::convert;

use crate::objects::Objects;
use crate::trace::other_proxy;
use crate::view::View;

/// Which Services have to do with the packet's address or port, though no rule of this node has.
pub(crate) fn overlooked(objects: &Objects, view: &View, packet: &Packet) -> Vec<String> {
    let Some(Transport { protocol, port }) = packet.transport else { return Vec::new() };
    let ip = packet.destination;
    let mut notes = Vec::new();
    for (name, object) in &objects.services {
        let Some(service) = convert::service(object) else { continue };
        let ours = service.ports.iter().filter(|p| p.protocol == protocol);
        let has_port = ours.clone().any(|p| p.port.get() == port);
        let is_node_port =
            ours.clone().any(|p| p.node_port.is_some_and(|node_port| node_port.number() == port));
        let ingress = service.load_balancer_ingress.iter().find(|ingress| ingress.ip == ip);
        let is_external = service.external_ips.contains(&ip);
        let is_cluster = service.cluster_ips.contains(&ip);
        if let Some(proxy) = other_proxy(object) {
            if is_cluster || is_external || ingress.is_some() || is_node_port {
                notes.push(format!(
                    "Service {name} has this address or port, but its label service-proxy-name gives it to proxy {proxy}"
                ));
            }
            continue;
        }
        if ingress.is_some_and(|ingress| ingress.mode == IpMode::Proxy) {
            notes.push(format!(
                "{ip} is a load balancer IP of Service {name} with ipMode Proxy: nodes leave it to the load balancer"
            ));
        } else if (ingress.is_some() || is_external) && !has_port {
            notes.push(format!(
                "{ip} is an address of Service {name}, which has no port {port} {protocol}"
            ));
        } else if (ingress.is_some() || is_external)
            && !service.cluster_ips.iter().any(|other| Family::of(*other) == Family::of(ip))
        {
            notes.push(format!("Service {name} has no cluster IP of the family of {ip}"));
        }
        if is_cluster {
            let others: Vec<_> =
                service.ports.iter().map(|p| format!("{} {}", p.port, p.protocol)).collect();
            notes.push(format!("Service {name} has the ports {}", others.join(", ")));
        }
        if is_node_port {
            notes.push(format!(
                "{port} is a node port of Service {name}, but {}",
                node_ports(view, ip)
            ));
        }
        if service.health_check_node_port.is_some_and(|check| check.number() == port) {
            notes.push(format!(
                "{port} is the healthCheckNodePort of Service {name}: the proxy itself answers there"
            ));
        }
    }
    notes
}

fn node_ports(view: &View, ip: IpAddr) -> String {
    if ip.is_loopback() {
        return match view.config.localhost_node_ports {
            LocalhostNodePorts::On => {
                "at a loopback address only for this node's own processes, and IPv4".into()
            }
            LocalhostNodePorts::Off => "node ports do not answer at loopback addresses here".into(),
        };
    }
    let addresses = match &view.node_ports {
        NodePortAddresses::AllLocal => &view.node.addresses,
        NodePortAddresses::Only(addresses) => addresses,
    };
    let family = addresses.iter().filter(|address| Family::of(**address) == Family::of(ip));
    let all: Vec<_> = family.map(ToString::to_string).collect();
    if all.is_empty() {
        return "no address of this node is known at which node ports answer".into();
    }
    format!("node ports answer at {} only", all.join(", "))
}
