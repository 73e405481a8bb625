//! The chains of one Service port.

use std::sync::Arc;

use portolan_model::{
    Action, EndpointSet, ForwardingTable, Front, FrontKey, LocalDetector, Masquerade, Origin,
    ServicePortName, SessionAffinity, Target,
};

use crate::name;
use crate::render::{Chains, Table, own_ranges, transport};
use crate::sight::Sight;

/// What a Service port has in a table.
#[derive(Debug, Default)]
pub(crate) struct Parts<'a> {
    pub(crate) fronts: Vec<(FrontKey, &'a Front)>,
    pub(crate) sets: Vec<&'a Arc<EndpointSet>>,
}

/// The chains of a Service port.
pub(crate) fn chains(sight: &Sight, port: &ServicePortName, parts: &Parts) -> Chains {
    let mut chains = Chains::new();
    for set in &parts.sets {
        let mut rules = cluster_ip_marks(sight, port, set, parts);
        rules.extend(choice(port, set));
        chains.insert((Table::Nat, name::set(port, set.scope)), rules);
        for target in set.targets.as_slice() {
            let chain = name::endpoint(port, target.address);
            chains.insert((Table::Nat, chain), endpoint(sight, port, set, target));
        }
    }
    let mut external = parts.fronts.iter().filter(|(_, front)| is_external(front));
    if let Some((_, front)) = external.next() {
        chains.insert((Table::Nat, name::external(port)), outside(sight, port, front));
    }
    let guarded = firewall(port, parts);
    if !guarded.is_empty() {
        chains.insert((Table::Nat, name::firewall(port)), guarded);
    }
    chains
}

/// Whether a front leads into the chain for traffic from outside.
fn is_external(front: &Front) -> bool {
    front.origin != Origin::ClusterIp && matches!(front.inside, Action::Balance(_))
}

/// Marks what comes to a cluster IP and is to be masqueraded.
fn cluster_ip_marks(
    sight: &Sight,
    port: &ServicePortName,
    set: &EndpointSet,
    parts: &Parts,
) -> Vec<String> {
    let leads_here = |front: &Front| match front.inside {
        Action::Balance(id) => sight.set(id).is_some_and(|other| other.scope == set.scope),
        Action::Reject | Action::Drop => false,
    };
    let mut rules = Vec::new();
    for (key, front) in &parts.fronts {
        let (Origin::ClusterIp, Some(ip)) = (front.origin, key.address()) else { continue };
        if !leads_here(front) || front.masquerade.outside == Masquerade::No {
            continue;
        }
        let (who, to) = match front.masquerade.pod {
            Masquerade::Yes(_) => (String::new(), "KUBE-MARK-MASQ"),
            Masquerade::No => not_pods(sight.table()),
        };
        let comment = name::comment(&format!("{port} cluster IP"));
        let found = format!("{} -d {ip} --dport {}", transport(key.protocol()), key.port());
        rules.push(format!("{comment} {who}{found} -j {to}"));
    }
    rules
}

/// The match of everything but pods, and the chain that marks it.
fn not_pods(table: &ForwardingTable) -> (String, &'static str) {
    match &table.settings.local_detector {
        LocalDetector::None => (String::new(), "KUBE-MARK-MASQ"),
        LocalDetector::Cidrs(_) => match own_ranges(table).as_slice() {
            [] => (String::new(), "KUBE-MARK-MASQ"),
            [range] => (format!("! -s {range} "), "KUBE-MARK-MASQ"),
            _ => (String::new(), "KUBE-MARK-OFF-CLUSTER"),
        },
        LocalDetector::Bridge(name) => (format!("! -i {} ", interface(name)), "KUBE-MARK-MASQ"),
        LocalDetector::InterfacePrefix(name) => {
            (format!("! -i {}+ ", interface(name)), "KUBE-MARK-MASQ")
        }
    }
}

/// The matches of pods, one of which holds for each.
fn pods(table: &ForwardingTable) -> Vec<String> {
    match &table.settings.local_detector {
        LocalDetector::None => Vec::new(),
        LocalDetector::Cidrs(_) => {
            own_ranges(table).iter().map(|range| format!("-s {range}")).collect()
        }
        LocalDetector::Bridge(name) => vec![format!("-i {}", interface(name))],
        LocalDetector::InterfacePrefix(name) => vec![format!("-i {}+", interface(name))],
    }
}

/// An interface's name within a rule: nothing that would end the word.
fn interface(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_graphic() && c != '"' { c } else { '_' }).collect()
}

/// The choice of an endpoint.
fn choice(port: &ServicePortName, set: &EndpointSet) -> Vec<String> {
    let targets = set.targets.as_slice();
    let to = |target: &Target| {
        let comment = name::comment(&format!("{port} -> {}", target.address));
        (comment, name::endpoint(port, target.address))
    };
    let mut rules = Vec::new();
    if let SessionAffinity::ClientIp { timeout } = set.affinity {
        for target in targets {
            let (comment, chain) = to(target);
            let seconds = timeout.as_secs();
            let recent = format!("-m recent --name {chain} --rcheck --seconds {seconds} --reap");
            rules.push(format!("{comment} {recent} -j {chain}"));
        }
    }
    for (index, target) in targets.iter().enumerate() {
        let (comment, chain) = to(target);
        let left = targets.len() - index;
        let chance = match left {
            1 => String::new(),
            _ => {
                let probability = 1.0 / left as f64;
                format!(" -m statistic --mode random --probability {probability:.10}")
            }
        };
        rules.push(format!("{comment}{chance} -j {chain}"));
    }
    rules
}

/// The way to one endpoint.
fn endpoint(
    sight: &Sight,
    port: &ServicePortName,
    set: &EndpointSet,
    target: &Target,
) -> Vec<String> {
    let comment = name::comment(&port.to_string());
    let ip = target.address.ip();
    let mut rules = Vec::new();
    if sight.may_reach_itself(ip) {
        rules.push(format!("{comment} -s {ip} -j KUBE-MARK-MASQ"));
    }
    let remember = match set.affinity {
        SessionAffinity::None => String::new(),
        SessionAffinity::ClientIp { .. } => {
            format!(" -m recent --name {} --set", name::endpoint(port, target.address))
        }
    };
    let transport = transport(port.protocol);
    rules.push(format!(
        "{comment}{remember} {transport} -j DNAT --to-destination {}",
        target.address
    ));
    rules
}

/// The chain for what is addressed to an external IP, a load balancer's IP or a node port.
fn outside(sight: &Sight, port: &ServicePortName, front: &Front) -> Vec<String> {
    let chain = |action| match action {
        Action::Balance(id) => sight.set(id).map(|set| name::set(port, set.scope)),
        Action::Reject | Action::Drop => None,
    };
    let Some(inside) = chain(front.inside) else { return Vec::new() };
    let mut rules = Vec::new();
    // Under policy Cluster every class is masqueraded and goes to the same set.
    if front.masquerade.outside != Masquerade::No {
        let comment =
            name::comment(&format!("masquerade traffic for {port} external destinations"));
        rules.push(format!("{comment} -j KUBE-MARK-MASQ"));
    } else {
        let pod = name::comment(&format!("pod traffic for {port} external destinations"));
        rules.extend(pods(sight.table()).iter().map(|who| format!("{pod} {who} -j {inside}")));
        let mark =
            name::comment(&format!("masquerade LOCAL traffic for {port} external destinations"));
        let route = name::comment(&format!("route LOCAL traffic for {port} external destinations"));
        rules.push(format!("{mark} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ"));
        rules.push(format!("{route} -m addrtype --src-type LOCAL -j {inside}"));
    }
    rules.extend(chain(front.outside).map(|chain| format!("-j {chain}")));
    rules
}

/// The chain that lets in who may use a load balancer.
fn firewall(port: &ServicePortName, parts: &Parts) -> Vec<String> {
    let mut rules = Vec::new();
    let to = name::external(port);
    let comment = name::comment(&format!("{port} loadbalancer IP"));
    for (key, front) in &parts.fronts {
        let (Some(ranges), Some(ip)) = (&front.source_ranges, key.address()) else { continue };
        if !is_external(front) {
            continue;
        }
        let rule = |range| format!("{comment} -s {range} -d {ip} -j {to}");
        rules.extend(ranges.admitted(Some(ip)).map(rule));
    }
    if !rules.is_empty() {
        let text = format!("other traffic to {port} will be dropped by KUBE-PROXY-FIREWALL");
        rules.push(name::comment(&text));
    }
    rules
}
