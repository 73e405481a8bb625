//! Services: what a type needs, what an update keeps, what it drops (upstream:
//! pkg/registry/core/service, `patchAllocatedValues`, `normalizeClusterIPs`,
//! `dropTypeDependentFields`), and which families it has ([`settle_families`]).
//!
//! This is the one home of these rules. They are pure; only the choice of addresses and ports is
//! the API server's, which does it between these and validation:
//!
//! ```text
//! defaults → prepare → settle_families → allocation → validation → commit
//! ```

mod families;
mod warnings;

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

pub use self::families::settle_families;
pub(super) use self::warnings::warnings;
use crate::defaults::is_externally_accessible;
use crate::fields::{Fields, empty, same};

pub(super) fn prepare_for_create(service: &mut Value) {
    service.set("status", json!({ "loadBalancer": {} }));
    normalize_cluster_ips(service, None);
}

/// Upstream wipes what the type lost after the allocation; nothing that is allocated depends on it,
/// and this way what is wiped is given back in the same write.
pub(super) fn prepare_for_update(new: &mut Value, old: &Value) {
    keep_allocated(new, old);
    normalize_cluster_ips(new, Some(old));
    drop_what_the_type_lost(new, old);
}

/// Whether a spec's type has an address at all (a headless Service's is `None`).
pub fn needs_cluster_ip(spec: &Value) -> bool {
    spec.text("type") != "ExternalName"
}

/// Whether a spec has no address of its own: `clusterIP: None`.
pub fn is_headless(spec: &Value) -> bool {
    spec.text("clusterIP") == "None"
}

/// Whether a spec's type may have node ports.
pub fn may_have_node_ports(spec: &Value) -> bool {
    matches!(spec.text("type"), "NodePort" | "LoadBalancer")
}

/// Whether ports without a node port get one.
pub fn allocates_node_ports(spec: &Value) -> bool {
    match spec.text("type") {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true),
        _ => false,
    }
}

/// Whether load balancers ask the nodes for a spec's health.
pub fn needs_health_check_node_port(spec: &Value) -> bool {
    is_load_balancer(spec) && spec.text("externalTrafficPolicy") == "Local"
}

fn is_load_balancer(spec: &Value) -> bool {
    spec.text("type") == "LoadBalancer"
}

fn node_ports(spec: &Value) -> HashSet<i64> {
    spec.items("ports").iter().map(|p| p.number("nodePort")).filter(|port| *port != 0).collect()
}

/// A client may write a manifest back that lacks what the server gave.
fn keep_allocated(new: &mut Value, old: &Value) {
    let old = &old["spec"];
    let Some(new) = new.object_mut("spec") else { return };
    if needs_cluster_ip(old) && needs_cluster_ip(new) {
        if new.text("clusterIP").is_empty() {
            new.copy_from(old, "clusterIP");
        }
        if new.items("clusterIPs").is_empty() {
            new.copy_from(old, "clusterIPs");
        }
    }
    // With allocation off, leaving a node port out is the way to give it back.
    if allocates_node_ports(old) && allocates_node_ports(new) {
        let used: HashSet<i64> = node_ports(old).intersection(&node_ports(new)).copied().collect();
        let by_name: HashMap<&str, i64> =
            old.items("ports").iter().map(|p| (p.text("name"), p.number("nodePort"))).collect();
        for port in new.items_mut("ports") {
            let before = by_name.get(port.text("name")).copied().unwrap_or_default();
            if before != 0 && !used.contains(&before) {
                port.default_to("nodePort", before);
            }
        }
    }
    if needs_health_check_node_port(old) && needs_health_check_node_port(new) {
        let before = old.number("healthCheckNodePort");
        if before != 0 {
            new.default_to("healthCheckNodePort", before);
        }
    }
}

/// Clients may know only `clusterIP`: when they changed it and not the list, the list follows.
fn normalize_cluster_ips(new: &mut Value, old: Option<&Value>) {
    let Some(new) = new.object_mut("spec") else { return };
    let ip = new.text("clusterIP").to_owned();
    let Some(old) = old.map(|old| &old["spec"]) else {
        if !ip.is_empty() && new.items("clusterIPs").is_empty() {
            new.set("clusterIPs", vec![ip]);
        }
        return;
    };
    if !old.items("clusterIPs").is_empty()
        && new.items("clusterIPs").is_empty()
        && ip == old.text("clusterIP")
    {
        new.copy_from(old, "clusterIPs");
    }
    if ip != old.text("clusterIP") && new.items("clusterIPs") == old.items("clusterIPs") {
        if ip.is_empty() {
            new.unset("clusterIPs");
        } else {
            new.set("clusterIPs", vec![ip]);
        }
    }
}

/// Only what the client left as it was; what it changed as well is for validation to refuse.
fn drop_what_the_type_lost(new: &mut Value, old: &Value) {
    let old = &old["spec"];
    let Some(spec) = new.object_mut("spec") else { return };
    let lost = |spec: &Value, needs: fn(&Value) -> bool| needs(old) && !needs(spec);
    let unchanged = |spec: &Value, field: &str| same(&spec[field], &old[field]);

    if lost(spec, needs_cluster_ip) {
        if unchanged(spec, "clusterIP") && unchanged(spec, "clusterIPs") {
            spec.unset("clusterIP");
            spec.unset("clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if unchanged(spec, field) {
                spec.unset(field);
            }
        }
    }
    if lost(spec, may_have_node_ports) && node_ports(spec).is_subset(&node_ports(old)) {
        for port in spec.items_mut("ports") {
            port.unset("nodePort");
        }
    }
    for (needs, field) in [
        (needs_health_check_node_port as fn(&Value) -> bool, "healthCheckNodePort"),
        (is_load_balancer, "allocateLoadBalancerNodePorts"),
        (is_load_balancer, "loadBalancerClass"),
        (is_externally_accessible, "externalTrafficPolicy"),
    ] {
        if lost(spec, needs) && unchanged(spec, field) {
            spec.unset(field);
        }
    }
    if !is_load_balancer(spec)
        && let Some(status) = new.object_mut("status")
    {
        status.set("loadBalancer", empty());
    }
}
