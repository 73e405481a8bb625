//! The contents of a pod's /etc/hosts and /etc/resolv.conf, as kubelet writes them. Pure.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{HostAlias, PodDNSConfig, PodSpec};

use crate::Addresses;

/// A pod's names as its hosts file has them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names<'a> {
    /// The host name.
    pub(crate) hostname: &'a str,
    /// `hostname.subdomain.namespace.svc.domain`, when the Pod has a subdomain.
    pub(crate) domain: Option<&'a str>,
}

/// /etc/hosts of a pod with a network of its own: a line for each of its addresses.
pub(crate) fn hosts(addresses: &Addresses, names: Names<'_>, aliases: &[HostAlias]) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for ip in addresses.iter() {
        // Writing to a String cannot fail.
        let _ = match names.domain {
            Some(domain) => writeln!(text, "{ip}\t{domain}\t{}", names.hostname),
            None => writeln!(text, "{ip}\t{}", names.hostname),
        };
    }
    text + &host_aliases(aliases)
}

/// /etc/hosts of a pod that shares the node's network: the node's, and the Pod's aliases.
pub(crate) fn host_network_hosts(node: &str, aliases: &[HostAlias]) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node}{}", host_aliases(aliases))
}

fn host_aliases(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        let _ = writeln!(text, "{}\t{names}", alias.ip);
    }
    text
}

/// Where names are looked up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    /// Reads a resolv.conf.
    pub(crate) fn parse(text: &str) -> Resolver {
        let mut resolver = Resolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => resolver.servers.extend(words.next()),
                Some("search") => resolver.searches = words.collect(),
                Some("options") => resolver.options = words.collect(),
                _ => {}
            }
        }
        resolver
    }

    /// Writes a resolv.conf.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            let _ = writeln!(text, "search {}", self.searches.join(" "));
        }
        for server in &self.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }
}

/// The cluster's side of a pod's resolver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClusterDns<'a> {
    /// The DNS Service's address; none: the cluster has none yet.
    pub(crate) server: Option<&'a str>,
    /// The cluster's domain.
    pub(crate) domain: &'a str,
    /// The Pod's namespace.
    pub(crate) namespace: &'a str,
}

/// A pod's resolver by its dnsPolicy and dnsConfig; `node` is the node's own.
pub(crate) fn resolver(spec: &PodSpec, node: Resolver, cluster: ClusterDns<'_>) -> Resolver {
    let shared = spec.host_network.unwrap_or(false);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let through_cluster = match policy {
        "ClusterFirst" => !shared,
        policy => policy == "ClusterFirstWithHostNet",
    };
    let base = match (policy, cluster.server) {
        ("None", _) => Resolver::default(),
        (_, Some(server)) if through_cluster => {
            let ClusterDns { domain, namespace, .. } = cluster;
            let mut searches =
                vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.into()];
            searches.extend(node.searches);
            Resolver {
                servers: vec![server.to_owned()],
                searches,
                options: vec!["ndots:5".to_owned()],
            }
        }
        _ => node,
    };
    merge(base, spec.dns_config.as_ref())
}

fn merge(mut base: Resolver, config: Option<&PodDNSConfig>) -> Resolver {
    if let Some(config) = config {
        base.servers.extend(config.nameservers.iter().flatten().cloned());
        base.searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            let of_that_name = |old: &String| old.split(':').next() == Some(name.as_str());
            base.options.retain(|old| !of_that_name(old));
            base.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name,
            });
        }
    }
    // The C library reads no more than these (kubelet cuts there too).
    limit(&mut base.servers, 3);
    limit(&mut base.searches, 32);
    base
}

fn limit(list: &mut Vec<String>, most: usize) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|one| seen.insert(one.clone()));
    list.truncate(most);
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodDNSConfigOption;

    use super::*;

    const CLUSTER: ClusterDns<'_> =
        ClusterDns { server: Some("10.96.0.10"), domain: "cluster.local", namespace: "prod" };

    fn node() -> Resolver {
        Resolver::parse("# x\nnameserver 192.0.2.1\nsearch lan\noptions edns0 trust-ad\n")
    }

    fn rendered(spec: &PodSpec) -> String {
        resolver(spec, node(), CLUSTER).render()
    }

    #[test]
    fn a_pod_asks_the_cluster_first() {
        assert_eq!(
            rendered(&PodSpec::default()),
            "search prod.svc.cluster.local svc.cluster.local cluster.local lan\n\
             nameserver 10.96.0.10\noptions ndots:5\n"
        );
    }

    #[test]
    fn a_host_network_pod_asks_the_node_unless_told_otherwise() {
        let mut spec = PodSpec { host_network: Some(true), ..PodSpec::default() };
        assert_eq!(rendered(&spec), node().render());
        spec.dns_policy = Some("ClusterFirstWithHostNet".into());
        assert!(rendered(&spec).contains("nameserver 10.96.0.10"));
        spec.dns_policy = Some("Default".into());
        assert_eq!(rendered(&spec), node().render());
    }

    #[test]
    fn without_a_cluster_server_the_nodes_own_is_used() {
        let cluster = ClusterDns { server: None, ..CLUSTER };
        assert_eq!(resolver(&PodSpec::default(), node(), cluster), node());
    }

    #[test]
    fn a_dns_config_adds_and_overrides() {
        let option = |name: &str, value: Option<&str>| PodDNSConfigOption {
            name: Some(name.into()),
            value: value.map(str::to_owned),
        };
        let config = PodDNSConfig {
            nameservers: Some(vec!["1.1.1.1".into(), "10.96.0.10".into()]),
            searches: Some(vec!["example.org".into()]),
            options: Some(vec![option("ndots", Some("2")), option("edns0", None)]),
        };
        let mut spec = PodSpec { dns_config: Some(config), ..PodSpec::default() };
        assert_eq!(
            rendered(&spec),
            "search prod.svc.cluster.local svc.cluster.local cluster.local lan example.org\n\
             nameserver 10.96.0.10\nnameserver 1.1.1.1\noptions ndots:2 edns0\n"
        );
        spec.dns_policy = Some("None".into());
        assert_eq!(
            rendered(&spec),
            "search example.org\nnameserver 1.1.1.1\nnameserver 10.96.0.10\noptions ndots:2 edns0\n"
        );
    }

    #[test]
    fn the_hosts_file_names_the_pod_and_its_aliases() {
        let alias =
            HostAlias { ip: "192.0.2.7".into(), hostnames: Some(vec!["one".into(), "two".into()]) };
        let names = Names { hostname: "web-0", domain: Some("web-0.web.prod.svc.cluster.local") };
        let text = hosts(&"10.244.0.5,fd00::5".parse().unwrap(), names, &[alias]);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with(
            "10.244.0.5\tweb-0.web.prod.svc.cluster.local\tweb-0\n\
             fd00::5\tweb-0.web.prod.svc.cluster.local\tweb-0\n\n\
             # Entries added by HostAliases.\n192.0.2.7\tone\ttwo\n"
        ));
    }
}
