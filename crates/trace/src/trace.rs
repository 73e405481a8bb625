//! The way of one packet, told step by step.
//!
//! ```text
//! question ─▶ packet ─▶ model::walk ─▶ verdict, reasons
//!                                          └─▶ the Service's fields and slices ─▶ steps
//! ```
//!
//! The verdict is the model's; the steps look at the objects again to say which of their fields
//! decided.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1 as core;
use portolan_model::{
    Family, ForwardingTable, Front, FrontKey, IpMode, LocalDetector, MasqueradeReason, Origin,
    Packet, Protocol, Reason, Scope, Service, ServicePortName, SessionAffinity, SourceClass,
    TrafficPolicy, Transport, UnallocatedClusterIp, UndefinedPort, Verdict, walk,
};
use portolan_proxy::convert;

use crate::TraceError;
use crate::answer::{Answer, Label, Step, VerdictName};
use crate::explain::{Query, described, explain};
use crate::objects::Objects;
use crate::overlooked::overlooked;
use crate::question::{Question, To};
use crate::source::{Source, node_of};
use crate::view::{PROXY_NAME, View, is_ours, label, slices, unseen};

/// The node whose rules a question is about: the one that is named, or else the one that the packet
/// meets first, or else the only one that there is.
///
/// # Errors
/// When several nodes could be meant.
pub fn node_name(
    objects: &Objects,
    question: &Question,
    named: [Option<&str>; 2],
) -> Result<String, TraceError> {
    let [explicit, fallback] = named.map(|name| name.filter(|name| !name.is_empty()));
    if let Some(name) = explicit {
        return Ok(name.into());
    }
    if let Some(name) = node_of(&question.from, objects).or(fallback.map(Into::into)) {
        return Ok(name);
    }
    let names: Vec<_> = objects.nodes.keys().cloned().collect();
    match names.as_slice() {
        [] => Ok(String::new()),
        [only] => Ok(only.clone()),
        _ => Err(TraceError::WhichNode(names)),
    }
}

/// Where a packet is addressed to, or why there is no packet.
enum Destination {
    At(IpAddr, Transport),
    /// The proxy has nothing to do with it.
    Nowhere(String),
}

/// The first packet of the connection that is asked about; nothing when the proxy has no part in it
/// (headless and ExternalName Services).
///
/// # Errors
/// When the question names what is not there.
pub fn packet(
    objects: &Objects,
    view: &View,
    question: &Question,
) -> Result<Option<Packet>, TraceError> {
    let source = Source::new(&question.from, objects, view)?;
    match destination(objects, &source, question)? {
        Destination::At(ip, transport) => packet_to(view, &source, ip, transport).map(Some),
        Destination::Nowhere(_) => Ok(None),
    }
}

fn packet_to(
    view: &View,
    source: &Source,
    destination: IpAddr,
    transport: Transport,
) -> Result<Packet, TraceError> {
    let family = Family::of(destination);
    let from = source
        .sends_from(destination, view)
        .ok_or_else(|| TraceError::NoAddress { what: source.who.clone(), family })?;
    let detector = view.config.local_detector.for_family(family);
    let arrival = source.arrival(&detector);
    Ok(Packet { source: from, destination, transport: Some(transport), arrival })
}

/// Says what becomes of a packet and why.
///
/// # Errors
/// When the question names what is not there.
pub fn trace(objects: &Objects, view: &View, question: &Question) -> Result<Answer, TraceError> {
    let source = Source::new(&question.from, objects, view)?;
    let (ip, transport) = match destination(objects, &source, question)? {
        Destination::At(ip, transport) => (ip, transport),
        Destination::Nowhere(why) => {
            let from = Step::new(Label::From, &source.who);
            return Ok(Answer::untouched(vec![from, Step::new(Label::Rule, why)]));
        }
    };
    let packet = packet_to(view, &source, ip, transport)?;
    let table = view.table(objects, Family::of(ip));
    let (verdict, reasons) = walk(&table, &view.profile, &packet);
    let teller = Teller { objects, view, table: &table, packet: &packet };
    let steps = teller.steps(&source, &reasons);
    let mut choices = match &verdict {
        Verdict::Forward(choices) => choices.clone(),
        Verdict::Reject | Verdict::Drop | Verdict::Pass => Vec::new(),
    };
    choices.sort();
    let masqueraded = choices.iter().filter(|c| c.masquerade.is_some()).map(|c| c.target);
    Ok(Answer {
        verdict: match verdict {
            Verdict::Forward(_) => VerdictName::Dnat,
            Verdict::Reject => VerdictName::Reject,
            Verdict::Drop => VerdictName::Drop,
            Verdict::Pass => VerdictName::Accept,
        },
        masqueraded: masqueraded.collect(),
        endpoints: choices.iter().map(|c| c.target).collect(),
        steps,
    })
}

fn destination(
    objects: &Objects,
    source: &Source,
    question: &Question,
) -> Result<Destination, TraceError> {
    let (name, port) = match &question.to {
        To::Address(address) => {
            let protocol = question.protocol.unwrap_or_default();
            return Ok(Destination::At(address.ip(), Transport { protocol, port: address.port() }));
        }
        To::Service { name, port } => (name, port.as_deref()),
    };
    let object = objects.services.get(name).ok_or_else(|| TraceError::NotFound {
        kind: "Service",
        name: name.to_string(),
        hint: "--to also takes IP:PORT",
    })?;
    let spec = object.spec.clone().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        let external = spec.external_name.as_deref().unwrap_or_default();
        return Ok(Destination::Nowhere(format!(
            "Service {name} is of type ExternalName: DNS answers with {external}, and the proxy has no rule for it"
        )));
    }
    let single = spec.cluster_ip.as_slice();
    let ips = spec.cluster_ips.as_deref().filter(|ips| !ips.is_empty()).unwrap_or(single);
    if ips.iter().any(|ip| ip == "None") {
        return Ok(Destination::Nowhere(format!(
            "Service {name} is headless: DNS answers with its endpoints' own addresses, and the proxy has no rule for it"
        )));
    }
    let ips: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    let Some(first) = ips.first() else {
        return Ok(Destination::Nowhere(format!("Service {name} has no cluster IP yet")));
    };
    let families = source.families();
    let ip = ips.iter().find(|ip| families.contains(&Family::of(**ip))).unwrap_or(first);
    let transport = transport(object, &name.to_string(), port, question.protocol)?;
    Ok(Destination::At(*ip, transport))
}

/// The port that is meant, by number or name. A number that the Service does not define is still one
/// that a packet can be sent to.
fn transport(
    object: &core::Service,
    name: &str,
    port: Option<&str>,
    protocol: Option<Protocol>,
) -> Result<Transport, TraceError> {
    let ports = convert::service(object).map(|service| service.ports).unwrap_or_default();
    let is_wanted = |p: &&portolan_model::ServicePort| protocol.is_none_or(|it| it == p.protocol);
    let number = port.and_then(|port| port.parse::<u16>().ok());
    let mut found = ports.iter().filter(is_wanted).filter(|p| match (number, port) {
        (Some(number), _) => p.port.get() == number,
        (None, Some(port)) => &*p.name == port,
        (None, None) => true,
    });
    match (found.next(), found.next(), number) {
        (Some(only), None, _) => Ok(Transport { protocol: only.protocol, port: only.port.get() }),
        // One number of several protocols: TCP unless it is asked for another.
        (Some(_), _, Some(number)) | (None, _, Some(number)) => {
            Ok(Transport { protocol: protocol.unwrap_or_default(), port: number })
        }
        _ => {
            let one = |p: &portolan_model::ServicePort| {
                format!("{} ({})", p.port, described(&p.name, p.protocol))
            };
            let ports = ports.iter().map(one).collect();
            Err(TraceError::WhichPort { service: name.into(), ports })
        }
    }
}

/// Tells the model's reasons in the words of the objects.
struct Teller<'a> {
    objects: &'a Objects,
    view: &'a View,
    table: &'a ForwardingTable,
    packet: &'a Packet,
}

impl Teller<'_> {
    fn steps(&self, source: &Source, reasons: &[Reason]) -> Vec<Step> {
        let class = reasons.iter().find_map(|reason| match reason {
            Reason::From(class) => Some(*class),
            _ => None,
        });
        let class = class.unwrap_or(SourceClass::Outside);
        let mut steps = vec![Step::new(Label::From, self.from(source, class))];
        for reason in reasons {
            match reason {
                Reason::Front { key, origin, port } => {
                    let Some(front) = self.table.fronts.get(key) else { continue };
                    self.front(*key, *origin, port, &mut steps);
                    self.ranges(*key, front, class, &mut steps);
                    if !reasons.contains(&Reason::NotAdmitted) {
                        self.beyond(front, class, reasons, &mut steps);
                    }
                }
                Reason::UndefinedPort(ip) => steps.push(self.undefined(*ip)),
                Reason::UnallocatedClusterIp(range) => {
                    let mode = self.view.profile.mode;
                    let fate = match self.view.profile.unallocated_cluster_ip {
                        UnallocatedClusterIp::Drop => "drops the packet",
                        UnallocatedClusterIp::Pass => "lets the packet go on",
                    };
                    let text = format!(
                        "{} is no Service's cluster IP, but in service CIDR {range}: mode {mode} {fate}",
                        self.packet.destination
                    );
                    steps.push(Step::new(Label::Rule, text));
                }
                Reason::NoFront => {
                    let text = format!("{} is not a Service's", self.addressee());
                    steps.push(Step::new(Label::Rule, text));
                }
                _ => {}
            }
        }
        if !reasons.iter().any(|reason| matches!(reason, Reason::Front { .. })) {
            steps.extend(
                overlooked(self.objects, self.view, self.packet)
                    .into_iter()
                    .map(|text| Step::new(Label::Note, text)),
            );
        }
        steps
    }

    fn addressee(&self) -> String {
        match self.packet.transport {
            Some(Transport { protocol, port }) => {
                format!("{} {protocol}", SocketAddr::new(self.packet.destination, port))
            }
            None => self.packet.destination.to_string(),
        }
    }

    fn from(&self, source: &Source, class: SourceClass) -> String {
        let counts = match (&self.table.settings.local_detector, class) {
            (_, SourceClass::Node) => "sent by this node".into(),
            (LocalDetector::Cidrs(ranges), SourceClass::Pod) => {
                let within = ranges.iter().find(|range| range.contains(&self.packet.source));
                let range = within.map(ToString::to_string).unwrap_or_default();
                format!("counts as a pod, within pod range {range}")
            }
            (_, SourceClass::Pod) => "counts as a pod, come in at a pod's interface".into(),
            (LocalDetector::None, _) => {
                "counts as outside, as no pod range of this family is configured".into()
            }
            (LocalDetector::Cidrs(_), _) => "counts as outside, within no pod range".into(),
            (_, _) => "counts as outside, come in at no pod's interface".into(),
        };
        let at = match &*self.view.node_name {
            "" => String::new(),
            name => format!("at node {name} "),
        };
        format!("{} ({}): {at}{counts}", source.who, self.packet.source)
    }

    fn front(&self, key: FrontKey, origin: Origin, port: &ServicePortName, steps: &mut Vec<Step>) {
        let what = match key {
            FrontKey::Address { .. } => origin.to_string(),
            FrontKey::NodePort { port, .. } => format!("node port {port}"),
        };
        steps.push(Step::new(Label::To, format!("{}, {what} of Service {port}", self.addressee())));
        for (name, object) in &self.objects.services {
            if *name != port.service && is_ours(&object.metadata) && claims(object, key) {
                let text = format!(
                    "Service {name} claims it, too: cluster IPs come before load balancer IPs, these before external IPs, then the first by name"
                );
                steps.push(Step::new(Label::Note, text));
            }
        }
    }

    fn ranges(&self, key: FrontKey, front: &Front, class: SourceClass, steps: &mut Vec<Step>) {
        let source = self.packet.source;
        let Some(ranges) = &front.source_ranges else {
            let has_some = self
                .service(&front.port)
                .is_some_and(|service| !service.load_balancer_source_ranges.is_empty());
            if has_some && front.origin != Origin::ClusterIp {
                let text = match front.origin {
                    Origin::LoadBalancerIp => "loadBalancerSourceRanges admit everybody".into(),
                    origin => format!(
                        "loadBalancerSourceRanges hold at load balancer IPs, not at this {origin}"
                    ),
                };
                steps.push(Step::new(Label::Ranges, text));
            }
            return;
        };
        let admitted = ranges.admitted(key.address()).find(|range| range.contains(&source));
        let text = match admitted {
            Some(range) if !ranges.ranges.contains(&range) => {
                "admitted: this node sends from the front's own address, and loadBalancerSourceRanges contain an address of the node".into()
            }
            Some(range) => format!("{source} is admitted by {range} of loadBalancerSourceRanges"),
            None => {
                let all: Vec<_> = ranges.ranges.iter().map(ToString::to_string).collect();
                let all = if all.is_empty() { "none of this family".into() } else { all.join(", ") };
                format!("{source} ({class}) is not within loadBalancerSourceRanges ({all}): dropped")
            }
        };
        steps.push(Step::new(Label::Ranges, text));
    }

    /// Policy, hints, endpoints, affinity and masquerade.
    fn beyond(&self, front: &Front, class: SourceClass, reasons: &[Reason], steps: &mut Vec<Step>) {
        let Some(service) = self.service(&front.port) else { return };
        let (field, policy) = match front.origin {
            Origin::ClusterIp => ("internalTrafficPolicy", service.internal_traffic_policy),
            Origin::LoadBalancerIp | Origin::ExternalIp | Origin::NodePort => {
                ("externalTrafficPolicy", service.external_traffic_policy)
            }
        };
        let is_short = front.origin != Origin::ClusterIp && class != SourceClass::Outside;
        let (scope, text) = match (policy, is_short) {
            (TrafficPolicy::Cluster, _) => (Scope::Cluster, "Cluster: endpoints on all nodes"),
            (TrafficPolicy::Local, false) => (Scope::Local, "Local: only endpoints on this node"),
            (TrafficPolicy::Local, true) => (
                Scope::Cluster,
                "Local, short-circuit: pods and this node get endpoints on all nodes, as if by way of the load balancer",
            ),
        };
        steps.push(Step::new(Label::Policy, format!("{field} {text}")));
        let query = Query {
            port: &front.port.port,
            protocol: front.port.protocol,
            family: self.table.family,
            scope,
            node: &self.view.node_name,
            zone: self.view.zone(),
        };
        let slices: Vec<_> =
            slices(self.objects).filter(|slice| is_of(slice, &front.port)).collect();
        let explanation = explain(query, &slices);
        steps.push(Step::new(Label::Hints, explanation.hints.to_string()));
        let accounts = explanation.accounts.iter();
        steps.extend(accounts.map(|account| Step::new(Label::Endpoint, account.to_string())));
        let unseen = unseen(self.objects, &front.port.service);
        steps.extend(unseen.into_iter().map(|text| Step::new(Label::Endpoint, text)));
        if slices.is_empty() {
            steps.push(Step::new(Label::Endpoint, "the Service has no EndpointSlice that counts"));
        }
        if reasons.contains(&Reason::NoEndpoints) {
            steps.push(Step::new(Label::Rule, "no usable endpoint on any node: refused"));
        } else if reasons.contains(&Reason::NoLocalEndpoints) {
            let text =
                format!("{field} Local, and the usable endpoints are on other nodes: dropped");
            steps.push(Step::new(Label::Rule, text));
        } else {
            if let SessionAffinity::ClientIp { timeout } = service.session_affinity {
                let text = format!(
                    "sessionAffinity ClientIP: a client keeps its endpoint until it has been silent for {} s",
                    timeout.as_secs()
                );
                steps.push(Step::new(Label::Affinity, text));
            }
            self.masquerade(front, class, reasons, steps);
        }
    }

    fn masquerade(
        &self,
        front: &Front,
        class: SourceClass,
        reasons: &[Reason],
        steps: &mut Vec<Step>,
    ) {
        let why = reasons.iter().find_map(|reason| match reason {
            Reason::Masquerade(why) => Some(*why),
            _ => None,
        });
        let text = match (why, class, front.origin) {
            (Some(why), ..) => format!("yes: {}", because(why)),
            (None, SourceClass::Pod, _) => "no: a pod's address is kept".into(),
            (None, _, Origin::ClusterIp) => {
                "no: nothing says which addresses are pods', so none is taken for off-cluster"
                    .into()
            }
            (None, ..) => "no: externalTrafficPolicy Local keeps the client's address".into(),
        };
        steps.push(Step::new(Label::Masquerade, text));
        if reasons.contains(&Reason::Hairpin) {
            let text = format!(
                "yes, if sent back to {}: {}",
                self.packet.source,
                because(MasqueradeReason::Hairpin)
            );
            steps.push(Step::new(Label::Masquerade, text));
        }
    }

    fn undefined(&self, ip: IpAddr) -> Step {
        let mode = self.view.profile.mode;
        let fate = match self.view.profile.undefined_port {
            UndefinedPort::Reject => "refuses the packet",
            UndefinedPort::Pass => "lets the packet go on",
        };
        let text = format!(
            "{ip} is a Service's cluster IP, but {} is no port of it: mode {mode} {fate}",
            self.addressee()
        );
        Step::new(Label::Rule, text)
    }

    fn service(&self, port: &ServicePortName) -> Option<Service> {
        self.objects.services.get(&port.service).and_then(convert::service)
    }
}

/// Whether a Service says that a front is its own.
fn claims(object: &core::Service, key: FrontKey) -> bool {
    let Some(service) = convert::service(object) else { return false };
    let mut ports = service.ports.iter().filter(|p| p.protocol == key.protocol());
    match key {
        FrontKey::Address { ip, port, .. } => {
            let balanced = service.load_balancer_ingress.iter();
            let is_balanced = balanced.filter(|i| i.mode == IpMode::Vip).any(|i| i.ip == ip);
            let has_ip = service.cluster_ips.contains(&ip) || service.external_ips.contains(&ip);
            (has_ip || is_balanced) && ports.any(|p| p.port.get() == port)
        }
        FrontKey::NodePort { port, .. } => ports.any(|p| p.node_port == Some(port)),
    }
}

fn is_of(slice: &portolan_model::EndpointSlice, port: &ServicePortName) -> bool {
    slice.service == port.service.name && slice.name.namespace == port.service.namespace
}

fn because(reason: MasqueradeReason) -> &'static str {
    match reason {
        MasqueradeReason::MasqueradeAll => "masqueradeAll is set",
        MasqueradeReason::OffCluster => {
            "not from a pod, so that the answer comes back through this node"
        }
        MasqueradeReason::ClusterPolicy => {
            "externalTrafficPolicy Cluster may send it on to another node"
        }
        MasqueradeReason::OwnAddress => "this node sent it, perhaps from the front's own address",
        MasqueradeReason::Hairpin => {
            "an endpoint that reaches itself must not see itself as client"
        }
    }
}

/// Whether a Service says that another proxy serves it, and which.
pub(crate) fn other_proxy(object: &core::Service) -> Option<&str> {
    label(&object.metadata, PROXY_NAME)
}
