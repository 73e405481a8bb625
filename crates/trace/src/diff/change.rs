//! A changed object in the place of the one that is there, as the API server would take it.
//!
//! Upstream rule: `patchAllocatedValues` of pkg/registry/core/service/storage/storage.go: what was
//! allocated and is not named stays; a status that is not written stays, too.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use portolan_model::NamespacedName;

use crate::objects::{Object, Objects};

/// Puts a changed object in its place. What decides nothing is given back.
pub fn change(objects: &mut Objects, object: Object) -> Option<String> {
    match object {
        Object::Service(mut service) => {
            let namespace = service.metadata.namespace.as_deref().unwrap_or("default");
            let name = service.metadata.name.as_deref().unwrap_or_default();
            if let Some(old) = objects.services.get(&NamespacedName::new(namespace, name)) {
                inherit(old, &mut service);
            }
            objects.put(Object::Service(service))
        }
        Object::Node(mut node) => {
            let old = objects.nodes.get(node.metadata.name.as_deref().unwrap_or_default());
            if node.status.is_none() {
                node.status = old.and_then(|old| old.status.clone());
            }
            objects.put(Object::Node(node))
        }
        other => objects.put(other),
    }
}

fn inherit(old: &core::Service, new: &mut core::Service) {
    if new.status.is_none() {
        new.status.clone_from(&old.status);
    }
    let (Some(old), Some(new)) = (&old.spec, &mut new.spec) else { return };
    let is_external = |spec: &core::ServiceSpec| spec.type_.as_deref() == Some("ExternalName");
    if is_external(old) || is_external(new) {
        return;
    }
    let has_none = new.cluster_ip.as_deref().unwrap_or_default().is_empty()
        && new.cluster_ips.as_deref().unwrap_or_default().is_empty();
    if has_none {
        new.cluster_ip.clone_from(&old.cluster_ip);
        new.cluster_ips.clone_from(&old.cluster_ips);
    }
    if has_node_ports(old) && has_node_ports(new) {
        let key = |port: &core::ServicePort| {
            (port.protocol.clone().unwrap_or_else(|| "TCP".into()), port.port)
        };
        let ports = old.ports.iter().flatten();
        let taken: BTreeMap<_, _> = ports
            .filter_map(|port| Some((key(port), port.node_port.filter(|n| *n != 0)?)))
            .collect();
        for port in new.ports.iter_mut().flatten() {
            if port.node_port.is_none_or(|number| number == 0) {
                port.node_port = taken.get(&key(port)).copied();
            }
        }
    }
    if new.health_check_node_port.is_none_or(|port| port == 0) {
        new.health_check_node_port = old.health_check_node_port;
    }
}

fn has_node_ports(spec: &core::ServiceSpec) -> bool {
    match spec.type_.as_deref() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec.allocate_load_balancer_node_ports != Some(false),
        _ => false,
    }
}
