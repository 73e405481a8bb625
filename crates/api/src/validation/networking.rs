//! Ingresses, their classes, and network policies (upstream: pkg/apis/networking/validation).

use ipnet::IpNet;
use serde_json::Value;

use super::causes::{Causes, Path};
use super::{formats, selector};
use crate::fields::Fields;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
const BAD_SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const BAD_SUFFIXES: [&str; 2] = ["/..", "/."];
const CONTROLLER_BYTES: usize = 250;

/// The annotation and the field both name the class: a new Ingress may not contradict itself.
pub(super) fn ingress_create(causes: &mut Causes, ingress: &Value) {
    let annotation = &ingress["metadata"]["annotations"][CLASS_ANNOTATION];
    let class = &ingress["spec"]["ingressClassName"];
    if annotation.is_string() && class.is_string() && annotation != class {
        let path = Path::new("annotations");
        let message = "must match `ingressClassName` when both are specified";
        causes.invalid(&path.child(CLASS_ANNOTATION), annotation.clone(), message);
    }
}

pub(super) fn ingress(causes: &mut Causes, ingress: &Value) {
    let (spec, path) = (&ingress["spec"], Path::new("spec"));
    let rules = spec.items("rules");
    if rules.is_empty() && !spec.has("defaultBackend") {
        let message = "either `defaultBackend` or `rules` must be specified";
        causes.invalid(&path, spec["rules"].clone(), message);
    }
    if spec.has("defaultBackend") {
        backend(causes, &path.child("defaultBackend"), &spec["defaultBackend"]);
    }
    let list = path.child("rules");
    for (index, rule) in rules.iter().enumerate() {
        let path = list.index(index);
        host(causes, &path.child("host"), rule.text("host"));
        if rule.has("http") {
            let path = path.child("http");
            let list = path.child("paths");
            if rule["http"].items("paths").is_empty() {
                causes.required(&list, "");
            }
            for (index, item) in rule["http"].items("paths").iter().enumerate() {
                http_path(causes, &list.index(index), item);
            }
        }
    }
    let list = path.child("tls");
    for (index, tls) in spec.items("tls").iter().enumerate() {
        let path = list.index(index);
        let hosts = path.child("hosts");
        for (index, name) in tls.items("hosts").iter().filter_map(Value::as_str).enumerate() {
            causes.all(&hosts.index(index), name, host_format(name));
        }
        let secret = tls.text("secretName");
        if !secret.is_empty() {
            causes.all(&path.child("secretName"), secret, formats::dns_subdomain(secret));
        }
    }
    if let Some(class) = spec["ingressClassName"].as_str() {
        causes.all(&path.child("ingressClassName"), class, formats::dns_subdomain(class));
    }
}

fn host_format(name: &str) -> Vec<String> {
    if name.contains('*') {
        formats::wildcard_dns_subdomain(name)
    } else {
        formats::dns_subdomain(name)
    }
}

fn host(causes: &mut Causes, path: &Path<'_>, name: &str) {
    if name.is_empty() {
        return;
    }
    if name.parse::<std::net::IpAddr>().is_ok() {
        causes.invalid(path, name, "must be a DNS name, not an IP address");
    }
    causes.all(path, name, host_format(name));
}

fn http_path(causes: &mut Causes, path: &Path<'_>, item: &Value) {
    if !item.has("pathType") {
        return causes.required(&path.child("pathType"), "pathType must be specified");
    }
    let (text, own) = (item.text("path"), path.child("path"));
    match item.text("pathType") {
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                causes.invalid(&own, text, "must be an absolute path");
            }
            for sequence in BAD_SEQUENCES.iter().filter(|sequence| text.contains(**sequence)) {
                causes.invalid(&own, text, &format!("must not contain '{sequence}'"));
            }
            for suffix in BAD_SUFFIXES.iter().filter(|suffix| text.ends_with(**suffix)) {
                causes.invalid(&own, text, &format!("cannot end with '{suffix}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                causes.invalid(&own, text, "must be an absolute path");
            }
        }
        other => causes.not_supported(&path.child("pathType"), other, PATH_TYPES),
    }
    backend(causes, &path.child("backend"), &item["backend"]);
}

fn backend(causes: &mut Causes, path: &Path<'_>, backend: &Value) {
    match (backend.has("resource"), backend.has("service")) {
        (true, true) => {
            causes.invalid(path, "", "cannot set both resource and service backends");
        }
        (true, false) => typed_reference(causes, &path.child("resource"), &backend["resource"]),
        (false, true) => service_backend(causes, path, &backend["service"]),
        (false, false) => causes.invalid(path, "", "resource or service backend is required"),
    }
}

fn typed_reference(causes: &mut Causes, path: &Path<'_>, reference: &Value) {
    let group = reference.text("apiGroup");
    if !group.is_empty() {
        causes.all(&path.child("apiGroup"), group, formats::dns_subdomain(group));
    }
    for field in ["kind", "name"] {
        match reference.text(field) {
            "" => causes.required(&path.child(field), &format!("{field} is required")),
            text => causes.all(&path.child(field), text, formats::path_segment(text)),
        }
    }
}

fn service_backend(causes: &mut Causes, path: &Path<'_>, service: &Value) {
    let own = path.child("service");
    match service.text("name") {
        "" => causes.required(&own.child("name"), ""),
        name => causes.all(&own.child("name"), name, formats::dns_label(name)),
    }
    let (name, number) = (service["port"].text("name"), service["port"].number("number"));
    let port = own.child("port");
    match (name, number) {
        ("", 0) => causes.required(path, "port name or number is required"),
        ("", number) => causes.port_number(&port.child("number"), number),
        (name, 0) => causes.all(&port.child("name"), name, formats::port_name(name)),
        _ => causes.invalid(path, "", "cannot set both port name & port number"),
    }
}

/// Where an Ingress is reached, as its controller writes it.
pub(super) fn ingress_status(causes: &mut Causes, ingress: &Value) {
    let status = Path::new("status");
    let balancer = status.child("loadBalancer");
    let list = balancer.child("ingress");
    for (index, point) in ingress["status"]["loadBalancer"].items("ingress").iter().enumerate() {
        let path = list.index(index);
        let ip = point.text("ip");
        if !ip.is_empty() {
            causes.all(&path.child("ip"), ip, formats::ip(ip));
        }
        let (name, path) = (point.text("hostname"), path.child("hostname"));
        if !name.is_empty() {
            causes.all(&path, name, formats::dns_subdomain(name));
            if name.parse::<std::net::IpAddr>().is_ok() {
                causes.invalid(&path, name, "must be a DNS name, not an IP address");
            }
        }
    }
}

pub(super) fn ingress_class(causes: &mut Causes, class: &Value) {
    let (spec, path) = (&class["spec"], Path::new("spec"));
    let controller = spec.text("controller");
    if controller.len() > CONTROLLER_BYTES {
        causes.too_long(&path.child("controller"), CONTROLLER_BYTES);
    }
    domain_prefixed_path(causes, &path.child("controller"), controller);
    if !spec.has("parameters") {
        return;
    }
    let (parameters, path) = (&spec["parameters"], path.child("parameters"));
    typed_reference(causes, &path, parameters);
    let namespace = parameters.text("namespace");
    match parameters.text("scope") {
        "Cluster" => {
            if parameters.has("namespace") {
                let message = "`parameters.scope` is set to 'Cluster'";
                causes.forbidden(&path.child("namespace"), message);
            }
        }
        "Namespace" if namespace.is_empty() => {
            causes.required(&path.child("namespace"), "`parameters.scope` is set to 'Namespace'");
        }
        "Namespace" => {
            causes.all(&path.child("namespace"), namespace, formats::dns_label(namespace));
        }
        other => causes.one_of(&path.child("scope"), other, &["Cluster", "Namespace"]),
    }
}

/// `acme.io/foo` (upstream: validation.IsDomainPrefixedPath).
pub(super) fn domain_prefixed_path(causes: &mut Causes, path: &Path<'_>, text: &str) {
    if text.is_empty() {
        return causes.required(path, "");
    }
    match text.split_once('/') {
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            causes.all(path, host, formats::dns_subdomain(host));
            causes.all(path, rest, formats::http_path(rest));
        }
        _ => {
            let message = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            causes.invalid(path, text, message);
        }
    }
}

pub(super) fn ingress_class_update(causes: &mut Causes, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let (new, old) = (&new["spec"]["controller"], &old["spec"]["controller"]);
    causes.immutable(&path.child("controller"), new, old);
}

pub(super) fn network_policy(causes: &mut Causes, policy: &Value) {
    let (spec, path) = (&policy["spec"], Path::new("spec"));
    selector::validate(causes, &path.child("podSelector"), &spec["podSelector"]);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let list = path.child(direction);
        for (index, rule) in spec.items(direction).iter().enumerate() {
            let path = list.index(index);
            let ports = path.child("ports");
            for (index, port) in rule.items("ports").iter().enumerate() {
                policy_port(causes, &ports.index(index), port);
            }
            let list = path.child(peers);
            for (index, peer) in rule.items(peers).iter().enumerate() {
                policy_peer(causes, &list.index(index), peer);
            }
        }
    }
    let types = spec.items("policyTypes");
    let list = path.child("policyTypes");
    if types.len() > 2 {
        let message = "may not specify more than two policyTypes";
        return causes.invalid(&list, spec["policyTypes"].clone(), message);
    }
    for (index, kind) in types.iter().filter_map(Value::as_str).enumerate() {
        if !matches!(kind, "Ingress" | "Egress") {
            causes.not_supported(&list.index(index), kind, &["Egress", "Ingress"]);
        }
    }
}

fn policy_port(causes: &mut Causes, path: &Path<'_>, port: &Value) {
    let protocols = ["SCTP", "TCP", "UDP"];
    causes.one_of_or_empty(&path.child("protocol"), port.text("protocol"), &protocols);
    let (own, end_path) = (path.child("port"), path.child("endPort"));
    let end = port["endPort"].as_i64();
    match (&port["port"], end) {
        (Value::Null, Some(end)) => {
            causes.invalid(&end_path, end, "may not be specified when `port` is not specified");
        }
        (Value::String(name), end) => {
            if let Some(end) = end {
                let message = "may not be specified when `port` is non-numeric";
                causes.invalid(&end_path, end, message);
            }
            causes.all(&own, name, formats::port_name(name));
        }
        (Value::Number(number), end) => {
            let number = number.as_i64().unwrap_or_default();
            causes.port_number(&own, number);
            if let Some(end) = end {
                if end < number {
                    let message = "must be greater than or equal to `port`";
                    causes.invalid(&end_path, number, message);
                }
                causes.port_number(&end_path, end);
            }
        }
        _ => {}
    }
}

fn policy_peer(causes: &mut Causes, path: &Path<'_>, peer: &Value) {
    let mut given = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if peer.has(field) {
            given += 1;
            selector::validate(causes, &path.child(field), &peer[field]);
        }
    }
    if peer.has("ipBlock") {
        given += 1;
        ip_block(causes, &path.child("ipBlock"), &peer["ipBlock"]);
    }
    if given == 0 {
        causes.required(path, "must specify a peer");
    } else if given > 1 && peer.has("ipBlock") {
        causes.forbidden(path, "may not specify both ipBlock and another peer");
    }
}

fn ip_block(causes: &mut Causes, path: &Path<'_>, block: &Value) {
    let cidr = block.text("cidr");
    if cidr.is_empty() {
        return causes.required(&path.child("cidr"), "");
    }
    causes.all(&path.child("cidr"), cidr, formats::cidr(cidr));
    let Ok(whole) = cidr.parse::<IpNet>() else { return };
    let list = path.child("except");
    for (index, text) in block.items("except").iter().filter_map(Value::as_str).enumerate() {
        let path = list.index(index);
        causes.all(&path, text, formats::cidr(text));
        if let Ok(part) = text.parse::<IpNet>()
            && !(whole.contains(&part.network()) && whole.prefix_len() < part.prefix_len())
        {
            causes.invalid(&path, text, "must be a strict subset of `cidr`");
        }
    }
}
