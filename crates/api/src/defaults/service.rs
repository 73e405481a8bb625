//! Defaults of Services (BEHAVIOUR, Service REST). Addresses, families and node ports are allocated
//! by the registry.

use serde_json::{Value, json};

use crate::fields::Fields;

/// Three hours.
const AFFINITY_TIMEOUT_SECONDS: i64 = 10_800;

pub(super) fn service(service: &mut Value) {
    let Some(spec) = service.object_mut("spec") else { return };
    spec.default_to("type", "ClusterIP");
    affinity(spec);
    for port in spec.items_mut("ports") {
        port.default_to("protocol", "TCP");
        let number = port.number("port");
        port.default_to("targetPort", number);
    }
    if is_externally_accessible(spec) {
        spec.default_to("externalTrafficPolicy", "Cluster");
    }
    if spec.text("type") != "ExternalName" {
        spec.default_absent("internalTrafficPolicy", "Cluster");
    }
    let balanced = spec.text("type") == "LoadBalancer";
    if balanced {
        spec.default_absent("allocateLoadBalancerNodePorts", true);
    }
    if balanced
        && let Some(status) = service.get_mut("status").and_then(|s| s.get_mut("loadBalancer"))
    {
        for ingress in status.items_mut("ingress") {
            if !ingress.text("ip").is_empty() {
                ingress.default_absent("ipMode", "VIP");
            }
        }
    }
}

fn affinity(spec: &mut Value) {
    spec.default_to("sessionAffinity", "None");
    match spec.text("sessionAffinity") {
        "None" => drop(spec.unset("sessionAffinityConfig")),
        "ClientIP" if !spec["sessionAffinityConfig"]["clientIP"].has("timeoutSeconds") => {
            let config = json!({ "clientIP": { "timeoutSeconds": AFFINITY_TIMEOUT_SECONDS } });
            spec.set("sessionAffinityConfig", config);
        }
        _ => {}
    }
}

/// Whether clients outside the cluster can be meant (upstream: apiservice.ExternallyAccessible).
pub(crate) fn is_externally_accessible(spec: &Value) -> bool {
    match spec.text("type") {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !spec.items("externalIPs").is_empty(),
        _ => false,
    }
}
