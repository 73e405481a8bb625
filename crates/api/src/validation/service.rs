//! Services (BEHAVIOUR, Service REST; upstream: ValidateService).

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::Value;

use super::causes::{Causes, Path};
use super::{formats, metadata};
use crate::defaults::is_externally_accessible;
use crate::fields::Fields;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameNode", "PreferSameZone"];
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const FAMILY_POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
const POLICIES: [&str; 2] = ["Cluster", "Local"];
const LONGEST_AFFINITY_SECONDS: i64 = 86_400;

const ONLY_LOAD_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";

pub(super) fn is_headless(spec: &Value) -> bool {
    matches!(spec.items("clusterIPs"), [only] if only == "None")
}

/// Addresses and ranges that `old` has as well are not checked anew: validation was not always
/// strict about them.
pub(super) fn validate(causes: &mut Causes, service: &Value, old: Option<&Value>) {
    let (spec, path) = (&service["spec"], Path::new("spec"));
    topology(causes, &service["metadata"]["annotations"]);
    by_type(causes, &path, spec);
    let ports = spec.items("ports");
    let mut names = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.child("ports");
        port_itself(causes, &path.index(index), port, ports.len() > 1, &mut names);
    }
    metadata::labels(causes, &path.child("selector"), &spec["selector"]);
    affinity(causes, &path, spec);
    addresses(causes, spec, old);
    let known = before(old, "externalIPs");
    for (index, ip) in spec.items("externalIPs").iter().filter_map(Value::as_str).enumerate() {
        let path = path.child("externalIPs");
        let messages = match formats::ip(ip) {
            strict if !strict.is_empty() && !is_known(known, ip) => strict,
            _ if ip.parse::<IpAddr>().is_ok() => formats::non_special_ip(ip),
            _ => Vec::new(),
        };
        causes.all(&path.index(index), ip, messages);
    }
    causes.one_of(&path.child("type"), spec.text("type"), &TYPES);
    unique_ports(causes, &path.child("ports"), spec);
    load_balancer(causes, &path, service, before(old, "loadBalancerSourceRanges"));
    traffic(causes, &path, spec);
}

/// The items of a list in the spec of the former object.
fn before<'a>(old: Option<&'a Value>, field: &str) -> &'a [Value] {
    old.map_or(&[], |old| old["spec"].items(field))
}

fn is_known(before: &[Value], text: &str) -> bool {
    before.iter().any(|known| known == text)
}

fn topology(causes: &mut Causes, annotations: &Value) {
    let (mode, hints) = (&annotations[TOPOLOGY_MODE], &annotations[TOPOLOGY_HINTS]);
    if !mode.is_null() && !hints.is_null() && mode != hints {
        let metadata = Path::new("metadata");
        let path = metadata.child("annotations");
        let message = format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified");
        causes.invalid(&path.key(TOPOLOGY_MODE), mode.clone(), &message);
    }
}

fn by_type(causes: &mut Causes, path: &Path<'_>, spec: &Value) {
    let type_ = spec.text("type");
    let headless = is_headless(spec);
    if spec.items("ports").is_empty() && !headless && type_ != "ExternalName" {
        causes.required(&path.child("ports"), "");
    }
    match type_ {
        "LoadBalancer" | "NodePort" if headless => {
            let message = format!("may not be set to 'None' for {type_} services");
            causes.invalid(&path.child("clusterIPs").index(0), "None", &message);
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies"] {
                if !spec.items(field).is_empty() {
                    let message = "may not be set for ExternalName services";
                    causes.forbidden(&path.child(field), message);
                }
            }
            if spec.has("ipFamilyPolicy") {
                let message = "may not be set for ExternalName services";
                causes.forbidden(&path.child("ipFamilyPolicy"), message);
            }
            let path = path.child("externalName");
            match spec.text("externalName").strip_suffix('.').unwrap_or(spec.text("externalName")) {
                "" => causes.required(&path, ""),
                name => causes.all(&path, name, formats::dns_subdomain(name)),
            }
        }
        _ => {}
    }
}

fn port_itself<'a>(
    causes: &mut Causes,
    path: &Path<'_>,
    port: &'a Value,
    must_be_named: bool,
    names: &mut HashSet<&'a str>,
) {
    match port.text("name") {
        "" if must_be_named => causes.required(&path.child("name"), ""),
        "" => {}
        name => {
            causes.all(&path.child("name"), name, formats::dns_label(name));
            if !names.insert(name) {
                causes.duplicate(&path.child("name"), name);
            }
        }
    }
    causes.port_number(&path.child("port"), port.number("port"));
    causes.one_of(&path.child("protocol"), port.text("protocol"), &PROTOCOLS);
    match &port["targetPort"] {
        Value::String(name) => {
            causes.all(&path.child("targetPort"), name, formats::port_name(name));
        }
        number => {
            causes.port_number(&path.child("targetPort"), number.as_i64().unwrap_or_default());
        }
    }
    if port.has("appProtocol") {
        let protocol = port.text("appProtocol");
        causes.all(&path.child("appProtocol"), protocol, formats::qualified_name(protocol));
    }
}

fn unique_ports(causes: &mut Causes, path: &Path<'_>, spec: &Value) {
    if spec.text("type") == "ClusterIP" {
        for (index, port) in spec.items("ports").iter().enumerate() {
            if port.number("nodePort") != 0 {
                let path = path.index(index);
                let message = "may not be used when `type` is 'ClusterIP'";
                causes.forbidden(&path.child("nodePort"), message);
            }
        }
    }
    let mut node_ports = HashSet::new();
    let mut ports = HashSet::new();
    for (index, port) in spec.items("ports").iter().enumerate() {
        let node_port = port.number("nodePort");
        if node_port != 0 && !node_ports.insert((port.text("protocol"), node_port)) {
            causes.duplicate(&path.index(index).child("nodePort"), node_port);
        }
    }
    for (index, port) in spec.items("ports").iter().enumerate() {
        let (protocol, number) = (port.text("protocol"), port.number("port"));
        if !ports.insert((protocol, number)) {
            // Upstream shows its internal type.
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":{protocol:?},\"AppProtocol\":null,\"Port\":{number},\
                 \"TargetPort\":0,\"NodePort\":0}}"
            );
            causes.duplicate_json(&path.index(index), &shown);
        }
    }
}

fn affinity(causes: &mut Causes, path: &Path<'_>, spec: &Value) {
    let affinity = spec.text("sessionAffinity");
    causes.one_of(&path.child("sessionAffinity"), affinity, &["ClientIP", "None"]);
    let config = path.child("sessionAffinityConfig");
    match affinity {
        "ClientIP" => {
            let seconds = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
            let path = config.child("clientIP");
            match seconds.as_i64() {
                None => {
                    let message = "when session affinity type is ClientIP";
                    causes.required(&path.child("timeoutSeconds"), message);
                }
                Some(1..=LONGEST_AFFINITY_SECONDS) => {}
                Some(seconds) => {
                    let most = LONGEST_AFFINITY_SECONDS;
                    let message = format!("must be greater than 0 and less than {most}");
                    causes.invalid(&path.child("timeoutSeconds"), seconds, &message);
                }
            }
        }
        "None" if spec.has("sessionAffinityConfig") => {
            causes.forbidden(&config, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

/// `clusterIP`, `clusterIPs`, `ipFamilies`, `ipFamilyPolicy` (ValidateServiceClusterIPsRelatedFields).
pub(super) fn addresses(causes: &mut Causes, spec: &Value, old: Option<&Value>) {
    if spec.text("type") == "ExternalName" {
        return;
    }
    let path = &Path::new("spec");
    let ips: Vec<&str> = spec.items("clusterIPs").iter().filter_map(Value::as_str).collect();
    let all = || spec["clusterIPs"].clone();
    let ips_path = path.child("clusterIPs");
    match (spec.text("clusterIP"), ips.first()) {
        ("", None) => {}
        ("", Some(_)) => {
            causes.invalid(&ips_path, all(), "must be empty when `clusterIP` is not specified");
        }
        (_, None) => causes.required(&ips_path, ""),
        (ip, Some(first)) if ip != *first => {
            causes.invalid(&ips_path, all(), "first value must match `clusterIP`");
        }
        _ => {}
    }
    let families: Vec<&str> = spec.items("ipFamilies").iter().filter_map(Value::as_str).collect();
    let families_path = path.child("ipFamilies");
    for (index, family) in families.iter().enumerate() {
        if !FAMILIES.contains(family) {
            causes.not_supported(&families_path.index(index), family, &FAMILIES);
        }
        if families[..index].contains(family) {
            causes.duplicate(&families_path.index(index), *family);
        }
    }
    let policy = spec.text("ipFamilyPolicy");
    if spec.has("ipFamilyPolicy") && !FAMILY_POLICIES.contains(&policy) {
        causes.not_supported(&path.child("ipFamilyPolicy"), policy, &FAMILY_POLICIES);
    }

    let mut malformed = false;
    for (index, ip) in ips.iter().enumerate() {
        if index == 0 && *ip == "None" {
            if ips.len() > 1 {
                malformed = true;
                causes.invalid(&ips_path, all(), "'None' must be the first and only value");
            }
            continue;
        }
        if is_known(before(old, "clusterIPs"), ip) {
            continue;
        }
        let messages = formats::ip(ip);
        malformed |= !messages.is_empty();
        causes.all(&ips_path.index(index), ip, messages);
    }
    if ips.len() > 2 {
        causes.invalid(&ips_path, all(), "may only hold up to 2 values");
    }
    if malformed {
        return;
    }
    let parsed: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    let families_of_ips: HashSet<bool> = parsed.iter().map(IpAddr::is_ipv4).collect();
    if parsed.len() > 1 && families_of_ips.len() < 2 {
        causes.invalid(&ips_path, all(), "may specify no more than one IP for each IP family");
    }
    for (index, (ip, family)) in parsed.iter().zip(&families).enumerate() {
        if FAMILIES.contains(family) && ip.is_ipv4() != (*family == "IPv4") {
            let message =
                format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            causes.invalid(&ips_path.index(index), ips[index], &message);
        }
    }
}

fn load_balancer(causes: &mut Causes, path: &Path<'_>, service: &Value, known: &[Value]) {
    let spec = &service["spec"];
    let is_load_balancer = spec.text("type") == "LoadBalancer";
    let ranges = spec.items("loadBalancerSourceRanges");
    // Upstream's path has the capital letter.
    let ranges_path = path.child("LoadBalancerSourceRanges");
    let annotation = service["metadata"]["annotations"][SOURCE_RANGES].as_str();
    if !ranges.is_empty() {
        if !is_load_balancer {
            causes.forbidden(&ranges_path, ONLY_LOAD_BALANCER);
        }
        for (index, range) in ranges.iter().filter_map(Value::as_str).enumerate() {
            if !is_known(known, range) {
                causes.all(&ranges_path.index(index), range.trim(), formats::cidr(range.trim()));
            }
        }
    } else if let Some(ranges) = annotation {
        let (metadata, annotations) = (Path::new("metadata"), "annotations");
        let annotations = metadata.child(annotations);
        let path = annotations.key(SOURCE_RANGES);
        if !is_load_balancer {
            causes.forbidden(&path, ONLY_LOAD_BALANCER);
        }
        for range in ranges.split(',').map(str::trim).filter(|_| !ranges.trim().is_empty()) {
            causes.all(&path, range, formats::cidr(range));
        }
    }
    if spec.has("allocateLoadBalancerNodePorts") && !is_load_balancer {
        causes.forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY_LOAD_BALANCER);
    }
    if spec.has("loadBalancerClass") {
        let (path, class) = (path.child("loadBalancerClass"), spec.text("loadBalancerClass"));
        if is_load_balancer {
            causes.all(&path, class, formats::qualified_name(class));
        } else {
            causes.forbidden(&path, ONLY_LOAD_BALANCER);
        }
    }
}

fn traffic(causes: &mut Causes, path: &Path<'_>, spec: &Value) {
    let external = spec.text("externalTrafficPolicy");
    let external_path = path.child("externalTrafficPolicy");
    if is_externally_accessible(spec) {
        causes.one_of(&external_path, external, &POLICIES);
    } else if !external.is_empty() {
        let message = "may only be set for externally-accessible services";
        causes.invalid(&external_path, external, message);
    }

    let health = spec.number("healthCheckNodePort");
    let health_path = path.child("healthCheckNodePort");
    let needs_health_check = spec.text("type") == "LoadBalancer" && external == "Local";
    match (needs_health_check, health) {
        // It has been allocated by now.
        (true, 0) => causes.required(&health_path, ""),
        (true, port) => causes.port_number(&health_path, port),
        (false, 0) => {}
        (false, port) => causes.invalid(
            &health_path,
            port,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ),
    }

    let internal_path = path.child("internalTrafficPolicy");
    if spec.has("internalTrafficPolicy") {
        causes.one_of(&internal_path, spec.text("internalTrafficPolicy"), &POLICIES);
    } else if matches!(spec.text("type"), "ClusterIP" | "NodePort" | "LoadBalancer") {
        causes.required(&internal_path, "");
    }
    if spec.has("trafficDistribution") {
        let distribution = spec.text("trafficDistribution");
        if !DISTRIBUTIONS.contains(&distribution) {
            let path = path.child("trafficDistribution");
            causes.not_supported(&path, distribution, &DISTRIBUTIONS);
        }
    }
}

/// ValidateLoadBalancerStatus.
pub(super) fn validate_status(causes: &mut Causes, service: &Value, old: &Value) {
    let status = Path::new("status");
    let balancer = status.child("loadBalancer");
    let path = balancer.child("ingress");
    let ingress = service["status"]["loadBalancer"].items("ingress");
    if !ingress.is_empty() && service["spec"].text("type") != "LoadBalancer" {
        causes.forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    let known = old["status"]["loadBalancer"].items("ingress");
    for (index, ingress) in ingress.iter().enumerate() {
        let path = path.index(index);
        let (ip, hostname) = (ingress.text("ip"), ingress.text("hostname"));
        if !ip.is_empty() && !known.iter().any(|known| known.text("ip") == ip) {
            causes.all(&path.child("ip"), ip, formats::ip(ip));
        }
        match (ip.is_empty(), ingress.has("ipMode")) {
            (false, false) => {
                causes.required(&path.child("ipMode"), "must be specified when `ip` is set")
            }
            (true, true) => {
                causes
                    .forbidden(&path.child("ipMode"), "may not be specified when `ip` is not set");
            }
            (false, true) => {
                causes.one_of(&path.child("ipMode"), ingress.text("ipMode"), &["Proxy", "VIP"]);
            }
            (true, false) => {}
        }
        if !hostname.is_empty() {
            causes.all(&path.child("hostname"), hostname, formats::dns_subdomain(hostname));
            if hostname.parse::<IpAddr>().is_ok() {
                let message = "must be a DNS name, not an IP address";
                causes.invalid(&path.child("hostname"), hostname, message);
            }
        }
    }
}
