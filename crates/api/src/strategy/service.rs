//! Services on update: what an older or lazier client leaves out is kept, what belongs to the former
//! type is dropped unless the client has changed it (upstream: pkg/registry/core/service,
//! patchAllocatedValues, normalizeClusterIPs, dropTypeDependentFields).

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::defaults::is_externally_accessible;
use crate::fields::Fields;

pub(super) fn prepare_for_update(new: &mut Value, old: &Value) {
    keep_allocated(new, old);
    normalize_cluster_ips(new, Some(old));
    drop_what_the_type_lost(new, old);
    downgrade(new, old);
}

fn needs_cluster_ip(spec: &Value) -> bool {
    matches!(spec.text("type"), "" | "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn needs_node_port(spec: &Value) -> bool {
    match spec.text("type") {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true),
        _ => false,
    }
}

fn needs_health_check_node_port(spec: &Value) -> bool {
    spec.text("type") == "LoadBalancer" && spec.text("externalTrafficPolicy") == "Local"
}

fn is_load_balancer(spec: &Value) -> bool {
    spec.text("type") == "LoadBalancer"
}

fn node_ports(spec: &Value) -> HashSet<i64> {
    spec.items("ports").iter().map(|p| p.number("nodePort")).filter(|port| *port != 0).collect()
}

fn keep_allocated(new: &mut Value, old: &Value) {
    let old = &old["spec"];
    let Some(new) = new.object_mut("spec") else { return };
    if needs_cluster_ip(old) && needs_cluster_ip(new) {
        if new.text("clusterIP").is_empty() {
            new.copy_from(old, "clusterIP");
        }
        if new.items("clusterIPs").is_empty() && new.text("clusterIP") == old.text("clusterIP") {
            new.copy_from(old, "clusterIPs");
        }
    }
    if needs_node_port(old) && needs_node_port(new) {
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

/// Clients may know only `clusterIP`; whichever of the two they changed leads the other.
pub(super) fn normalize_cluster_ips(new: &mut Value, old: Option<&Value>) {
    let Some(new) = new.object_mut("spec") else { return };
    let ip = new.text("clusterIP").to_owned();
    let Some(old) = old.map(|old| &old["spec"]) else {
        if !ip.is_empty() && new.items("clusterIPs").is_empty() {
            new.set("clusterIPs", vec![ip]);
        }
        return;
    };
    let ip_changed = ip != old.text("clusterIP");
    let ips_changed = new.items("clusterIPs") != old.items("clusterIPs");
    if ip_changed && !ips_changed {
        if ip.is_empty() {
            new.unset("clusterIPs");
        } else {
            new.set("clusterIPs", vec![ip]);
        }
    }
}

fn drop_what_the_type_lost(new: &mut Value, old: &Value) {
    let old = &old["spec"];
    let had_load_balancer = is_load_balancer(old);
    let has_load_balancer = is_load_balancer(&new["spec"]);
    let Some(spec) = new.object_mut("spec") else { return };
    let lost = |spec: &Value, needs: fn(&Value) -> bool| needs(old) && !needs(spec);

    let mut drop_unchanged = |needs: fn(&Value) -> bool, fields: &[&str]| {
        if !lost(spec, needs) {
            return;
        }
        for field in fields {
            if spec[*field] == old[*field] {
                spec.unset(field);
            }
        }
    };
    drop_unchanged(needs_cluster_ip, &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
    drop_unchanged(needs_health_check_node_port, &["healthCheckNodePort"]);
    drop_unchanged(is_load_balancer, &["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    drop_unchanged(is_externally_accessible, &["externalTrafficPolicy"]);

    let same_node_ports = node_ports(spec).is_subset(&node_ports(old));
    if lost(spec, needs_node_port) && same_node_ports {
        for port in spec.items_mut("ports") {
            port.unset("nodePort");
        }
    }
    if had_load_balancer
        && !has_load_balancer
        && let Some(status) = new.object_mut("status")
    {
        status.set("loadBalancer", crate::fields::empty());
    }
}

/// Back to one family: the second address and family go, unless the client wrote them itself.
fn downgrade(new: &mut Value, old: &Value) {
    let old = &old["spec"];
    let Some(new) = new.object_mut("spec") else { return };
    let was_dual = old.text("ipFamilyPolicy") != "SingleStack" && old.has("ipFamilyPolicy");
    if !was_dual || new.text("ipFamilyPolicy") != "SingleStack" {
        return;
    }
    for field in ["clusterIPs", "ipFamilies"] {
        if new.items(field).len() == 2 && new[field] == old[field] {
            let first = new.items(field)[0].clone();
            new.set(field, vec![first]);
        }
    }
}

pub(super) fn warnings(service: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let spec = &service["spec"];
    if spec.text("trafficDistribution") == "PreferClose" {
        let text =
            "spec.trafficDistribution: PreferClose is deprecated, use PreferSameZone instead";
        warnings.push(text.to_owned());
    }
    if !spec.items("externalIPs").is_empty() && spec.text("clusterIP") == "None" {
        warnings.push("spec.externalIPs is ignored when spec.clusterIP is \"None\"".to_owned());
    }
    if spec.text("type") != "ExternalName" && !spec.text("externalName").is_empty() {
        let text = "spec.externalName is ignored when spec.type is not \"ExternalName\"";
        warnings.push(text.to_owned());
    }
    warnings
}
