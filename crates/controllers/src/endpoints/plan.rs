//! The Endpoints of a Service. Pure.
//!
//! Addresses with the same set of ports share a subset; a pod's address stands in one subset only,
//! among the ready or the not ready. Past a thousand addresses the object is cut and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use crate::endpointslice::endpoint::{AddressType, families, hostname, ips, ports};
use crate::endpointslice::plan::{HEADLESS, TRIGGER_TIME, is_headless};
use crate::object::Meta;
use crate::pod::{is_finished, is_ready, node_name};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const CAPACITY: usize = 1000;

/// What to write.
#[derive(Debug, PartialEq)]
pub(super) enum Write {
    Create(Endpoints),
    Replace(Endpoints),
}

/// A subset's ports: name, number, protocol, application protocol.
type Ports = BTreeSet<(String, i32, String, Option<String>)>;

#[derive(Default)]
struct Subset {
    ready: BTreeMap<String, EndpointAddress>,
    not_ready: BTreeMap<String, EndpointAddress>,
}

/// Plans the Endpoints of `service`, which selects `pods`.
pub(super) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    present: Option<&Endpoints>,
    trigger: Option<Timestamp>,
) -> Option<Write> {
    let (subsets, cut) = subsets(service, pods);
    let mut wanted = present.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    wanted.metadata.labels = Some(labels(service));
    wanted.subsets = (!subsets.is_empty()).then_some(subsets);
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    if cut {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    if annotations.is_empty() {
        wanted.metadata.annotations = None;
    }
    if present.is_some_and(|p| same(p, &wanted)) {
        return None;
    }
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    match trigger {
        Some(trigger) => {
            annotations.insert(TRIGGER_TIME.to_owned(), trigger.to_string());
        }
        None => {
            annotations.remove(TRIGGER_TIME);
        }
    }
    Some(if present.is_some() { Write::Replace(wanted) } else { Write::Create(wanted) })
}

fn same(a: &Endpoints, b: &Endpoints) -> bool {
    let subsets = |e: &Endpoints| e.subsets.clone().unwrap_or_default();
    let annotations = |e: &Endpoints| e.metadata.annotations.clone().unwrap_or_default();
    subsets(a) == subsets(b)
        && a.metadata.labels == b.metadata.labels
        && annotations(a) == annotations(b)
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

/// The subsets, and whether some addresses had to be left out.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let spec = service.spec.clone().unwrap_or_default();
    let publish = spec.publish_not_ready_addresses == Some(true);
    let service_ports = spec.ports.unwrap_or_default();
    let family = families(service).first().copied().unwrap_or(AddressType::IPv4);
    let mut groups: BTreeMap<Ports, Subset> = BTreeMap::new();
    let mut addresses = 0;
    for pod in pods {
        if is_finished(pod) || (pod.is_terminating() && !publish) {
            continue;
        }
        let Some(ip) = ips(pod).find(|ip| ip.contains(':') == (family == AddressType::IPv6)) else {
            continue;
        };
        let ports: Ports = ports(&service_ports, pod)
            .into_iter()
            .filter_map(|p| {
                let protocol = p.protocol.unwrap_or_default();
                Some((p.name.unwrap_or_default(), p.port?, protocol, p.app_protocol))
            })
            .collect();
        // Only a headless Service may have endpoints without ports.
        if ports.is_empty() && !(is_headless(service) && service_ports.is_empty()) {
            continue;
        }
        let address = EndpointAddress {
            ip: ip.to_owned(),
            hostname: hostname(service, pod),
            node_name: node_name(pod).map(str::to_owned),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".to_owned()),
                namespace: pod.metadata.namespace.clone(),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
                ..ObjectReference::default()
            }),
        };
        let group = groups.entry(ports).or_default();
        let side = if publish || is_ready(pod) { &mut group.ready } else { &mut group.not_ready };
        side.insert(format!("{ip} {}", pod.uid()), address);
        addresses += 1;
    }
    // The ready ones are kept first.
    let mut room = CAPACITY;
    let mut keep = |addresses: BTreeMap<String, EndpointAddress>| {
        let kept: Vec<_> = addresses.into_values().take(room).collect();
        room -= kept.len();
        (!kept.is_empty()).then_some(kept)
    };
    let (ports, sides): (Vec<_>, Vec<_>) = groups.into_iter().unzip();
    let (ready, not_ready): (Vec<_>, Vec<_>) =
        sides.into_iter().map(|s| (s.ready, s.not_ready)).unzip();
    let ready: Vec<_> = ready.into_iter().map(&mut keep).collect();
    let not_ready: Vec<_> = not_ready.into_iter().map(&mut keep).collect();
    let subsets = ports
        .into_iter()
        .zip(ready.into_iter().zip(not_ready))
        .filter(|(_, (ready, not_ready))| ready.is_some() || not_ready.is_some())
        .map(|(ports, (addresses, not_ready_addresses))| EndpointSubset {
            addresses,
            not_ready_addresses,
            ports: Some(ports.into_iter().map(api_port).collect())
                .filter(|p: &Vec<_>| !p.is_empty()),
        })
        .collect();
    (subsets, addresses > CAPACITY)
}

fn api_port(
    (name, port, protocol, app_protocol): (String, i32, String, Option<String>),
) -> EndpointPort {
    EndpointPort {
        name: (!name.is_empty()).then_some(name),
        port,
        protocol: Some(protocol),
        app_protocol,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};

    use super::*;
    use crate::testing::{at, labels, meta, pod, ready, terminating, unready, with_ip};

    fn service() -> Service {
        let port = |name: &str, port| ServicePort {
            name: Some(name.into()),
            port,
            ..ServicePort::default()
        };
        Service {
            metadata: meta("ns", "web"),
            spec: Some(ServiceSpec {
                selector: Some(labels(&[("app", "web")])),
                cluster_ip: Some("10.96.0.7".into()),
                ports: Some(vec![port("http", 80), port("https", 443)]),
                ..ServiceSpec::default()
            }),
            status: None,
        }
    }

    fn addressed(n: usize) -> Pod {
        with_ip(pod("ns", &format!("p{n}")), &format!("10.244.{}.{}", n / 250, n % 250 + 1))
    }

    fn created(service: &Service, pods: Vec<Pod>) -> Endpoints {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        match plan(service, &pods, None, Some(at(5))) {
            Some(Write::Create(endpoints)) => endpoints,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_ports_of_one_pod_stand_in_one_subset() {
        let made = created(&service(), vec![ready(addressed(1), 1), unready(addressed(2))]);
        let subsets = made.subsets.unwrap();
        assert_eq!(subsets.len(), 1);
        assert_eq!(subsets[0].ports.as_ref().unwrap().len(), 2);
        assert_eq!(subsets[0].addresses.as_ref().unwrap()[0].ip, "10.244.0.2");
        assert_eq!(subsets[0].not_ready_addresses.as_ref().unwrap()[0].ip, "10.244.0.3");
    }

    #[test]
    fn terminating_pods_are_left_out() {
        assert_eq!(created(&service(), vec![terminating(ready(addressed(1), 1))]).subsets, None);
    }

    #[test]
    fn what_is_right_already_is_not_written() {
        let pods = [Arc::new(ready(addressed(1), 1))];
        let made = created(&service(), vec![ready(addressed(1), 1)]);
        let mut stored = made.clone();
        stored.metadata.annotations = made.metadata.annotations;
        assert_eq!(plan(&service(), &pods, Some(&stored), Some(at(9))), None);
        assert!(matches!(plan(&service(), &[], Some(&stored), None), Some(Write::Replace(_))));
    }

    #[test]
    fn beyond_a_thousand_addresses_the_object_is_cut() {
        let made = created(&service(), (0..1100).map(|n| ready(addressed(n), 1)).collect());
        assert_eq!(made.annotation(OVER_CAPACITY), Some("truncated"));
        assert_eq!(made.subsets.unwrap()[0].addresses.as_ref().unwrap().len(), 1000);
    }
}
