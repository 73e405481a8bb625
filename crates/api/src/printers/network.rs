//! Services, Endpoints and EndpointSlices, Ingresses and network policies.

use serde_json::Value;

use super::{AGE, Column, NAME, SELECTOR, age, label_selector, labels, name, or, text};
use crate::fields::Fields;

/// Endpoints and ports shown before `+ N more...`.
const SHOWN: usize = 3;

pub(super) const SERVICE: &[Column] = &[
    NAME,
    text("Type", "How the service is exposed."),
    text("Cluster-IP", "Address within the cluster."),
    text("External-IP", "Addresses for clients outside."),
    text("Port(s)", "Ports, with the node ports behind a colon."),
    AGE,
    SELECTOR,
];

pub(super) const ENDPOINTS: &[Column] =
    &[NAME, text("Endpoints", "Addresses behind the service."), AGE];

pub(super) const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    text("AddressType", "IPv4, IPv6 or FQDN."),
    text("Ports", "Ports of all endpoints of the slice."),
    text("Endpoints", "Addresses of the slice."),
    AGE,
];

pub(super) const INGRESS: &[Column] = &[
    NAME,
    text("Class", "Which controllers are meant."),
    text("Hosts", "Hosts of the rules."),
    text("Address", "Where the ingress is reached."),
    text("Ports", "Ports that are open."),
    AGE,
];

pub(super) const INGRESS_CLASS: &[Column] = &[
    NAME,
    text("Controller", "Controller that is responsible for the class."),
    text("Parameters", "An object with more parameters."),
    AGE,
];

pub(super) const NETWORK_POLICY: &[Column] =
    &[NAME, text("Pod-Selector", "Which pods the policy is for."), AGE];
pub(super) const IP_ADDRESS: &[Column] =
    &[NAME, text("ParentRef", "What the address belongs to."), AGE];

pub(super) const SERVICE_CIDR: &[Column] =
    &[NAME, text("CIDRs", "Ranges that cluster IPs are taken from."), AGE];

pub(super) fn service(service: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let spec = &service["spec"];
    let ports: Vec<String> = spec
        .items("ports")
        .iter()
        .map(|port| {
            let (number, protocol) = (port.number("port"), port.text("protocol"));
            match port.number("nodePort") {
                0 => format!("{number}/{protocol}"),
                node_port => format!("{number}:{node_port}/{protocol}"),
            }
        })
        .collect();
    vec![
        name(service),
        spec.text("type").into(),
        or(spec.text("clusterIP"), "<none>"),
        external_ip(service).into(),
        or(&ports.join(","), "<none>"),
        age(service, now),
        labels(&spec["selector"]),
    ]
}

/// Not cut to 16 characters: upstream's server prints for wide output, and so does this.
fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let external = spec.items("externalIPs").iter().filter_map(Value::as_str);
    let joined = |none: &str, all: Vec<&str>| {
        if all.is_empty() { none.to_owned() } else { all.join(",") }
    };
    match spec.text("type") {
        "ClusterIP" | "NodePort" => joined("<none>", external.collect()),
        "LoadBalancer" => {
            let ingress = load_balancer(&service["status"]);
            joined("<pending>", ingress.into_iter().chain(external).collect())
        }
        "ExternalName" => spec.text("externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

pub(super) fn endpoints(endpoints: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in endpoints.items("subsets") {
        let addresses = subset.items("addresses").iter().map(|address| address.text("ip"));
        let ports = subset.items("ports");
        if ports.is_empty() {
            // A headless service may have none.
            all.extend(addresses.clone().map(str::to_owned));
        }
        for port in ports {
            let number = port.number("port");
            all.extend(addresses.clone().map(|ip| host_port(ip, number)));
        }
    }
    let shown = match endpoints.items("subsets") {
        [] => "<none>".into(),
        _ => some(&all),
    };
    vec![name(endpoints), shown.into(), age(endpoints, now)]
}

pub(super) fn endpoint_slice(slice: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let ports: Vec<String> = slice
        .items("ports")
        .iter()
        .map(|port| match (&port["port"], &port["name"]) {
            (Value::Number(number), _) => number.to_string(),
            (_, Value::String(name)) => name.clone(),
            _ => "*".to_owned(),
        })
        .collect();
    let addresses: Vec<String> = slice
        .items("endpoints")
        .iter()
        .flat_map(|endpoint| endpoint.items("addresses"))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    vec![
        name(slice),
        slice.text("addressType").into(),
        or(&some(&ports), "<unset>"),
        or(&some(&addresses), "<unset>"),
        age(slice, now),
    ]
}

/// The addresses of a load balancer, sorted and each once.
fn load_balancer(status: &Value) -> Vec<&str> {
    let mut all: Vec<&str> = status["loadBalancer"]
        .items("ingress")
        .iter()
        .map(|i| if i.text("ip").is_empty() { i.text("hostname") } else { i.text("ip") })
        .filter(|address| !address.is_empty())
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

pub(super) fn ingress(ingress: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let spec = &ingress["spec"];
    let ports = if spec.items("tls").is_empty() { "80" } else { "80, 443" };
    vec![
        name(ingress),
        spec["ingressClassName"].as_str().unwrap_or("<none>").into(),
        hosts(spec.items("rules")).into(),
        load_balancer(&ingress["status"]).join(",").into(),
        ports.into(),
        age(ingress, now),
    ]
}

/// Upstream shows three hosts and counts the rules that are left.
fn hosts(rules: &[Value]) -> String {
    let mut shown = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= shown.len() == SHOWN;
        if !more && !rule.text("host").is_empty() {
            shown.push(rule.text("host"));
        }
    }
    match (shown.is_empty(), more) {
        (true, _) => "*".into(),
        (false, true) => format!("{} + {} more...", shown.join(","), rules.len() - SHOWN),
        (false, false) => shown.join(","),
    }
}

pub(super) fn ingress_class(class: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, parameters) = (&class["spec"], &class["spec"]["parameters"]);
    let parameters = match (parameters, parameters["apiGroup"].as_str()) {
        (Value::Null, _) => "<none>".to_owned(),
        (parameters, None) => format!("{}/{}", parameters.text("kind"), parameters.text("name")),
        (parameters, Some(group)) => {
            format!("{}.{group}/{}", parameters.text("kind"), parameters.text("name"))
        }
    };
    vec![name(class), spec.text("controller").into(), parameters.into(), age(class, now)]
}

pub(super) fn network_policy(policy: &Value, now: jiff::Timestamp) -> Vec<Value> {
    vec![name(policy), label_selector(&policy["spec"]["podSelector"]), age(policy, now)]
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// `services/default/web`, or `gateways.gateway.networking.k8s.io/web` for another group's object.
pub(super) fn ip_address(address: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let parent = &address["spec"]["parentRef"];
    let resource = match parent.text("group") {
        "" => parent.text("resource").to_owned(),
        group => format!("{}.{group}", parent.text("resource")),
    };
    let parts = [resource.as_str(), parent.text("namespace"), parent.text("name")];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    vec![name(address), or(&parts.join("/"), "<none>"), age(address, now)]
}

pub(super) fn service_cidr(cidr: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let cidrs = cidr["spec"].items("cidrs").iter().filter_map(Value::as_str);
    vec![name(cidr), cidrs.collect::<Vec<_>>().join(",").into(), age(cidr, now)]
}

fn some(all: &[String]) -> String {
    let shown = all[..all.len().min(SHOWN)].join(",");
    match all.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}
