//! What upstream warns of when a Service is written (upstream: `GetWarningsForService`).
//!
//! Addresses and ranges that strict validation refuses are not warned of: they cannot be stored.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::is_headless;
use crate::fields::Fields;

const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";

pub(in crate::strategy) fn warnings(service: &Value) -> Vec<String> {
    let spec = &service["spec"];
    let type_ = spec.text("type");
    let headless = matches!(type_, "" | "ClusterIP") && is_headless(spec);
    let external_ips = !spec.items("externalIPs").is_empty();
    let mut warnings = Vec::new();
    let mut warn_if = |applies: bool, text: &str| {
        if applies {
            warnings.push(text.to_owned());
        }
    };
    warn_if(
        service["metadata"]["annotations"].has(TOPOLOGY_HINTS),
        "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use \
         service.kubernetes.io/topology-mode instead",
    );
    if !is_headless(spec) && type_ != "ExternalName" {
        for warning in non_canonical_ips(spec, "clusterIPs") {
            warn_if(true, &warning);
        }
    }
    if headless {
        warn_if(
            !spec.text("loadBalancerIP").is_empty(),
            "spec.loadBalancerIP is ignored for headless services",
        );
        warn_if(external_ips, "spec.externalIPs is ignored for headless services");
        warn_if(
            !matches!(spec.text("sessionAffinity"), "" | "None"),
            "spec.SessionAffinity is ignored for headless services",
        );
    }
    for warning in non_canonical_ips(spec, "externalIPs") {
        warn_if(true, &warning);
    }
    warn_if(
        external_ips && !headless && type_ != "ExternalName",
        "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
    );
    if let Some(warning) = non_canonical_ip("spec.loadBalancerIP", spec.text("loadBalancerIP")) {
        warn_if(true, &warning);
    }
    for (index, range) in spec.items("loadBalancerSourceRanges").iter().enumerate() {
        let text = range.as_str().unwrap_or_default();
        let path = format!("spec.loadBalancerSourceRanges[{index}]");
        if let Ok(net @ IpNet::V6(_)) = text.parse::<IpNet>()
            && net.to_string() != text
        {
            let warning = format!(
                "{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format (\"{net}\")"
            );
            warn_if(true, &warning);
        }
    }
    warn_if(
        type_ == "ExternalName" && external_ips,
        "spec.externalIPs is ignored when spec.type is \"ExternalName\"",
    );
    warn_if(
        type_ != "ExternalName" && !spec.text("externalName").is_empty(),
        "spec.externalName is ignored when spec.type is not \"ExternalName\"",
    );
    warn_if(
        spec.text("trafficDistribution") == "PreferClose",
        "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
    );
    warnings
}

fn non_canonical_ips(spec: &Value, field: &str) -> Vec<String> {
    let ips = spec.items(field).iter().filter_map(Value::as_str).enumerate();
    ips.filter_map(|(index, ip)| non_canonical_ip(&format!("spec.{field}[{index}]"), ip)).collect()
}

fn non_canonical_ip(path: &str, text: &str) -> Option<String> {
    let ip = text.parse::<IpAddr>().ok().filter(IpAddr::is_ipv6)?;
    (ip.to_string() != text).then(|| {
        format!("{path}: IPv6 address {text:?} should be in RFC 5952 canonical format (\"{ip}\")")
    })
}
